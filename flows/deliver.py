"""``deliver``: one request, from its files to its verdict.

::

    request_upload_url ──> upload_resource ──┐   (once per resource, in parallel)
                                             ├─> check_expiry ──> call_target_action ──> verdict
    (another resource)  ─────────────────────┘

Entry point ``flows.deliver.deliver``. The flow itself has no retries: its steps have.
"""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from faceid import redaction
from faceid.actions import find_action
from faceid.errors import FaceIdError, UrlRefused, WindowOver
from faceid.intake import check_request, read_request
from faceid.models import (
    REQUEST_ID_PATTERN,
    DeliveryResult,
    ResourceFile,
    ResultError,
    Upload,
    Verdict,
)
from faceid.settings import FaceIdSettings
from flows.outcome import add_tags, report
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.credentials import open_client
from tasks.delivery import Delivery, OnUnknownOutcome
from tasks.request_upload_url import request_upload_url
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
        max_windows: How many times at most the files are uploaded afresh when two hours ran out.
        on_unknown_outcome: What to do when the action was called and no answer came. Calling
            again may be billed twice.
    """
    redaction.install()
    started_at = datetime.now(UTC)
    delivery: Delivery | None = None
    verdict: Verdict | None = None
    failure: FaceIdError | None = None
    settings = FaceIdSettings.load()
    await add_tags(f"request:{request_id}", f"service:{settings.service}")
    try:
        request = read_request(
            request_id=request_id,
            target_action=target_action,
            region=region,
            resources=resources,
            action_parameters=action_parameters,
        )
        checked = await anyio.to_thread.run_sync(check_request, request, settings)
        action = find_action(target_action, settings.target_actions())
        if action.notice:
            get_run_logger().warning("%s: %s", action.name, action.notice)
        async with await open_client(settings, credentials) as client:
            delivery = Delivery(checked, action, client, settings, on_unknown_outcome)
            verdict = await to_verdict(delivery, max_windows)
    except FaceIdError as error:
        failure = error
    return await report(
        DeliveryResult(
            request_id=request_id,
            service=settings.service,
            status="verdict" if failure is None else "failed",
            target_action=target_action,
            verdict=verdict,
            error=failure
            and ResultError(code=failure.code, message=str(failure), kind=failure.kind),
            tencent_request_ids=delivery.tencent_request_ids if delivery else [],
            windows=delivery.window if delivery else 0,
            calls=delivery.calls if delivery else 0,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            flow_run_id=str(flow_run.id),
        )
    )


async def to_verdict(delivery: Delivery, max_windows: int) -> Verdict:
    """Opens windows until the action has answered in one of them, ``max_windows`` at most."""
    url_was_refused = False
    while True:
        delivery.window += 1
        try:
            return await in_one_window(delivery)
        except WindowOver:
            if delivery.window >= max_windows:
                raise
        except UrlRefused:
            # The store may refuse a URL that the service signed once; twice is no accident.
            if delivery.window >= max_windows or url_was_refused:
                raise
            url_was_refused = True


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
