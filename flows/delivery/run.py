"""The delivery of one request, from its files to its verdict.

::

    request_upload_url ──> upload_resource ──┐   (once per resource, in parallel)
                                             ├─> check_expiry ──> call_target_action ──> verdict
    (another resource)  ─────────────────────┘        │
                                                      └─ window over ──> a later run, window n+1

``deliver`` delivers one request in this way, and ``deliver-batch`` each request of a manifest.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from faceid.client import FaceIdClient
from faceid.errors import (
    FaceIdError,
    ServiceUnavailable,
    StorageError,
    UrlRefused,
    WindowOver,
)
from faceid.files.sources import Patience
from faceid.models import ResourceFile, Upload, Verdict
from faceid.validation import ValidatedRequest
from flows.delivery.follow_ups import (
    DeliveryDeferred,
    defer_to_next_day,
    defer_to_next_window,
    defer_until_available,
)
from flows.delivery.outcome import CUT_OFF, DeliveryOutcome, error_of, outcome_of
from flows.server.runs import server_unavailable
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.delivery import Delivery, OnUnknownOutcome
from tasks.drain import Drain
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.settings import DeliverySettings
from tasks.state.claims import CurrentRun, claim_request
from tasks.state.limits import LimitReached
from tasks.state.record_store import Overtaken, RecordStore
from tasks.state.records import Record
from tasks.upload_resource import upload_resource


class DeliveryOptions(NamedTuple):
    """Options for the delivery of a request."""

    folder: Path | None = None
    """Folder for the files that the answer links to; ``None`` if they are not to be saved."""
    max_windows: int = 12
    """Maximum number of windows, over all runs of the request."""
    on_unknown_outcome: OnUnknownOutcome = "call_again"
    """What to do if a call was sent and its answer was lost."""
    in_batch: bool = False
    """Whether the request is part of a batch. If so, names of task runs include the request ID, and
    a stored verdict is returned without a task run."""
    on_no_answer: Callable[[], None] | None = None
    """Called after each call that was sent and not answered, if set."""


async def deliver_request(
    validated: ValidatedRequest,
    client: FaceIdClient,
    settings: DeliverySettings,
    store: RecordStore,
    run: CurrentRun,
    options: DeliveryOptions,
    patience: Patience,
    drain: Drain,
) -> DeliveryOutcome:
    """Claim the request, deliver it as far as possible, and return how this ended.

    ``patience`` says how long its sources may take. If the run is told to end, ``drain`` cancels
    the current task at once, or after the call that is in flight. A ``FaceIdError`` is not raised,
    but returned as part of the outcome.
    """
    delivery: Delivery | None = None
    unsaved: FaceIdError | None = None
    try:
        async with claim_request(validated, store, settings, run, patience) as taken:
            delivery = Delivery(
                validated.action,
                client,
                settings,
                store,
                taken,
                patience,
                drain,
                options.on_unknown_outcome,
                wants_files=options.folder is not None,
                in_batch=options.in_batch,
                on_no_answer=options.on_no_answer,
            )
            verdict = await to_verdict(delivery, options.max_windows)
            if options.folder:
                unsaved = await to_files(delivery, verdict, options.folder)
    except DeliveryDeferred as deferred:
        return DeliveryOutcome(_record(delivery), deferred=deferred)
    except FaceIdError as error:
        if delivery is None or not await _was_overtaken(delivery, error):
            return DeliveryOutcome(_record(delivery), failure=error)
        await call_target_action(delivery, None)  # shows the verdict as Cached
    return DeliveryOutcome(_record(delivery), unsaved=unsaved)


async def _was_overtaken(delivery: Delivery, error: FaceIdError) -> bool:
    """Return whether a run that lost its lock has been overtaken by one that got the verdict."""
    if not isinstance(error, StorageError):
        return False
    with suppress(StorageError):  # the error to report is the first one
        return await delivery.finds_verdict()
    return False


async def to_its_end(
    delivery: Coroutine[Any, Any, DeliveryOutcome],
    store: RecordStore,
    request_id: str,
    drain: Drain,
) -> DeliveryOutcome:
    """Await ``deliver_request`` in a task of its own, which ``drain`` may cancel."""
    task = asyncio.create_task(delivery)
    drain.add(task, request_id)
    try:
        return await task
    except asyncio.CancelledError:
        if not drain.told_to_end:
            raise
        return await after_cut_off(store, request_id)


async def after_cut_off(store: RecordStore, request_id: str) -> DeliveryOutcome:
    """Return how a delivery ended that was cancelled because its run was told to end.

    It counts as deferred unless its verdict is stored, because delivering the same request again
    continues it.
    """
    record: Record | None = None
    with suppress(StorageError):  # the next run will report the error
        record = await store.load(request_id)
    if record is not None and record.verdict is not None:
        return DeliveryOutcome(record)
    reason = ServiceUnavailable(CUT_OFF, "the run was told to end")
    return DeliveryOutcome(record, deferred=DeliveryDeferred(reason, None))


def _record(delivery: Delivery | None) -> Record | None:
    return delivery and delivery.record


async def to_verdict(delivery: Delivery, max_windows: int) -> Verdict:
    """Return the stored verdict; without one, deliver the request until it has its verdict.

    At most ``max_windows`` windows are opened, over all runs of the request. Before this ends, the
    outcome is stored in the record. Raises ``DeliveryDeferred`` if the request is left to a later
    run, and ``FaceIdError`` if the delivery failed.
    """
    try:
        return await _to_verdict(delivery, max_windows)
    except Overtaken:
        # Another run has the request in hand, or has brought it to its verdict already.
        if not await delivery.finds_verdict():
            raise
        return await call_target_action(delivery, None)


async def _to_verdict(delivery: Delivery, max_windows: int) -> Verdict:
    record = delivery.record
    url_was_refused = False
    while True:
        try:
            if delivery.in_batch and record.verdict is not None:
                return record.verdict
            if not delivery.may_call:
                return await call_target_action(delivery, None)
            with server_unavailable():  # which the engine of the steps calls
                return await in_one_window(delivery)
        except (WindowOver, UrlRefused) as error:
            # The store may refuse a signed URL once by accident. If it refuses URLs in two
            # successive windows, the request fails.
            again = isinstance(error, WindowOver) or not url_was_refused
            if record.window >= max_windows or not again:
                await end_without_verdict(delivery, error)
                raise
            if isinstance(error, WindowOver) and not delivery.opens_windows:
                raise await defer_to_next_window(delivery, error) from None
            url_was_refused = isinstance(error, UrlRefused)
            record.open_window()
            await delivery.save()
        except LimitReached as error:
            raise await defer_to_next_day(delivery, error) from None
        except FaceIdError as error:
            stored = delivery.record.verdict
            if isinstance(error, ServiceUnavailable) and stored is not None:
                return stored  # only the Prefect server has not heard of it
            deferred = await defer_until_available(delivery, error)
            if deferred is None:
                await end_without_verdict(delivery, error)
                raise
            raise deferred from None


async def to_files(delivery: Delivery, verdict: Verdict, folder: Path) -> FaceIdError | None:
    """Save the files of the answer in ``folder``, and end the run with its verdict.

    If a file cannot be saved, the error is not raised but returned, because the verdict is valid in
    any case.
    """
    unsaved: FaceIdError | None = None
    try:
        if delivery.drain.told_to_end:
            raise ServiceUnavailable(CUT_OFF, "the run was told to end")
        with server_unavailable():
            await save_files(delivery, verdict, folder)
    except FaceIdError as error:
        unsaved = error
    delivery.record.finish()
    with suppress(StorageError):  # the verdict itself is already stored
        await delivery.save()
    return unsaved


async def end_without_verdict(delivery: Delivery, failure: FaceIdError) -> None:
    """End the run as failed, and save the record if possible."""
    error = error_of(failure)
    # If the record has a verdict, the failure is that the answer could not be stored. It is kept,
    # and saved below if the storage works again.
    if delivery.record.verdict is None:
        delivery.record.fail(outcome_of(error), error)
    with suppress(StorageError):  # the caller raises `failure`, not this error
        await delivery.save()


async def in_one_window(delivery: Delivery) -> Verdict:
    """Upload the files of the request, call the action, and return the verdict.

    Raises ``LimitReached`` if the account may not call the action again today, ``WindowOver`` if
    the window is over before the call, ``UrlRefused`` if the store refuses a signed URL, and any
    other ``FaceIdError`` of the steps.
    """
    if delivery.limit:
        await delivery.limit.require()  # so that no file is uploaded in vain
    uploads = await asyncio.gather(
        *(to_upload(delivery, file) for file in delivery.request.files), return_exceptions=True
    )
    await delivery.patience.resume()
    # A failure is raised only after all uploads have ended, so that none continues in the
    # background.
    failures = [upload for upload in uploads if isinstance(upload, BaseException)]
    if failures:
        raise failures[0]
    window = await check_expiry(delivery, [u for u in uploads if isinstance(u, Upload)])
    return await call_target_action(delivery, window)


async def to_upload(delivery: Delivery, file: ResourceFile) -> Upload:
    """Request an upload ticket for a file, upload the file, and return the upload."""
    ticket = await request_upload_url(delivery, file)
    return await upload_resource(delivery, ticket, file)
