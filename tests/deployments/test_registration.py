"""Registration on a Prefect server: ``prefect.yaml``, ``make deploy`` and ``faceid up``."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from deployments.registration.automations import FILE as AUTOMATIONS
from deployments.registration.definitions import (
    FILE,
    PACKAGES,
    Definition,
    code_version,
    read_definitions,
)
from deployments.registration.register import Registration, register

NAMES = ["deliver/default", "deliver-batch/default", "sweep/default", "forget/default"]
ALL = [
    "block type tencent-credentials",
    "work pool faceid",
    "work queue faceid/batches",
    *(f"deployment {name}" for name in NAMES),
    *(
        f"automation {automation['name']}"
        for automation in yaml.safe_load(AUTOMATIONS.read_text())["automations"]
        if "webhook" not in automation  # the webhook block does not exist
    ),
]


@pytest.fixture
async def client(prefect_api: str) -> AsyncGenerator[PrefectClient]:
    """A client of the tests' Prefect server.

    Everything that this project registers is removed before and after the test.
    """

    async def remove() -> None:
        for automation in await client.read_automations():
            await client.delete_automation(automation.id)
        for name in NAMES:
            try:
                await client.delete_deployment((await client.read_deployment_by_name(name)).id)
            except ObjectNotFound:
                continue
        with suppress(ObjectNotFound):
            await client.delete_work_pool("faceid")
        with suppress(ObjectNotFound):
            slug = "tencent-credentials"
            await client.delete_block_type((await client.read_block_type_by_slug(slug)).id)

    async with get_client() as client:
        await remove()
        yield client
        await remove()


async def refusal(api: str, deployment: UUID, **parameters: Any) -> str:
    """Return the reply with which the API refuses a run with these parameters."""
    url = f"{api}/deployments/{deployment}/create_flow_run"
    async with httpx.AsyncClient() as http:
        refused = await http.post(url, json={"parameters": parameters})
    assert refused.status_code == 409, refused.text
    return refused.text


async def test_everything_is_registered_and_again_changes_nothing(
    client: PrefectClient, prefect_api: str
):
    would_be = await register(pool=True, write=False)
    assert would_be.changes == ALL
    assert would_be.deployments == {}
    first = await register(pool=True)
    assert first.changes == ALL
    assert list(first.deployments) == NAMES
    before = [await client.read_deployment_by_name(name) for name in NAMES]

    again = await register(pool=True)

    assert again == Registration(first.deployments, [])
    after = [await client.read_deployment_by_name(name) for name in NAMES]
    assert after == before
    deliver, batch, sweep, forget = after
    assert {found.work_pool_name for found in after} == {"faceid"}
    assert [found.work_queue_name for found in after] == ["default", "batches"] + ["default"] * 2
    queue = await client.read_work_queue_by_name("batches", work_pool_name="faceid")
    assert queue.concurrency_limit == 2
    assert forget.global_concurrency_limit is not None
    assert forget.global_concurrency_limit.limit == 1
    # With a limit, their runs would be ended after a long outage of the server.
    assert [found.global_concurrency_limit for found in (deliver, batch, sweep)] == [None] * 3
    assert [found.schedules[0].active for found in (sweep, forget)] == [True, False]
    assert {found.version for found in after} == {code_version()}
    assert "no_such_name" in await refusal(prefect_api, sweep.id, no_such_name="x")


async def test_what_people_changed_in_the_dashboard_stays(client: PrefectClient):
    registered = await register(pool=True)
    deliver, sweep = (registered.deployments[f"{name}/default"] for name in ("deliver", "sweep"))
    daily = CronSchedule(cron="0 7 * * *", timezone="Asia/Singapore")
    await client.create_deployment_schedules(deliver, [(daily, True)])
    (schedule,) = await client.read_deployment_schedules(sweep)
    await client.update_deployment_schedule(sweep, schedule.id, active=False)
    queue = await client.read_work_queue_by_name("batches", work_pool_name="faceid")
    await client.update_work_queue(queue.id, concurrency_limit=1)
    await client.pause_deployment(deliver)
    # As if another checkout had registered the deployments.
    for name in NAMES:
        await client.update_deployment(
            registered.deployments[name], DeploymentUpdate(version="old", description="old")
        )

    changed = await register(pool=True)

    assert changed.changes == [f"deployment {name}: version, description" for name in NAMES]
    found = await client.read_deployment(deliver)
    assert [entry.schedule for entry in found.schedules] == [daily]
    assert found.paused
    assert found.description == "Delivers one request, from its files to its verdict."
    (schedule,) = (await client.read_deployment(sweep)).schedules
    assert not schedule.active
    queue = await client.read_work_queue_by_name("batches", work_pool_name="faceid")
    assert queue.concurrency_limit == 1
    assert (await register(pool=True)).changes == []


async def test_the_runner_takes_the_deployments_out_of_the_pool_and_back(client: PrefectClient):
    await register(pool=True)
    out = await register(pool=False)
    moved = [f"deployment {name}: work_pool_name, work_queue_name" for name in NAMES]
    assert out.changes == moved
    for name in NAMES:
        assert (await client.read_deployment_by_name(name)).work_pool_name is None
    assert (await register(pool=False)).changes == []
    assert (await register(pool=True)).changes == moved


def call(*module: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


async def test_prefects_own_command_takes_the_same_file(client: PrefectClient, prefect_api: str):
    await register(pool=True)
    command = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE))
    deployed = await asyncio.to_thread(call, *command, PREFECT_API_URL=prefect_api)
    assert deployed.returncode == 0, deployed.stderr + deployed.stdout
    for name in NAMES:
        assert f"Deployment '{name}'" in deployed.stdout
    # Prefect's command registers everything except what it does not know about.
    left = await register(pool=True, write=False)
    changes = "version, parameter_openapi_schema"
    assert left.changes == [f"deployment {name}: {changes}" for name in NAMES]


def test_without_a_server_the_command_says_so_in_one_line():
    unset = call("deployments.deploy")
    assert (unset.returncode, unset.stdout) == (2, "")
    assert unset.stderr.startswith("faceid: Configuration: PREFECT_API_URL is not set: ")
    assert unset.stderr.count("\n") == 1
    nobody = call("deployments.deploy", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "no Prefect server answers at http://127.0.0.1:9/api" in nobody.stderr
    assert nobody.stderr.count("\n") == 1


def test_what_would_not_be_registered_is_refused():
    (good, *_) = read_definitions().deployments
    with pytest.raises(ValidationError, match="parametres"):
        Definition.model_validate({**good.model_dump(), "parametres": "x"})


def test_the_version_tells_one_checkout_from_another(tmp_path: Path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    module = tmp_path / "flows" / "deliver.py"
    versions: list[str] = []
    for text in ("a = 1", "a = 2", "a = 1"):
        module.write_text(text)
        versions.append(code_version.__wrapped__(tmp_path))
    assert versions[0] == versions[2] != versions[1]
    module.rename(tmp_path / "tasks" / "deliver.py")
    assert code_version.__wrapped__(tmp_path) not in versions
