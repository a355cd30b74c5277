"""The record of a request: what is known about it across runs, crashes and second triggers.

It is found by service, account and request ID alone. It guards the call of the target action,
which may be billed: the intent to call is stored durably before, the answer durably after, so a
run that finds an intent without an answer knows that the outcome is unknown. Prefect's cache
cannot guard that: it takes every read error for a miss, and drops a write that failed.

Only the holder of the request's lock (``tasks.state.locks``) writes it.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import anyio.to_thread
import orjson
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from faceid.errors import StorageError
from faceid.models import CheckedRequest, Reply, ResultError, RunEnd, Service, Verdict
from faceid.validation import ValidatedRequest
from tasks.state.storage import Storage

FOLDER = "records"
OPEN_FOLDER = "open"
"""Names the requests that a deployment's runs have still to bring to an end. The sweeper reads
these, and not every record there ever was."""


class Intent(BaseModel):
    """A call that was, or was about to be, sent. Stands until its answer is stored."""

    window: int
    at: datetime


class Origin(BaseModel):
    """What a run was started with, so that another can go on in its place."""

    deployment: str
    """``flow/deployment``: its ID would not outlive the server's database."""
    parameters: dict[str, Any] = Field(repr=False)
    job_variables: dict[str, Any] | None = Field(default=None, repr=False)
    work_queue: str | None = None


class FollowUp(BaseModel):
    """The run that goes on with a request, scheduled or about to be."""

    attempt: int
    previous: str
    """The flow run that left the request to it, or died with it."""
    due: datetime
    flow_run_id: str | None = None
    """``None`` until Prefect has it."""


class Backoff(BaseModel):
    """What kept a request waiting, in a row: an outage, runs that died."""

    since: datetime
    count: int = 0


class RunEntry(BaseModel):
    """A flow run that took the request on."""

    flow_run_id: str
    window: int
    """The number of the window it was in at last."""
    outcome: RunEnd | None = None
    """``None`` while it is at work, or when it died and nobody has noticed yet."""


class _Stored(NamedTuple):
    """A record's last form in the storage."""

    sealed: bytes
    is_open: bool


class Record(BaseModel):
    """All that is kept about one request."""

    model_config = ConfigDict(validate_assignment=True)

    request_id: str
    target_action: str
    region: str
    generation: str = Field(default_factory=lambda: uuid4().hex)
    """New after the request was forgotten: steps cached before it are not found any more."""
    request_digest: str
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
    outcome: RunEnd | None = None
    """How the last run ended; ``None`` while one is at work, or died."""
    error: ResultError | None = None
    runs: list[RunEntry] = []
    """Those that took the request on, in that order."""
    origin: Origin | None = None
    """Of the last run; ``None`` where that had no deployment, and none can be scheduled."""
    follow_up: FollowUp | None = None
    attempt: int = 0
    """Counts the follow-ups of the request's whole life."""
    backoff: Backoff | None = None
    saved_files: list[str] = Field(default=[], repr=False)
    """Where files that the answer points to were saved."""
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    _stored: _Stored | None = PrivateAttr(None)

    @property
    def is_open(self) -> bool:
        """Whether runs of a deployment have still to bring it to an end."""
        return self.origin is not None and self.outcome in (None, "rerequested")

    @property
    def waits_since(self) -> datetime | None:
        """Since when it is held up: by an outage, or by a run that is due and does not begin;
        ``None`` where it does not wait for a later run."""
        if self.outcome != "rerequested":
            return None
        times = [self.backoff.since] if self.backoff else []
        times += [self.follow_up.due] if self.follow_up else []
        return min(times, default=None)

    @property
    def stored(self) -> _Stored | None:
        """As this process wrote it last; ``None`` before it did."""
        return self._stored

    def stored_as(self, sealed: bytes) -> None:
        self._stored = _Stored(sealed, self.is_open)

    def end(self, outcome: RunEnd, error: ResultError | None = None) -> None:
        """How the run that took it on last has ended, and with it, maybe, the request."""
        self.outcome, self.error = outcome, error
        if self.runs[-1].outcome is None:
            self.runs[-1].outcome, self.runs[-1].window = outcome, self.window
        if outcome not in ("rerequested", "crashed"):
            self.backoff = None

    def note(self, tencent_request_id: str | None) -> None:
        if tencent_request_id and tencent_request_id not in self.tencent_request_ids:
            self.tencent_request_ids.append(tencent_request_id)


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
        return f"{FOLDER}/{self._path(request_id)}"

    def _path(self, request_id: str) -> str:
        # A digest: the ID may be a person's, and some file systems know no upper case.
        digest = hashlib.sha256(request_id.encode()).hexdigest()
        return f"{self.service}/{self.account}/{digest[:2]}/{digest}.json"

    async def load(self, request_id: str) -> Record | None:
        """Raises ``StorageError`` when there is one that cannot be read."""
        return await anyio.to_thread.run_sync(self._load, self.name(request_id), request_id)

    async def save(self, record: Record) -> None:
        """Durable when it returns; else ``StorageError``, also when another run took over."""
        record.updated_at = datetime.now(UTC)
        await anyio.to_thread.run_sync(self._save, record)

    async def remove(self, record: Record) -> None:
        """Raises ``StorageError``."""
        await anyio.to_thread.run_sync(self._remove, record)

    def _save(self, record: Record) -> None:
        name = self.name(record.request_id)
        before = self._before(name, record)
        # Named as open before it is, and as long as it may be: a crash in between does no harm.
        was_open = before is not None and before.is_open
        if record.is_open and not was_open:
            self.storage.write(
                self._open_name(record.request_id), {"request_id": record.request_id}
            )
        # A request that a power cut takes before anything is known of it was never taken on.
        content = record.model_dump(mode="json")
        sealed = self.storage.write(name, content, durable=before is not None)
        record.stored_as(sealed)
        if was_open and not record.is_open:
            self.storage.remove(self._open_name(record.request_id))

    def _before(self, name: str, record: Record) -> "_Stored | Record | None":
        """What stands there: as a rule it is what this process wrote, and need not be opened."""
        if record.stored and self.storage.holds(name, record.stored.sealed):
            return record.stored
        stored = self._load(name, record.request_id)
        if stored is not None and stored.fence > record.fence:
            raise StorageError("Overtaken", "another run has taken this request on")
        return stored

    def _remove(self, record: Record) -> None:
        self.storage.remove(self.name(record.request_id))
        self.storage.remove(self._open_name(record.request_id))

    def _open_name(self, request_id: str) -> str:
        return f"{OPEN_FOLDER}/{self._path(request_id)}"

    def close(self, request_id: str) -> None:
        """Takes a name away that a crash left among the open ones. Blocks."""
        self.storage.remove(self._open_name(request_id))

    def all(self) -> Iterator[Record]:
        """Every record; for looking one up by something else than its request ID. Blocks."""
        for name in self.storage.names(f"{FOLDER}/{self.service}/{self.account}"):
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
    for name in storage.names(f"{OPEN_FOLDER}/{service}"):
        content = storage.read(name)
        if content is not None:
            yield name.split("/")[2], content["request_id"]
