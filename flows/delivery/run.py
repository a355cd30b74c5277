"""One request, from its files to its verdict.

::

    request_upload_url ──> upload_resource ──┐   (once per resource, in parallel)
                                             ├─> check_expiry ──> call_target_action ──> verdict
    (another resource)  ─────────────────────┘        │
                                                      └─ window over ──> a later run, window n+1

What ``deliver`` does with one request, and ``deliver-batch`` with each of many.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from faceid.client import FaceIdClient
from faceid.errors import FaceIdError, StorageError, UrlRefused, WindowOver
from faceid.models import ResourceFile, Upload, Verdict
from faceid.settings import FaceIdSettings
from faceid.validation import ValidatedRequest
from flows.delivery.follow_ups import DeliveryDeferred, defer_to_next_window, defer_until_available
from flows.delivery.outcome import DeliveryOutcome, error_of, outcome_of
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.delivery import Delivery, OnUnknownOutcome
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.state.claims import CurrentRun, claim_request
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.upload_resource import upload_resource


class DeliveryOptions(NamedTuple):
    """What a caller may say about how a request is delivered."""

    folder: Path | None = None
    """For the files that the answer points to; ``None``: they are not fetched."""
    max_windows: int = 12
    on_unknown_outcome: OnUnknownOutcome = "call_again"
    in_batch: bool = False
    """Then steps are named by the request, too, and a stored verdict is no step."""


async def deliver_request(
    validated: ValidatedRequest,
    client: FaceIdClient,
    settings: FaceIdSettings,
    store: RecordStore,
    run: CurrentRun,
    options: DeliveryOptions,
) -> DeliveryOutcome:
    """Takes the request on, and brings it as far as it goes. Raises none of our errors."""
    record: Record | None = None
    unsaved: FaceIdError | None = None
    try:
        async with claim_request(validated, store, settings, run) as taken:
            record = taken.record
            delivery = Delivery(
                validated.action,
                client,
                settings,
                store,
                taken,
                options.on_unknown_outcome,
                wants_files=options.folder is not None,
                in_batch=options.in_batch,
            )
            verdict = await to_verdict(delivery, options.max_windows)
            if options.folder:
                unsaved = await to_files(delivery, verdict, options.folder)
    except DeliveryDeferred as deferred:
        return DeliveryOutcome(record, deferred=deferred)
    except FaceIdError as error:
        return DeliveryOutcome(record, failure=error)
    return DeliveryOutcome(record, unsaved=unsaved)


async def to_verdict(delivery: Delivery, max_windows: int) -> Verdict:
    """The stored verdict, or that of the window in which the action answered.

    ``max_windows`` at most are opened in the request's life. However it ends, the record says so.
    Raises ``DeliveryDeferred`` when the request is left to a later run.
    """
    record = delivery.record
    url_was_refused = False
    while True:
        try:
            if delivery.in_batch and record.verdict is not None:
                return record.verdict
            if not delivery.may_call:
                return await call_target_action(delivery, None)
            return await in_one_window(delivery)
        except (WindowOver, UrlRefused) as error:
            # The store may refuse a URL that the service signed once; twice is no accident.
            again = isinstance(error, WindowOver) or not url_was_refused
            if record.window >= max_windows or not again:
                await end_without_verdict(delivery, error)
                raise
            if isinstance(error, WindowOver) and not delivery.opens_windows:
                raise await defer_to_next_window(delivery, error) from None
            url_was_refused = isinstance(error, UrlRefused)
            record.open_window()
            await delivery.save()
        except FaceIdError as error:
            deferred = await defer_until_available(delivery, error)
            if deferred is None:
                await end_without_verdict(delivery, error)
                raise
            raise deferred from None


async def to_files(delivery: Delivery, verdict: Verdict, folder: Path) -> FaceIdError | None:
    """Saves what the answer points to. The verdict stands, whatever becomes of that."""
    unsaved: FaceIdError | None = None
    try:
        await save_files(delivery, verdict, folder)
    except FaceIdError as error:
        unsaved = error
    delivery.record.finish()
    with suppress(StorageError):  # the verdict itself is stored
        await delivery.save()
    return unsaved


async def end_without_verdict(delivery: Delivery, failure: FaceIdError) -> None:
    error = error_of(failure)
    delivery.record.fail(outcome_of(error), error)
    with suppress(StorageError):  # what is to be told is the first failure
        await delivery.save()


async def in_one_window(delivery: Delivery) -> Verdict:
    uploads = await asyncio.gather(
        *(to_upload(delivery, file) for file in delivery.request.files), return_exceptions=True
    )
    # All have come to their end before one's failure ends the request: nothing runs on behind it.
    failures = [upload for upload in uploads if isinstance(upload, BaseException)]
    if failures:
        raise failures[0]
    window = await check_expiry(delivery, [u for u in uploads if isinstance(u, Upload)])
    return await call_target_action(delivery, window)


async def to_upload(delivery: Delivery, file: ResourceFile) -> Upload:
    ticket = await request_upload_url(delivery, file)
    return await upload_resource(delivery, ticket, file)
