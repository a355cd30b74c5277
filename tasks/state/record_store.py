"""The store of records, which are identified by service, account and request ID.

The holder of the request's lock (``tasks.state.locks``) writes a record, and only over the version
that it knows: a process that was stopped for longer than its lease wakes up without the lock.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import ValidationError

from faceid.errors import StorageError
from faceid.models import CheckedRequest, Service
from faceid.validation import ValidatedRequest
from tasks.state import layout
from tasks.state.documents import Conflict
from tasks.state.records import Record
from tasks.state.storage import Storage
from tasks.state.threads import in_storage_thread


def request_digest(validated: ValidatedRequest) -> str:
    """Return a digest of a request and the locations of its files, but not of their contents."""
    return _digest(
        [validated.action.name, validated.request.region, validated.locations, validated.parameters]
    )


def input_digest(checked: CheckedRequest) -> str:
    """Return a digest of a request and the contents of its files, but not of their locations."""
    files = {file.field: file.md5 for file in checked.files}
    return _digest([checked.target_action, checked.region, files, checked.parameters])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Overtaken(StorageError):
    """Another run or command has written or removed the record since this one loaded it."""

    default_advice = "Deliver the same request again: it continues from what is stored."

    def __init__(self) -> None:
        super().__init__("Overtaken", "another run has claimed this request")


class RecordStore:
    """The records of one service and account, by request ID."""

    def __init__(self, storage: Storage, service: Service, account: str) -> None:
        self.storage = storage
        """The storage that has the records."""
        self.service: Service = service
        """The service that the requests are delivered to."""
        self.account = account
        """The account that the requests are delivered with."""

    def name(self, request_id: str) -> str:
        """Return the name of the request's record in the storage."""
        return layout.record_name(self.service, self.account, request_id)

    async def load(self, request_id: str) -> Record | None:
        """Return the record of a request; ``None`` if there is none.

        Raises ``StorageError`` if the record cannot be read.
        """
        return await in_storage_thread(self._load, self.name(request_id), request_id)

    async def reload(self, record: Record) -> Record | None:
        """Return what is stored now in place of a record that has been stored before.

        Returns ``None`` if the record has been forgotten. Raises ``StorageError`` if nothing can be
        read, or if the folder of the record is gone as well: forgetting leaves it, so the storage
        itself is missing, such as a disk that is not mounted.
        """
        found = await self.load(record.request_id)
        if found is not None:
            return found if found.generation == record.generation else None
        folder, name = self.storage.folder, self.name(record.request_id)
        if folder is not None and not (folder / name).parent.is_dir():
            raise StorageError("StorageUnavailable", f"cannot read {name} (its folder is missing)")
        return None

    async def save(self, record: Record) -> None:
        """Write the record over the version that it was loaded from or last saved as.

        When this returns, the record is on disk, unless it is the first version of a new record.
        Raises ``Overtaken`` if another run or command has written or removed the record since, and
        ``StorageError`` if it cannot be written. In both cases nothing has been written.
        """
        record.touch()
        await in_storage_thread(self._save, record)

    async def remove(self, record: Record) -> None:
        """Remove the record. Raises as ``save`` does."""
        await in_storage_thread(self._remove, record)

    def _save(self, record: Record) -> None:
        # The request is listed as open before its record is, and removed from the list only after
        # its record is closed. A crash in between leaves an extra name, which the sweeper removes.
        was_open = record.was_open
        if record.is_open and not was_open:
            self.storage.write(
                self._open_name(record.request_id), {"request_id": record.request_id}
            )
        # The first version need not be durable: if a power cut removes it, nothing was done yet.
        durable = record.version is not None
        content = record.model_dump(mode="json")
        try:
            record.stored_as(
                self.storage.replace(
                    self.name(record.request_id), content, record.version, durable=durable
                )
            )
        except Conflict:
            raise Overtaken from None
        if was_open and not record.is_open:
            self.storage.remove(self._open_name(record.request_id))

    def _remove(self, record: Record) -> None:
        if record.version is None:
            raise Overtaken
        try:
            self.storage.remove(self.name(record.request_id), record.version)
        except Conflict:
            raise Overtaken from None
        self.storage.remove(self._open_name(record.request_id))

    def _open_name(self, request_id: str) -> str:
        return layout.open_name(self.service, self.account, request_id)

    def close(self, request_id: str) -> None:
        """Remove the mark of an open request that a crash has left behind. Blocks.

        Raises ``StorageError`` if it cannot be removed.
        """
        self.storage.remove(self._open_name(request_id))

    def all(self) -> Iterator[Record]:
        """Yield all records, for searches by something other than the request ID. Blocks.

        Raises ``StorageError`` if a record cannot be read.
        """
        for name in self.storage.names(f"{layout.RECORDS}/{self.service}/{self.account}"):
            if (record := self._load(name)) is not None:
                yield record

    def _load(self, name: str, request_id: str | None = None) -> Record | None:
        found = self.storage.load(name)
        if found is None:
            return None
        try:
            record = Record.model_validate(found.content)
        except ValidationError:
            raise StorageError("DamagedDocument", f"{name} is not a record") from None
        if request_id is not None and record.request_id != request_id:
            raise StorageError("MisplacedDocument", f"{name} is another request's record")
        record.stored_as(found.version)
        return record


def open_requests(storage: Storage, service: Service) -> Iterator[tuple[str, str]]:
    """Yield the account and the request ID of each request that is marked as open. Blocks.

    After a crash, a request may be marked although it is finished. Raises ``StorageError`` if the
    storage cannot be read.
    """
    for name in storage.names(f"{layout.OPEN}/{service}"):
        content = storage.read(name)
        if content is not None:
            yield name.split("/")[2], content["request_id"]
