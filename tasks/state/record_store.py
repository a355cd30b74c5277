"""Records in the storage: found by service, account and request ID alone.

Only the holder of the request's lock (``tasks.state.locks``) writes a record.
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
    """Of everything about a request but its files' contents."""
    return _digest(
        [validated.action.name, validated.request.region, validated.locations, validated.parameters]
    )


def input_digest(checked: CheckedRequest) -> str:
    """Of everything about a request, wherever its files lie."""
    files = {file.field: file.md5 for file in checked.files}
    return _digest([checked.target_action, checked.region, files, checked.parameters])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


class RecordStore:
    """Records by request ID, of one service and account."""

    def __init__(self, storage: Storage, service: Service, account: str) -> None:
        self.storage = storage
        self.service: Service = service
        self.account = account

    def name(self, request_id: str) -> str:
        return layout.record_name(self.service, self.account, request_id)

    async def load(self, request_id: str) -> Record | None:
        """Raises ``StorageError`` when there is one that cannot be read."""
        return await anyio.to_thread.run_sync(self._load, self.name(request_id), request_id)

    async def save(self, record: Record) -> None:
        """Durable when it returns; else ``StorageError``, also when another run took over."""
        record.touch()
        await anyio.to_thread.run_sync(self._save, record)

    async def remove(self, record: Record) -> None:
        """Raises ``StorageError``."""
        await anyio.to_thread.run_sync(self._remove, record)

    def _save(self, record: Record) -> None:
        name = self.name(record.request_id)
        is_new, was_open = self._before(name, record)
        # Named as open before it is open, and for as long as it may be: a crash in between does no
        # harm.
        if record.is_open and not was_open:
            self.storage.write(
                self._open_name(record.request_id), {"request_id": record.request_id}
            )
        # A request that a power cut takes before anything is known about it was never claimed.
        content = record.model_dump(mode="json")
        record.stored_as(self.storage.write(name, content, durable=not is_new))
        if was_open and not record.is_open:
            self.storage.remove(self._open_name(record.request_id))

    def _before(self, name: str, record: Record) -> tuple[bool, bool]:
        """Whether there is no record yet, and whether the one that is there is open.

        As a rule that is the record as this process wrote it, and it need not be opened.
        """
        if record.sealed and self.storage.holds(name, record.sealed):
            return False, record.was_open
        stored = self._load(name, record.request_id)
        if stored is None:
            return True, False
        if stored.fence > record.fence:
            raise StorageError("Overtaken", "another run has taken this request on")
        return False, stored.is_open

    def _remove(self, record: Record) -> None:
        self.storage.remove(self.name(record.request_id))
        self.storage.remove(self._open_name(record.request_id))

    def _open_name(self, request_id: str) -> str:
        return layout.open_name(self.service, self.account, request_id)

    def close(self, request_id: str) -> None:
        """Takes a name away that a crash left among the open ones. Blocks."""
        self.storage.remove(self._open_name(request_id))

    def all(self) -> Iterator[Record]:
        """Every record; for looking one up by something else than its request ID. Blocks."""
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
            raise StorageError("DamagedDocument", f"{name} is no record") from None
        if request_id is not None and record.request_id != request_id:
            raise StorageError("MisplacedDocument", f"{name} is another request's record")
        return record


def open_requests(storage: Storage, service: Service) -> Iterator[tuple[str, str]]:
    """Account and request ID of each request that is, or a moment ago was, open. Blocks."""
    for name in storage.names(f"{layout.OPEN}/{service}"):
        content = storage.read(name)
        if content is not None:
            yield name.split("/")[2], content["request_id"]
