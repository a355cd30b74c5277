"""Claims: only one run at a time works on a request, and it continues where the last run stopped.

Before its first step, a run claims the request: it acquires the request's lock, and loads or
creates its record. An answer that an earlier run has spilled on this machine is added to the record
first. If the request ID was used for a different input before, the claim is refused if
another run is at work on the request, if its verdict is stored, or if the outcome of a call is
unknown. Otherwise the new input replaces the previous one, in a new window. This is the case, for
example, if the request failed because of a blurry photo or a wrong file.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from faceid.errors import RequestIdConflict
from faceid.files.sources import Patience
from faceid.models import CheckedRequest
from faceid.validation import ValidatedRequest, check_files
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.locks import Lease, Waiting, acquire_lock
from tasks.state.record_store import RecordStore, input_digest, request_digest
from tasks.state.records import Origin, Record
from tasks.state.spill import open_spill, take_up


class CurrentRun(NamedTuple):
    """The flow run that claims a request."""

    flow_run_id: str
    """ID of the flow run."""
    origin: Origin | None = None
    """The run's deployment and parameters; ``None`` for a run without a deployment, which cannot
    have a follow-up."""


class Claim(NamedTuple):
    """A request that a run has claimed."""

    record: Record
    """The record of the request, which only this run may change."""
    request: CheckedRequest | None
    """The request with its checked files; ``None`` if it has its verdict, because its files are no
    longer needed."""
    is_follow_up: bool
    """Whether the run is the follow-up that was scheduled for the request."""
    lease: Lease
    """The request's lock, which the run holds."""


class _Input:
    """The input of a request that a run was given. Its files are read only if needed, and once."""

    def __init__(self, validated: ValidatedRequest, patience: Patience) -> None:
        self.validated = validated
        self.patience = patience
        self.digest = request_digest(validated)
        self._checked: CheckedRequest | None = None

    async def checked(self) -> CheckedRequest:
        if self._checked is None:
            self._checked = await check_files(self.validated, self.patience)
            await self.patience.resume()
        return self._checked

    async def is_that_of(self, record: Record) -> bool:
        """Return whether the record's input is the same.

        The files are read only if the request digests differ. Raises ``InvalidInput`` if a file is
        not accepted.
        """
        if record.request_digest == self.digest:
            return True
        return record.input_digest == input_digest(await self.checked())


async def has_verdict(
    validated: ValidatedRequest, store: RecordStore, patience: Patience | None = None
) -> bool:
    """Return whether this request already has its verdict.

    Raises ``RequestIdConflict`` if the verdict is that of a different input, ``InvalidInput`` if a
    file would have to be compared and is not accepted, and ``StorageError`` if the record cannot be
    read.
    """
    record = await store.load(validated.request.request_id)
    return record is not None and await _has_its_verdict(
        record, _Input(validated, patience or Patience())
    )


async def _has_its_verdict(record: Record, given: _Input) -> bool:
    if record.verdict is None:
        return False
    if not await given.is_that_of(record):
        raise _conflict(record.request_id, "it has its verdict")
    return True


def request_lock(
    store: RecordStore, settings: DeliverySettings, request_id: str, waiting: Waiting
) -> contextlib.AbstractAsyncContextManager[Lease]:
    """Return an async context manager that holds the request's lock.

    ``waiting`` is called once if the lock is not free immediately; it may raise an error instead of
    waiting. Entering raises the errors of ``acquire_lock``.
    """
    folder = layout.locks_folder(store.storage.folder)
    return acquire_lock(settings.locks, folder, store.name(request_id), waiting)


class LockBusy(Exception):
    """Raised by ``fail_if_locked``: another run holds the lock."""


async def fail_if_locked() -> None:
    """Raise ``LockBusy``. Pass this as ``waiting`` in order to fail instead of waiting."""
    raise LockBusy


async def is_locked(store: RecordStore, settings: DeliverySettings, request_id: str) -> bool:
    """Return whether a run holds the request's lock, that is, is at work on the request.

    Raises ``StorageError`` if the lock cannot be tried.
    """
    try:
        async with request_lock(store, settings, request_id, fail_if_locked):
            return False
    except LockBusy:
        return True


@contextlib.asynccontextmanager
async def claim_request(
    validated: ValidatedRequest,
    store: RecordStore,
    settings: DeliverySettings,
    run: CurrentRun,
    patience: Patience,
) -> AsyncGenerator[Claim]:
    """Hold the request's lock, and yield the claim.

    This waits while another run is at work on the same input. Raises ``RequestIdConflict`` if the
    request ID was used for a different input that cannot be replaced, ``InvalidInput`` if a file is
    not accepted, and ``StorageError`` if the lock cannot be used or the record cannot be read or
    written.
    """
    given = _Input(validated, patience)
    request_id = validated.request.request_id

    async def waiting() -> None:
        record = await store.load(request_id)
        if record is not None and not await given.is_that_of(record):
            raise _conflict(request_id, "a run is at work on it")

    async with request_lock(store, settings, request_id, waiting) as lease:
        record = await take_up(open_spill(settings, store.storage), store, request_id)
        if record is not None and await _has_its_verdict(record, given):
            checked = None
        else:
            checked = await given.checked()
            record = _continued(record, given, checked)
        is_follow_up = record.claim(run.flow_run_id, run.origin)
        await store.save(record)
        yield Claim(record, checked, is_follow_up, lease)


def _continued(record: Record | None, given: _Input, checked: CheckedRequest) -> Record:
    """Return the record of a request without a verdict, created or updated for the given input.

    Raises ``RequestIdConflict`` if the record has a different input and a call without an answer.
    """
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
        "RequestIdConflict", f"request {request_id} already has a different input, and {why}"
    )
