"""A record is written only over the version that its writer knows."""

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from faceid.errors import StorageError
from tasks.settings import DeliverySettings
from tasks.state import documents
from tasks.state.record_store import Overtaken, RecordStore
from tasks.state.records import Record
from tasks.state.storage import open_storage
from tests.tasks.record_saves import STALE, claimed, loaded, new_record, refuse_a_stale_save
from tests.tasks.script_processes import next_line

# Loads a record, claims it, says so, and saves it when it is told to.
SAVE = """
import asyncio
import sys
from tests.tasks.record_saves import claimed, loaded
from tests.tasks.test_record_store import open_store
from tasks.state import private_files

async def main():
    store = open_store()
    record = claimed(await loaded(store), "stopped")
    write = private_files.Path.replace

    def stop(path, target):
        print("between the check and the write", flush=True)
        sys.stdin.readline()
        return write(path, target)

    private_files.Path.replace = stop
    try:
        await store.save(record)
        print("saved", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)

asyncio.run(main())
"""


def open_store() -> RecordStore:
    return RecordStore(open_storage(DeliverySettings.load()), "emulator", "default")


def saving_process() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SAVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for an emulator, with the storage in a folder of the test's own."""
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))


@pytest.mark.parametrize("make", STALE, ids=lambda make: make.__name__)
async def test_a_stale_save_is_refused(make: Callable[[RecordStore], Awaitable[Record]]):
    await refuse_a_stale_save(open_store(), make)


async def test_a_run_goes_on_from_its_own_saves():
    store = open_store()
    record = claimed(new_record())
    for _ in range(3):
        await store.save(record)
        record.open_window()
    assert (await loaded(store)).window == 3
    await store.remove(await loaded(store))
    assert await store.load("r-1") is None


async def test_a_run_that_is_stopped_in_mid_write_keeps_others_from_writing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Its check and its write are one step, however long it is stopped in between."""
    store = open_store()
    await store.save(claimed(new_record(), "run-0"))
    monkeypatch.setattr(documents, "LOCK_SECONDS", 0.2)
    with saving_process() as stopped:
        try:
            assert next_line(stopped) == "between the check and the write"
            stopped.send_signal(signal.SIGSTOP)
            mine = claimed(await loaded(store), "run-2")
            with pytest.raises(StorageError, match="another process holds its lock"):
                await store.save(mine)
            stopped.send_signal(signal.SIGCONT)
            assert stopped.stdin
            stopped.stdin.write("\n")
            stopped.stdin.flush()
            assert next_line(stopped) == "saved"
            with pytest.raises(Overtaken):
                await store.save(mine)
        finally:
            stopped.kill()
    assert (await loaded(store)).runs[-1].flow_run_id == "stopped"


async def test_a_run_that_was_killed_in_mid_write_holds_nobody_up():
    store = open_store()
    await store.save(claimed(new_record(), "run-0"))
    with saving_process() as killed:
        assert next_line(killed) == "between the check and the write"
        mine = claimed(await loaded(store), "run-2")
        killed.kill()
    await store.save(mine)
    assert (await loaded(store)).runs[-1].flow_run_id == "run-2"
