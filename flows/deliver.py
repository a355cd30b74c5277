"""``deliver``: one request, from its files to its verdict.

::

    request_upload_url ──> upload_resource ──┐   (once per resource, in parallel)
                                             ├─> check_expiry ──> call_target_action ──> verdict
    (another resource)  ─────────────────────┘        │
                                                      └─ window over ──> a later run, window n+1

Entry point ``flows.deliver.deliver``. The flow itself has no retries: its steps have, and what they
cannot mend in a minute is left to a later run (``flows.rerequest``).
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from faceid import redaction
from faceid.errors import FaceIdError, StorageError, UrlRefused, WindowOver
from faceid.intake import check_form, read_request
from faceid.models import REQUEST_ID_PATTERN, ResourceFile, Upload, Verdict
from faceid.resources import resolve_folder
from faceid.settings import FaceIdSettings
from flows.outcome import add_tags, error_of, outcome_of, report, result_of
from flows.rerequest import Waits, leave_closed_window, leave_outage, this_run
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.credentials import load_credentials, open_client
from tasks.delivery import Delivery, OnUnknownOutcome
from tasks.record import Record, RecordStore
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.storage import open_storage
from tasks.take_on import taken_on
from tasks.upload_resource import upload_resource

if TYPE_CHECKING:
    TargetActionName = str
    Region = str
else:
    # The dashboard's form shows a Literal as a list to choose from.
    _ACTIONS = FaceIdSettings.load().target_actions()
    TargetActionName = Literal[tuple(_ACTIONS)]
    Region = Literal[
        tuple(sorted({region for action in _ACTIONS.values() for region in action.regions}))
    ]

# Only the form and the API check the pattern: a Python check would crash the run where the
# flow has a clear line to say.
RequestIdText = Annotated[str, Field(json_schema_extra={"pattern": REQUEST_ID_PATTERN})]


@flow(name="deliver", flow_run_name="deliver {request_id}", persist_result=False)
async def deliver(
    request_id: RequestIdText,
    target_action: TargetActionName,
    region: Region,
    resources: dict[str, str],
    action_parameters: dict[str, str] = {},  # noqa: B006 - Prefect's form shows the default
    credentials: str = "",
    save_files_to: str = "",
    max_windows: Annotated[int, Field(ge=1)] = 12,
    on_unknown_outcome: OnUnknownOutcome = "call_again",
) -> State[Any]:
    """Takes the files of one request to Tencent Cloud Face ID and brings back the verdict.

    Args:
        request_id: Your own key for this request: a letter or digit, then up to 63 of
            A-Z a-z 0-9 . _ -
        target_action: The action that judges the files.
        region: Where the files are uploaded and the action is called.
        resources: The action's URL fields and your files, such as
            {"ImageUrl": "id-photo.jpg", "VideoUrl": "selfie.mp4"}. Any fsspec location.
        action_parameters: The action's other parameters, such as {"LivenessType": "SILENT"}.
        credentials: Name of a tencent-credentials block; empty: the worker's environment.
        save_files_to: Folder for the files that the answer points to; empty: they are not fetched.
        max_windows: How many times at most the files are uploaded afresh when two hours ran out.
        on_unknown_outcome: What to do when the action was called and no answer came. Calling
            again may be billed twice.
    """
    redaction.install()
    started_at = datetime.now(UTC)
    settings = FaceIdSettings.load()
    record: Record | None = None
    failure: FaceIdError | None = None
    waits: Waits | None = None
    unsaved: FaceIdError | None = None
    try:
        run = await this_run(flow_run.id, settings.service)
        await add_tags(f"request:{request_id}", f"service:{settings.service}")
        request = read_request(
            request_id=request_id,
            target_action=target_action,
            region=region,
            resources=resources,
            action_parameters=action_parameters,
        )
        form = check_form(request, settings)
        folder = save_files_to and resolve_folder(
            "save_files_to", save_files_to, settings.resource_roots
        )
        if form.action.notice:
            get_run_logger().warning("%s: %s", target_action, form.action.notice)
        account, keys = await load_credentials(settings, credentials)
        store = RecordStore(open_storage(settings), settings.service, account)
        async with (
            open_client(settings, credentials, keys) as client,
            taken_on(form, store, settings, run) as taken,
        ):
            record = taken.record
            delivery = Delivery(
                form.action,
                client,
                settings,
                account,
                store,
                taken,
                on_unknown_outcome,
                wants_files=bool(folder),
            )
            verdict = await to_verdict(delivery, max_windows)
            if folder:
                unsaved = await to_files(delivery, verdict, folder)
    except Waits as ending:
        waits = ending
    except FaceIdError as error:
        failure = error
    return await report(
        result_of(
            record,
            failure,
            waits,
            request_id=request_id,
            target_action=target_action,
            service=settings.service,
            started_at=started_at,
        ),
        waits,
        unsaved,
    )


async def to_verdict(delivery: Delivery, max_windows: int) -> Verdict:
    """The stored verdict, or that of the window in which the action answered.

    ``max_windows`` at most are opened in the request's life. However it ends, the record says so.
    Raises ``Waits`` when the request is left to a later run.
    """
    record = delivery.record
    url_was_refused = False
    while True:
        try:
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
                raise await leave_closed_window(delivery, error) from None
            url_was_refused = isinstance(error, UrlRefused)
            record.window += 1
            await delivery.save()
        except FaceIdError as error:
            waits = await leave_outage(delivery, error)
            if waits is None:
                await end_without_verdict(delivery, error)
                raise
            raise waits from None


async def to_files(delivery: Delivery, verdict: Verdict, folder: Path) -> FaceIdError | None:
    """Saves what the answer points to. The verdict stands, whatever becomes of that."""
    unsaved: FaceIdError | None = None
    try:
        await save_files(delivery, verdict, folder)
    except FaceIdError as error:
        unsaved = error
    delivery.record.end("verdict")
    with suppress(StorageError):  # the verdict itself is stored
        await delivery.save()
    return unsaved


async def end_without_verdict(delivery: Delivery, failure: FaceIdError) -> None:
    error = error_of(failure)
    delivery.record.end(outcome_of(error), error)
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
