"""``compose.yaml`` and ``Dockerfile``, as far as they can be checked without a container engine.

``test_topology`` runs the same services as processes.
"""

import re
import subprocess
import sys
from typing import Any

import pytest
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields  # pyright: ignore[reportPrivateUsage]  # Prefect has no public list

from deployments.exec_with_secrets import VARIABLE
from deployments.grace import run_seconds
from deployments.registration.definitions import PACKAGES, read_definitions
from deployments.settings_files import SERVER_SETTINGS, WORKER_SETTINGS
from tasks.settings import DeliverySettings
from tests.deployments.compose import FILE, environment_of, read_compose

COMPOSE = read_compose()
OPERATIONS = (FILE.parents[1] / "docs" / "operations.md").read_text()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "postgres"}


def test_it_is_of_the_form_that_compose_reads():
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
        + [str(FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_has_a_server_on_postgres_and_a_worker():
    assert set(SERVICES) == {"postgres", "server", "deploy", "worker"}
    order = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    assert order == {
        "postgres": {},
        "server": {"postgres": {"condition": "service_healthy"}},
        "deploy": {"server": {"condition": "service_healthy"}},
        "worker": {"deploy": {"condition": "service_completed_successfully"}},
    }
    # The worker cannot reach the database.
    assert "database" not in SERVICES["worker"]["networks"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_stays_is_watched_started_again_and_ended_in_time(name: str):
    service = SERVICES[name]
    if name == "deploy":
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["stop_grace_period"].endswith("s")


def test_a_batch_has_the_time_to_let_what_is_in_flight_finish():
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > run_seconds()
    assert "deployments.worker" in SERVICES["worker"]["command"]


def test_the_worker_takes_the_pool_and_more_runs_than_there_may_be_batches():
    command = SERVICES["worker"]["command"]
    ours = read_definitions().definitions
    assert f"--pool={ours.work_pool.name}" in command
    (limit,) = [int(word.removeprefix("--limit=")) for word in command if "--limit=" in word]
    (batches,) = ours.work_queues
    assert limit >= batches.concurrency_limit + 2


def test_settings_stand_once_and_are_settings():
    known = {name.upper() for name in DeliverySettings.model_fields}
    known = {f"FACEID_{name}" for name in known} | set(_get_settings_fields(Settings))
    own = {name: service.get("environment", {}) for name, service in OURS.items()}
    for name, shared in (("server", SERVER_SETTINGS), ("worker", WORKER_SETTINGS)):
        assert set(shared) <= known
        assert set(own[name]) <= known
        assert not set(own[name]) & set(shared)
        assert environment_of(SERVICES[name]) == shared | own[name]
    # Prefect deletes flow runs after 90 days.
    vacuum = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
    assert vacuum.items() <= own["server"].items()


def test_no_secret_is_in_a_containers_environment_or_command():
    for service in SERVICES.values():
        given = environment_of(service)
        assert not [
            name
            for name in given
            if re.search("KEY|PASSWORD|AUTH|TOKEN|SECRET|CONNECTION_URL", name)
            and name != "POSTGRES_PASSWORD_FILE"
        ]
        # Some of Prefect's clients would send this key instead of the auth string.
        assert "PREFECT_API_KEY" not in given
    for service in OURS.values():
        assert service["command"][:3] == ["python", "-m", "deployments.exec_with_secrets"]
        for secret in service["secrets"]:
            assert VARIABLE.fullmatch(secret["target"])
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in SERVICES.values()
        for secret in service["secrets"]
    }
    assert used == set(COMPOSE["secrets"])
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"secrets/{name}"}
        assert f"> secrets/{name}" in OPERATIONS  # how to create it
        assert f"| `{name}" in OPERATIONS or f", `{name}`" in OPERATIONS  # and how to change it


@pytest.mark.parametrize("name", OURS)
def test_a_container_may_do_what_it_must_and_no_more(name: str):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "user" not in service  # the image sets an unprivileged one


def test_files_of_people_are_read_and_never_written():
    volumes: list[Any] = SERVICES["worker"]["volumes"]
    (files,) = [volume for volume in volumes if "bind" in volume["type"]]
    assert files["read_only"]
    roots = SERVICES["worker"]["environment"]["FACEID_RESOURCE_ROOTS"].split(",")
    assert files["target"] in roots
    # By default, the dashboard can be reached from this machine only.
    assert SERVICES["server"]["ports"] == ["${FACEID_LISTEN:-127.0.0.1:4200}:4200"]


def test_the_image_is_the_locks_and_the_checkouts_and_of_no_root():
    instructions = [
        line
        for line in FILE.with_name("Dockerfile").read_text().replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    installs = [line for line in instructions if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes -r requirements.lock -c requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert not [line for line in installs if "index" in line]
    assert [line for line in instructions if line.startswith(("USER", "FROM"))] == [
        "FROM python:3.11-slim AS build",
        "FROM python:3.11-slim",
        "USER 10001:10001",
    ]
    # A build argument's value would be stored in the image.
    assert not [line for line in instructions if line.startswith("ARG")]


def test_nothing_but_the_code_comes_into_the_image():
    lines = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert taken == {"LICENSE", "README.md", "pyproject.toml", "requirements.lock", *PACKAGES}
    assert {"deployments/secrets", "deployments/faceid.env"} <= set(rules)
