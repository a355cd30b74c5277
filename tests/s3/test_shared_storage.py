"""Storage that is not on this machine: what it needs before anything is delivered with it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.fernet import Fernet
from prefect import Flow
from prefect.client.schemas.objects import State

from faceid.emulator import Emulator
from faceid.errors import InvalidInput
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.forget import forget
from flows.sweep import sweep
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.shared_storage import KEPT, open_for_runs, try_conditional_writes
from tasks.state.storage import Storage, open_storage
from tests.deployments.command_line import Ended, deliver_tokens
from tests.flows.batches import entry, write
from tests.flows.helpers import calls_of
from tests.sample_request import REQUEST

NOWHERE = "redis://127.0.0.1:1"
"""A Redis server that is never asked, because the store is refused first."""


@pytest.fixture(autouse=True)
def data_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())


@pytest.fixture
def url(bucket: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the storage, in a store that honours conditional writes."""
    monkeypatch.setenv("FACEID_STORAGE", f"s3://{bucket}/storage")
    return f"s3://{bucket}/storage"


Command = Callable[..., Ended]


def assert_refused(ended: Ended, emulator: Emulator, what: str) -> None:
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("faceid: Configuration: ")
    assert what in line
    assert emulator.requests() == []


@pytest.mark.parametrize("command", ["deliver", "batch", "forget", "up"])
def test_without_locks_commands_that_write_records_are_refused(
    url: str,
    emulator: Emulator,
    samples: Path,
    faceid: Command,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
):
    write(samples / "people.jsonl", [entry("p-0")])
    tokens = {
        "deliver": deliver_tokens(),
        "batch": ["batch", "people.jsonl"],
        "forget": ["forget", "r-1"],
        "up": ["up", "--port", "0"],
    }
    ended = faceid(*tokens[command])
    assert_refused(ended, emulator, "FACEID_LOCKS is not set: set it to the redis:// URL")
    monkeypatch.setenv("FACEID_LOCKS", "http://127.0.0.1")
    wrong = faceid(*tokens[command])
    assert_refused(wrong, emulator, "FACEID_LOCKS: must be a redis:// URL")


@pytest.mark.usefixtures("url")
def test_without_locks_records_can_be_read(samples: Path, faceid: Command):
    assert faceid("status", "r-1") == (1, "", "faceid: nothing is known about r-1\n")
    assert faceid("answer", "r-1") == (1, "", "faceid: no answer is stored for r-1\n")
    write(samples / "people.jsonl", [entry("p-0")])
    assert faceid("batch", "--check", "people.jsonl").code == 0


@pytest.mark.parametrize("flow", [deliver, deliver_batch, sweep, forget], ids=lambda f: f.name)
async def test_without_locks_every_flow_says_what_to_set(
    prefect_api: str,
    emulator: Emulator,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flow: Flow[..., Any],
):
    monkeypatch.setenv("FACEID_STORAGE", f"memory://{tmp_path.name}")
    write(samples / "people.jsonl", [entry("p-0")])
    parameters: dict[str, Any] = {"deliver": REQUEST, "deliver-batch": {"manifest": "people.jsonl"}}
    state: State[Any] = await cast("Any", flow)(**parameters.get(flow.name, {}), return_state=True)
    assert state.is_failed()
    assert state.message
    assert state.message.startswith("" if flow is forget else "invalid-input: ")
    assert "Configuration: FACEID_STORAGE is not on this machine and FACEID_LOCKS" in state.message
    assert emulator.requests() == []


@pytest.mark.parametrize("way", ["ignores", "refuses"])
def test_a_store_that_does_not_honour_conditions_is_refused(
    careless: Callable[[str], str],
    emulator: Emulator,
    faceid: Command,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
):
    monkeypatch.setenv("FACEID_STORAGE", f"s3://{careless(way)}/storage")
    monkeypatch.setenv("FACEID_LOCKS", NOWHERE)
    assert_refused(faceid(*deliver_tokens()), emulator, "honour conditional writes (If-Match)")
    found = {one["check"]: one for one in json.loads(faceid("doctor", "--json").out)}
    assert found["storage"]["status"] == "problem"
    assert "conditional writes" in found["storage"]["message"]


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("memory://refused/storage", "honour conditional writes (If-Match)"),
        ("abfs://container/storage", "or an s3:// URL"),  # its package is not installed
    ],
)
def test_another_file_system_is_refused(
    emulator: Emulator, faceid: Command, monkeypatch: pytest.MonkeyPatch, url: str, what: str
):
    monkeypatch.setenv("FACEID_STORAGE", url)
    monkeypatch.setenv("FACEID_LOCKS", NOWHERE)
    assert_refused(faceid(*deliver_tokens()), emulator, what)


def test_the_doctor_shows_where_and_whether_and_when(url: str, faceid: Command):
    ended = faceid("doctor", "--json")
    found = {one["check"]: one for one in json.loads(ended.out)}
    assert found["storage"]["status"] == "ok"
    said = f"{url}, encrypted with our key; conditional writes shown {datetime.now(UTC):%Y-}"
    assert found["storage"]["message"].startswith(said)
    assert found["locks"]["status"] == "problem"
    assert "FACEID_LOCKS is not set" in found["locks"]["message"]
    assert ended.code == 1


@pytest.fixture
def settings(url: str, monkeypatch: pytest.MonkeyPatch) -> DeliverySettings:
    monkeypatch.setenv("FACEID_LOCKS", NOWHERE)
    return DeliverySettings.load()


def kept(storage: Storage) -> dict[str, Any]:
    found = storage.read(layout.TRIAL)
    assert found
    return found


async def test_the_result_of_a_trial_is_kept(settings: DeliverySettings):
    storage = await open_for_runs(settings)
    first = kept(storage)
    await open_for_runs(settings)
    assert kept(storage) == first


@pytest.mark.parametrize(
    "change",
    [
        {"at": (datetime.now(UTC) - KEPT).isoformat()},
        {"at": (datetime.now(UTC) + 2 * KEPT).isoformat()},
        {"place": "another store, from which the documents were copied"},
        {"honoured": False},
    ],
    ids=["old", "from the future", "copied", "a refusal"],
)
async def test_a_result_that_does_not_count_is_found_out_anew(
    settings: DeliverySettings, change: dict[str, Any]
):
    storage = await open_for_runs(settings)
    first = kept(storage)
    storage.write(layout.TRIAL, first | change)
    await open_for_runs(settings)
    now = kept(storage)
    assert (now["place"], now["honoured"]) == (first["place"], True)
    assert now["at"] > first["at"]
    assert datetime.fromisoformat(now["at"]) - datetime.now(UTC) < timedelta(minutes=1)


async def test_a_result_under_another_key_is_found_out_anew(
    settings: DeliverySettings, monkeypatch: pytest.MonkeyPatch
):
    await open_for_runs(settings)
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    assert kept(await open_for_runs(DeliverySettings.load()))["honoured"]


async def test_many_may_try_a_store_at_once(settings: DeliverySettings):
    storage = open_storage(settings)
    trials = (asyncio.to_thread(try_conditional_writes, storage) for _ in range(6))
    assert all(trial.honoured for trial in await asyncio.gather(*trials))
    assert storage.names("") == [layout.TRIAL]


async def test_a_store_that_was_replaced_by_a_careless_one_is_refused(
    settings: DeliverySettings, careless: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    before = kept(await open_for_runs(settings))
    monkeypatch.setenv("FACEID_STORAGE", f"s3://{careless('ignores')}/storage")
    settings = DeliverySettings.load()
    storage = open_storage(settings)
    storage.write(layout.TRIAL, before)  # it came with the other documents
    with pytest.raises(InvalidInput, match="conditional writes"):
        await open_for_runs(settings)
    assert not kept(storage)["honoured"]


@pytest.mark.services
@pytest.mark.usefixtures("url", "own_redis")
def test_two_machines_that_share_a_storage_make_one_call(
    emulator: Emulator, prefect_api: str, tmp_path: Path, faceid: Command
):
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "faceid", *deliver_tokens()],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PREFECT_API_URL": prefect_api,
                "PREFECT_HOME": str(tmp_path / name),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    ended = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ended
    verdicts = [json.loads(out)["verdict"] for out, _ in ended]
    assert verdicts[0] == verdicts[1]
    assert calls_of(emulator) == 1
    storage = open_storage(DeliverySettings.load())
    assert len(storage.names(layout.RECORDS)) == 1
    # What is kept in this machine's folders of Prefect's home concerns no request.
    assert list(tmp_path.glob("*/faceid/locks/*")) == []
    assert faceid("status", REQUEST["request_id"]).code == 0
    assert faceid("forget", REQUEST["request_id"]).code == 0
    assert storage.names(layout.RECORDS) == []
