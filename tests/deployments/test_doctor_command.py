"""``faceid doctor`` finds no problem in a running stack, and names everything that is broken."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    temporary_settings,
)

from deployments.checks.server import PARTS
from deployments.registration.register import register
from deployments.settings_files import SERVER_SETTINGS
from deployments.stack import child, free_port, prefect_server
from faceid.emulator import Emulator, EmulatorOptions
from flows.deliver import deliver
from tests.deployments.command_line import Ended
from tests.deployments.stack_processes import running_up
from tests.sample_request import REQUEST
from tests.tasks.spilled_answers import open_both, spilled

Found = dict[str, dict[str, Any]]


@contextmanager
def plain_server(environment: dict[str, str], log: Path) -> Generator[str]:
    """Start an unmodified Prefect server with our settings, and yield its API's URL."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with child("the server", command, environment | SERVER_SETTINGS, log, f"{url}/health"):
        yield url


SERVICE = ("storage", "locks", "limits", "resource roots", "clock", "credentials")


def by_check(output: str) -> Found:
    return {finding["check"]: finding for finding in json.loads(output)}


@pytest.fixture
def doctor(
    emulator: Emulator, faceid: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[int, Found]]:
    """A function that runs ``faceid doctor``; returns the exit code and the findings by check."""
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", ".")

    def look() -> tuple[int, Found]:
        ended = faceid("doctor", "--json")
        secret = emulator.secret_key
        assert secret not in ended.out + ended.err
        return ended.code, by_check(ended.out)

    return look


def problems(found: Found) -> list[str]:
    return [check for check, finding in found.items() if finding["status"] == "problem"]


@pytest.mark.long
def test_a_stack_that_runs_is_well(samples: Path, tmp_path: Path):
    with running_up(tmp_path) as ready:
        environment = {
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_API_URL": ready["api_url"],
            "FACEID_ENDPOINT": ready["endpoint"],
            "TENCENTCLOUD_SECRET_ID": ready["secret_id"],
            "TENCENTCLOUD_SECRET_KEY": ready["secret_key"],
            "FACEID_RESOURCE_ROOTS": str(tmp_path),
        }

        def run(*flags: str, **more: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-m", "faceid", "doctor", *flags]
            return subprocess.run(
                command,
                check=False,
                env=environment | more,
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )

        ended = run("--json")
        found = by_check(ended.stdout)
        parts = [part for part in PARTS if not part.startswith("work ")]
        names = ["server", "server settings", "database", *parts, "worker", *SERVICE]
        names.insert(names.index("locks"), "records")
        assert list(found) == names
        assert {finding["status"] for finding in found.values()} == {"ok"}, ended.stdout
        assert ended.returncode == 0
        lines = run().stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["ok"] * len(found)
        wrong = run("--json", FACEID_ENDPOINT="nonsense")
        assert wrong.returncode == 2
        assert wrong.stdout == ""
        assert "FACEID_ENDPOINT" in wrong.stderr


def test_without_a_server_the_rest_is_looked_at(doctor: Callable[[], tuple[int, Found]]):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, found = doctor()
    assert code == 0
    assert found["server"]["status"] == "warning"
    assert {found[part]["status"] for part in (*PARTS, "worker")} == {"skipped"}
    assert {found[check]["status"] for check in SERVICE} == {"ok"}
    assert found["records"]["status"] == "skipped"


def test_a_storage_that_has_lost_its_records(
    doctor: Callable[[], tuple[int, Found]], prefect_api: str, samples: Path
):
    request_id = (
        f"r-{uuid4().hex}"  # the runs of other tests, whose storage is gone, are named, too
    )
    asyncio.run(cast("Any", deliver)(**REQUEST | {"request_id": request_id}))
    assert request_id not in doctor()[1]["records"]["requests"]
    shutil.rmtree(samples / "storage" / "records")
    _, found = doctor()
    assert found["records"]["status"] == "warning"
    assert found["records"]["requests"][0] == request_id
    assert "records" not in problems(found)


def test_answers_that_wait_for_the_storage_are_counted(
    doctor: Callable[[], tuple[int, Found]], samples: Path
):
    store, spill = open_both()
    asyncio.run(spilled(store, spill, samples / "storage"))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, found = doctor()
    assert code == 0
    assert found["spill"]["status"] == "warning"
    assert found["spill"]["message"] == f"1 answer waits in {spill.folder}"
    spill.remove(spill.all())


@pytest.mark.long
def test_what_a_plain_server_on_sqlite_will_do_under_load(
    doctor: Callable[[], tuple[int, Found]], tmp_path: Path
):
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    with (
        plain_server(environment, tmp_path / "log") as api_url,
        temporary_settings({PREFECT_API_URL: api_url}),
    ):
        _, found = doctor()
        assert found["database"]["status"] == "skipped"
        asyncio.run(register(pool=False))
        code, found = doctor()
    assert (code, problems(found)) == (1, ["worker"])
    assert found["database"]["status"] == "warning"
    assert "503" in found["database"]["message"]
    assert "faceid up" in found["database"]["advice"]


@pytest.mark.services
def test_a_plain_server_on_postgresql_is_well(
    doctor: Callable[[], tuple[int, Found]], tmp_path: Path, database: str
):
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
    }
    with (
        plain_server(environment, tmp_path / "log") as api_url,
        temporary_settings({PREFECT_API_URL: api_url}),
    ):
        asyncio.run(register(pool=False))
        _, found = doctor()
    assert found["database"] == {
        "check": "database",
        "status": "ok",
        "message": "PostgreSQL",
        "advice": "",
        "requests": [],
    }


def test_a_server_that_is_not_there(doctor: Callable[[], tuple[int, Found]]):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        code, found = doctor()
    assert (code, problems(found)) == (1, ["server"])
    assert found["worker"]["status"] == "skipped"


@pytest.mark.long
def test_a_server_with_a_password_and_without_our_settings(
    doctor: Callable[[], tuple[int, Found]], tmp_path: Path
):
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    settings = {"PREFECT_SERVER_API_AUTH_STRING": "somebody:secret"}
    with prefect_server(free_port(), environment, tmp_path / "log", settings) as (_, api_url):
        ours = {PREFECT_API_URL: api_url}
        with temporary_settings(ours | {PREFECT_API_AUTH_STRING: "somebody:else"}):
            code, found = doctor()
        assert (code, problems(found)) == (1, ["server"])
        assert "PREFECT_API_AUTH_STRING" in found["server"]["advice"]
        with temporary_settings(ours | {PREFECT_API_KEY: "pnu_123"}):
            _, found = doctor()
        assert "unset PREFECT_API_KEY" in found["server"]["advice"]
        with temporary_settings(ours | {PREFECT_API_AUTH_STRING: "somebody:secret"}):
            code, found = doctor()
    assert code == 1
    assert found["server"]["status"] == "ok"
    # There is one finding per setting, and `found` contains the last of them.
    assert "PREFECT_SERVER_" in found["server settings"]["advice"]
    assert {found[part]["status"] for part in PARTS} == {"problem", "warning"}
    assert found["deployment"]["advice"] == "register it: make deploy"
    assert found["worker"]["status"] == "skipped"


def test_nobody_takes_the_runs(doctor: Callable[[], tuple[int, Found]], prefect_api: str):
    asyncio.run(register(pool=True))
    code, found = doctor()
    assert (code, problems(found)) == (1, ["worker"])
    assert {found[part]["status"] for part in PARTS} == {"ok"}


async def _pause(pool: str, paused: bool) -> None:
    async with get_client() as client:
        await client.update_work_pool(pool, WorkPoolUpdate(is_paused=paused))


def test_a_pool_that_is_paused(doctor: Callable[[], tuple[int, Found]], prefect_api: str):
    asyncio.run(register(pool=True))
    asyncio.run(_pause("faceid", True))
    _, found = doctor()
    asyncio.run(_pause("faceid", False))
    assert "faceid is paused" in found["worker"]["message"]


@pytest.mark.parametrize("server", ["there", "dead", "unset"])
def test_a_block_that_cannot_be_read_hides_nothing(
    doctor: Callable[[], tuple[int, Found]],
    faceid: Callable[..., Ended],
    prefect_api: str,
    server: str,
):
    url = {"there": prefect_api, "dead": "http://127.0.0.1:1/api", "unset": None}[server]
    with temporary_settings({PREFECT_API_URL: url}):
        ended = faceid("doctor", "--json", "--credentials", "nobodys")
    found = by_check(ended.out)
    assert ended.code == 1
    assert found["credentials"]["status"] == "problem"
    assert found["clock"]["status"] == "skipped"
    assert found["storage"]["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "value", "check", "says"),
    [
        ("TENCENTCLOUD_SECRET_KEY", "wrong", "credentials", "TENCENTCLOUD_SECRET_KEY"),
        ("TENCENTCLOUD_SECRET_ID", "AKIDunknown", "credentials", "TENCENTCLOUD_SECRET_ID"),
        ("FACEID_LOCKS", "redis://127.0.0.1:1", "locks", "FACEID_LOCKS"),
        ("FACEID_STORAGE", "/proc/nowhere", "storage", "FACEID_STORAGE"),
        ("FACEID_DATA_KEY", "no key", "storage", "FACEID_DATA_KEY"),
        ("FACEID_RATES", '{"NoSuchAction": 5}', "limits", "NoSuchAction"),
        ("FACEID_RESOURCE_ROOTS", "", "resource roots", "FACEID_RESOURCE_ROOTS"),
        ("FACEID_RESOURCE_ROOTS", "., /no/folder", "resource roots", "not a folder: /no/folder"),
        ("FACEID_ENDPOINT", "http://127.0.0.1:1", "clock", "cannot connect"),
    ],
)
def test_what_is_broken_is_named(
    doctor: Callable[[], tuple[int, Found]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    check: str,
    says: str,
):
    monkeypatch.setenv(name, value)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, found = doctor()
    expected = "warning" if check in ("limits", "resource roots") else "problem"
    assert found[check]["status"] == expected
    assert says in found[check]["message"] + found[check]["advice"]
    assert code == (1 if expected == "problem" else 0)


def test_records_of_another_key(
    doctor: Callable[[], tuple[int, Found]], prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    asyncio.run(cast("Any", deliver)(**REQUEST))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert doctor()[0] == 0
        monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
        code, found = doctor()
    assert (code, problems(found)) == (1, ["storage"])
    assert "FACEID_DATA_KEY" in found["storage"]["advice"]


def test_a_clock_that_is_off(
    doctor: Callable[[], tuple[int, Found]], monkeypatch: pytest.MonkeyPatch
):
    with (
        Emulator(EmulatorOptions.read(port=0, skew=600)) as ahead,
        temporary_settings(restore_defaults={PREFECT_API_URL}),
    ):
        monkeypatch.setenv("FACEID_ENDPOINT", ahead.url)
        monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", ahead.secret_id)
        monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", ahead.secret_key)
        code, found = doctor()
    assert (code, problems(found)) == (1, ["clock"])
    assert "600 s ahead" in found["clock"]["message"]


def test_what_a_limit_leaves_is_told(
    doctor: Callable[[], tuple[int, Found]],
    faceid: Callable[..., Ended],
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
):
    action = "VideoLivenessCompare"
    monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", f'{{"{action}": 1234}}')
    assert doctor()[1]["limit"]["message"] == f"{action}: 1,234 of 1,234 calls left today (UTC)"
    monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", f'{{"{action}": 0}}')
    found = doctor()[1]["limit"]
    assert (found["status"], found["message"]) == (
        "warning",
        f"{action}: 0 of 0 calls left today (UTC)",
    )
    assert "FACEID_MAX_CALLS_PER_DAY" in found["advice"]
    resources = [f"--resource={field}={path}" for field, path in REQUEST["resources"].items()]
    code, out, err = faceid(
        *("deliver", "--request-id", "r-1", "--action", action, "--region", REQUEST["region"]),
        *("--param", "LivenessType=SILENT", *resources),
    )
    assert code == 4
    assert json.loads(out)["status"] == "waiting"
    assert f"DailyLimit: {action} has its 0 calls of this day; goes on at " in err
