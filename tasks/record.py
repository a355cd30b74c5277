"""The record of a request: what is known about it across runs, crashes and second triggers.

It is found by service, account and request ID alone. It guards the call of the target action,
which may be billed: the intent to call is stored durably before, the answer durably after, so a
run that finds an intent without an answer knows that the outcome is unknown. Prefect's cache
cannot guard that: it takes every read error for a miss, and drops a write that failed.

Only the holder of the request's lock (``tasks.locks``) writes it.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio.to_thread
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faceid.errors import StorageError
from faceid.intake import Form
from faceid.models import CheckedRequest, Outcome, Reply, ResultError, Verdict
from tasks.storage import Storage

FOLDER = "records"


class Intent(BaseModel):
    """A call that was, or was about to be, sent. Stands until its answer is stored."""

    window: int
    at: datetime


class Record(BaseModel):
    """All that is kept about one request."""

    model_config = ConfigDict(validate_assignment=True)

    request_id: str
    target_action: str
    region: str
    generation: str = Field(default_factory=lambda: uuid4().hex)
    """New after the request was forgotten: steps cached before it are not found any more."""
    form_digest: str
    """Of the request as given: with the same one, files need not even be opened."""
    input_digest: str
    """Of the request and its files' contents."""
    fence: int = 0
    """Goes up with every run that takes the request on: a run that was overtaken is told."""
    window: int = 0
    """The number of the window that is open or being opened; 0 before the first."""
    calls: int = 0
    """Target-action requests sent and not throttled, unanswered ones included."""
    tencent_request_ids: list[str] = []
    intent: Intent | None = None
    reply: Reply | None = None
    """The answer, whole. With it the request is done."""
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    """How the last run ended; ``None`` while one is at work, or died."""
    error: ResultError | None = None
    flow_run_ids: list[str] = []
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def note(self, tencent_request_id: str | None) -> None:
        if tencent_request_id and tencent_request_id not in self.tencent_request_ids:
            self.tencent_request_ids.append(tencent_request_id)


def form_digest(form: Form) -> str:
    """Of everything about a request but its files' contents."""
    return _digest([form.action.name, form.request.region, form.locations, form.parameters])


def input_digest(checked: CheckedRequest) -> str:
    """Of everything about a request, wherever its files lie."""
    files = {file.field: file.md5 for file in checked.files}
    return _digest([checked.target_action, checked.region, files, checked.parameters])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


class RecordStore:
    """Records by request ID, of one service and account."""

    def __init__(self, storage: Storage, service: str, account: str) -> None:
        self.storage = storage
        self._folder = f"{FOLDER}/{service}/{account}"

    def name(self, request_id: str) -> str:
        # A digest: the ID may be a person's, and some file systems know no upper case.
        digest = hashlib.sha256(request_id.encode()).hexdigest()
        return f"{self._folder}/{digest[:2]}/{digest}.json"

    async def load(self, request_id: str) -> Record | None:
        """Raises ``StorageError`` when there is one that cannot be read."""
        return await anyio.to_thread.run_sync(self._load, self.name(request_id), request_id)

    async def save(self, record: Record) -> None:
        """Durable when it returns; else ``StorageError``, also when another run took over."""
        record.updated_at = datetime.now(UTC)
        await anyio.to_thread.run_sync(self._save, record)

    def _save(self, record: Record) -> None:
        name = self.name(record.request_id)
        stored = self._load(name, record.request_id)
        if stored is not None and stored.fence > record.fence:
            raise StorageError("Overtaken", "another run has taken this request on")
        self.storage.write(name, record.model_dump(mode="json"))

    def all(self) -> "list[Record]":
        """Every record; for looking one up by something else than its request ID. Blocks."""
        found = (self._load(name) for name in self.storage.names(self._folder))
        return [record for record in found if record is not None]

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
