"""The spill: answers that the storage has not accepted, kept on this machine until it does.

A spilled answer is the version of the record that its run has in hand. It lies in the folder of
``FACEID_SPILL``, encrypted with the keys of the storage, under a name that tells apart storage,
service, account, request and run. The next run of the request on this machine, or the next sweep,
adds it to the stored record and removes it here.

Reading is strict: a spilled answer that cannot be read is never taken for none, and never removed.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, get_args

import anyio.to_thread
from prefect.settings import PREFECT_HOME
from pydantic import ValidationError

from faceid.errors import StorageError
from faceid.models import Service
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import Storage


class Spilled(NamedTuple):
    """A spilled answer."""

    store: RecordStore
    """The store that its record belongs to."""
    record: Record
    """The record in the version of the run that got the answer."""


class Spill:
    """The spilled answers of one storage, by name.

    All methods block, and raise ``StorageError`` if they fail.
    """

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        """The folder of the spilled answers of all storages."""
        self._storage = storage
        self._files = storage.beside(folder)

    def write(self, store: RecordStore, record: Record) -> str:
        """Write the answer that the last run of a record has in hand, and return its name.

        When this returns, it is on disk.
        """
        last = record.runs[-1]
        # Whoever takes the answer up knows from this that the run did not end with the verdict.
        entry = last.model_copy(update={"outcome": "unavailable"})
        spilled = record.model_copy(update={"runs": (*record.runs[:-1], entry)})
        name = f"{self._stem(store, record.request_id)}{last.flow_run_id}.json"
        self._files.write(name, spilled.model_dump(mode="json"))
        return name

    def of(self, store: RecordStore, request_id: str) -> list[str]:
        """Return the names of the spilled answers of a request."""
        folder, _, stem = self._stem(store, request_id).rpartition("/")
        return [name for name in self._names(folder) if name.rpartition("/")[2].startswith(stem)]

    def all(self, store: RecordStore | None = None) -> list[str]:
        """Return the names of all spilled answers of the storage, or of one of its stores."""
        folder = layout.digest(self._storage.place)
        return self._names(f"{folder}/{store.service}/{store.account}" if store else folder)

    def read(self, name: str) -> Spilled | None:
        """Return a spilled answer; ``None`` if it has been removed in the meantime."""
        try:
            content = self._files.read(name)
        except StorageError as error:
            said = f"a spilled answer in {self.folder}: {error.message}"
            raise StorageError(error.code, said) from None
        if content is None:
            return None
        _, service, account, *_ = name.split("/")
        try:
            record = Record.model_validate(content)
            known: Service = get_args(Service)[get_args(Service).index(service)]  # not any text
        except (ValidationError, ValueError):
            said = f"a spilled answer in {self.folder}: {name} is none"
            raise StorageError("DamagedDocument", said) from None
        return Spilled(RecordStore(self._storage, known, account), record)

    def remove(self, names: Iterable[str]) -> int:
        """Remove spilled answers, and return how many there were."""
        return sum(self._files.remove(name) for name in names)

    def _stem(self, store: RecordStore, request_id: str) -> str:
        return layout.spilled_stem(self._storage.place, store.service, store.account, request_id)

    def _names(self, folder: str) -> list[str]:
        """Return the names of all files in a folder and below it."""

        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                said = f"cannot list the spilled answers in {self.folder} ({error.strerror})"
                raise StorageError("StorageUnavailable", said, advice="Check FACEID_SPILL.")

        found = [
            Path(path, file)
            for path, _, files in os.walk(self.folder / folder, onerror=fail)
            for file in files
            if not file.startswith(".")  # a draft that a killed process has left behind
        ]
        return sorted(str(path.relative_to(self.folder)) for path in found)


def open_spill(settings: DeliverySettings, storage: Storage) -> Spill:
    """Return the spilled answers of a storage on this machine."""
    folder = Path(settings.spill) if settings.spill else PREFECT_HOME.value() / "faceid-spill"
    return Spill(folder, storage)


async def take_up(spill: Spill, store: RecordStore, request_id: str) -> Record | None:
    """Return the stored record of a request, after its spilled answers have been added to it.

    The caller must hold the request's lock. An answer of a request that has been forgotten in the
    meantime is removed. Raises ``StorageError`` if the record cannot be read or written, or if the
    request has no verdict and a spilled answer cannot be read.
    """
    record = await store.load(request_id)
    for name in await anyio.to_thread.run_sync(spill.of, store, request_id):
        try:
            answer = await anyio.to_thread.run_sync(spill.read, name)
        except StorageError:
            if record is not None and record.verdict is not None:
                continue
            raise
        if answer is None:
            continue
        if (found := await store.reload(answer.record)) is not None:
            record = found
            record.take_over(answer.record)
            if record.outcome is None and record.origin is None:
                record.finish()  # no sweep looks after the request of a command
            await store.save(record)
        # Not before the record is on disk. To take up an answer twice changes nothing.
        await anyio.to_thread.run_sync(spill.remove, [name])
    return record
