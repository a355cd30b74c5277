"""Taking a request on: one run at a time, from where the last one stopped.

Before the first step a run holds the request's lock and has its record. Here stands the rule for a
request ID that comes with another input than before: refused while a run is at work on it, when a
verdict is stored, or when a call's outcome is unknown; else (the first one failed: a blurry photo,
a wrong file) the new input is taken, in a new window.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

import anyio.to_thread

from faceid.errors import RequestIdConflict
from faceid.models import CheckedRequest
from faceid.settings import FaceIdSettings
from faceid.validation import ValidatedRequest, check_files
from tasks.state import layout
from tasks.state.locks import Waiting, acquire_lock
from tasks.state.record_store import RecordStore, input_digest, request_digest
from tasks.state.records import Origin, Record


class CurrentRun(NamedTuple):
    """The flow run that takes a request on."""

    flow_run_id: str
    origin: Origin | None = None
    """``None`` for a run without a deployment: no other can be scheduled in its place."""


class Claim(NamedTuple):
    """A request in a run's hands."""

    record: Record
    request: CheckedRequest | None
    """``None`` where the request has its verdict: its files are not needed any more."""
    is_follow_up: bool
    """Whether an earlier run left it to this one."""


class _Input:
    """What a caller handed over, measured when it has to be, and then once."""

    def __init__(self, validated: ValidatedRequest) -> None:
        self.validated = validated
        self.digest = request_digest(validated)
        self._checked: CheckedRequest | None = None

    async def checked(self) -> CheckedRequest:
        if self._checked is None:
            self._checked = await anyio.to_thread.run_sync(check_files, self.validated)
        return self._checked

    async def is_that_of(self, record: Record) -> bool:
        """Without opening a file where that can be told without."""
        if record.request_digest == self.digest:
            return True
        return record.input_digest == input_digest(await self.checked())


async def has_verdict(validated: ValidatedRequest, store: RecordStore) -> bool:
    """Whether this very request has its verdict, so that its files are not needed any more."""
    record = await store.load(validated.request.request_id)
    return (
        record is not None
        and record.verdict is not None
        and record.request_digest == request_digest(validated)
    )


def request_lock(
    store: RecordStore, settings: FaceIdSettings, request_id: str, waiting: Waiting
) -> contextlib.AbstractAsyncContextManager[None]:
    """The request's lock, to be held; ``waiting`` is called when it is not free at once."""
    folder = layout.locks_folder(store.storage.folder)
    return acquire_lock(settings.locks, folder, store.name(request_id), waiting)


class LockBusy(Exception):
    """A run is at work on the request."""


async def fail_if_locked() -> None:
    """For ``request_lock``: raises ``LockBusy`` at once."""
    raise LockBusy


async def is_locked(store: RecordStore, settings: FaceIdSettings, request_id: str) -> bool:
    """Whether a run is at work on the request."""
    try:
        async with request_lock(store, settings, request_id, fail_if_locked):
            return False
    except LockBusy:
        return True


@contextlib.asynccontextmanager
async def claim_request(
    validated: ValidatedRequest, store: RecordStore, settings: FaceIdSettings, run: CurrentRun
) -> AsyncGenerator[Claim]:
    """Holds the request; gives its record, and the request where it still has to be delivered.

    Waits for another run that is at work on the same input. Raises ``RequestIdConflict``,
    ``InvalidInput`` for a file, and ``StorageError``.
    """
    given = _Input(validated)
    request_id = validated.request.request_id

    async def waiting() -> None:
        record = await store.load(request_id)
        if record is not None and not await given.is_that_of(record):
            raise _conflict(request_id, "a run is at work on it")

    async with request_lock(store, settings, request_id, waiting):
        record = await store.load(request_id)
        if record is not None and record.verdict is not None:
            if not await given.is_that_of(record):
                raise _conflict(request_id, "it has its verdict")
            checked = None
        else:
            checked = await given.checked()
            record = _continued(record, given, checked)
        is_follow_up = record.claim(run.flow_run_id, run.origin)
        await store.save(record)
        yield Claim(record, checked, is_follow_up)


def _continued(record: Record | None, given: _Input, checked: CheckedRequest) -> Record:
    """The record of a request without a verdict, brought up to this input."""
    request, digest = given.validated.request, input_digest(checked)
    if record is None:
        return Record(
            request_id=request.request_id,
            target_action=request.target_action,
            region=request.region,
            request_digest=given.digest,
            input_digest=digest,
            window=1,
        )
    if record.input_digest != digest:
        if record.intent is not None:
            raise _conflict(request.request_id, "its call's outcome is unknown")
        record.take_input(request.target_action, request.region, digest)
    record.restate(given.digest)
    return record


def _conflict(request_id: str, why: str) -> RequestIdConflict:
    return RequestIdConflict(
        "RequestIdConflict", f"request {request_id} stands for another input, and {why}"
    )
