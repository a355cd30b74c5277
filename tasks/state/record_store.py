"""The store of records, which are identified by service, account and request ID.

Only the run that holds a request's lock (``tasks.state.locks``) may write its record.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import orjson
from pydantic import ValidationError

from faceid.errors import StorageError
from faceid.models import CheckedRequest, Service
from faceid.validation import ValidatedRequest
from tasks.state import layout
from tasks.state.records import Record
from tasks.state.storage import Storage


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
        return await anyio.to_thread.run_sync(self._load, self.name(request_id), request_id)

    async def save(self, record: Record) -> None:
        """Write the record to the storage.

        When this returns, the record survives a power cut, unless it is a new one. Raises
        ``StorageError`` if the record cannot be written, or if another run has claimed the request
        in the meantime.
        """
        record.touch()
        await anyio.to_thread.run_sync(self._save, record)

    async def remove(self, record: Record) -> None:
        """Remove the record from the storage. Raises ``StorageError`` if it cannot be removed."""
        await anyio.to_thread.run_sync(self._remove, record)

    def _save(self, record: Record) -> None:
        name = self.name(record.request_id)
        is_new, was_open = self._before(name, record)
        # The request is marked as open before its record is written, and unmarked only after the
        # record says that it is finished. A crash in between leaves a mark too many, which the
        # sweep removes.
        if record.is_open and not was_open:
            self.storage.write(
                self._open_name(record.request_id), {"request_id": record.request_id}
            )
        # A new record need not be durable: if a power cut removes it, nothing has been done yet.
        content = record.model_dump(mode="json")
        record.stored_as(self.storage.write(name, content, durable=not is_new))
        if was_open and not record.is_open:
            self.storage.remove(self._open_name(record.request_id))

    def _before(self, name: str, record: Record) -> tuple[bool, bool]:
        """Return whether the record is new, and whether the stored record is open.

        Usually the stored record is the one that this process wrote last; it is then not decrypted.
        Raises ``StorageError`` if another run has claimed the request since then.
        """
        if record.sealed and self.storage.holds(name, record.sealed):
            return False, record.was_open
        stored = self._load(name, record.request_id)
        if stored is None:
            return True, False
        if stored.fence > record.fence:
            raise StorageError("Overtaken", "another run has claimed this request")
        return False, stored.is_open

    def _remove(self, record: Record) -> None:
        self.storage.remove(self.name(record.request_id))
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
        content = self.storage.read(name)
        if content is None:
            return None
        try:
            record = Record.model_validate(content)
        except ValidationError:
            raise StorageError("DamagedDocument", f"{name} is not a record") from None
        if request_id is not None and record.request_id != request_id:
            raise StorageError("MisplacedDocument", f"{name} is another request's record")
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
