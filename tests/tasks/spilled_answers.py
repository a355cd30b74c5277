"""Answers that come while the storage is away, which is a folder of the test's own."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faceid.errors import StorageError
from tasks.settings import DeliverySettings
from tasks.state.answers import keep_answer
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.spill import Spill, open_spill
from tasks.state.storage import open_storage
from tests.tasks.record_saves import PASSED, REPLY, claimed, new_record


def open_both() -> tuple[RecordStore, Spill]:
    settings = DeliverySettings.load()
    storage = open_storage(settings)
    return RecordStore(storage, "emulator", "default"), open_spill(settings, storage)


async def answered(store: RecordStore, run: str = "run-1") -> Record:
    """Return the record of a run whose intent is stored, and whose answer is not."""
    record = claimed(await store.load("r-1") or new_record(), run)
    await store.save(record)
    record.intend_call()
    await store.save(record)
    record.answer(REPLY, PASSED, ends_run=True)
    return record


@contextmanager
def away(folder: Path) -> Generator[None]:
    """Let the storage be missing, as a disk that is not mounted is."""
    folder.rename(folder.with_name("elsewhere"))
    yield
    bring_back(folder)


def bring_back(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    if folder.exists():  # a save has made it for the sake of its lock
        assert files(folder) == []
        shutil.rmtree(folder)
    elsewhere.rename(folder)


async def spilled(store: RecordStore, spill: Spill, storage: Path, run: str = "run-1") -> Record:
    """Let a run get an answer while the storage is away; return the record that it had."""
    record = await answered(store, run)
    with away(storage), pytest.raises(StorageError, match="AnswerSpilled"):
        await keep_answer(store, spill, record, 0)
    return record


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
