"""The flow ``deliver``, which delivers one request. Its entry point is ``flows.deliver.deliver``.

This module defines the flow's parameters and determines its final state; ``flows.delivery.run``
performs the delivery. The flow itself has no retries, but its steps do. If the service is
unavailable for longer than ``FACEID_WAIT_IN_RUN`` seconds, the request is left to a later run
(``flows.delivery.follow_ups``).
"""

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled

from faceid import redaction
from faceid.errors import FaceIdError, InvalidInput
from faceid.files.sources import Patience
from faceid.validation import read_request, validate_request
from flows.delivery.follow_ups import current_run
from flows.delivery.outcome import (
    DeliveryOutcome,
    add_tags,
    finish_delivery,
    misconfigured,
    result_of,
)
from flows.delivery.run import DeliveryOptions, deliver_request, to_its_end
from flows.delivery.shutdown import GracefulShutdown, end_early, is_being_cancelled
from flows.parameters import (
    ActionParameters,
    BlockName,
    FolderText,
    MaxWindows,
    Region,
    RequestIdText,
    Resources,
    TargetActionName,
)
from flows.server.runs import server_unavailable, settings_of_this_run
from tasks.credentials import open_client
from tasks.delivery import OnUnknownOutcome
from tasks.settings import DeliverySettings
from tasks.state.pacing import open_pacers
from tasks.state.record_store import RecordStore
from tasks.state.shared_storage import open_for_runs


@flow(name="deliver", flow_run_name="deliver {request_id}", persist_result=False)
async def deliver(
    request_id: RequestIdText = "",
    target_action: TargetActionName = "",
    region: Region = "",
    resources: Resources = {},  # noqa: B006 - Prefect's form shows the default
    action_parameters: ActionParameters = {},  # noqa: B006 - likewise
    credentials: BlockName = "",
    save_files_to: FolderText = "",
    max_windows: MaxWindows = 12,
    on_unknown_outcome: OnUnknownOutcome = "call_again",
) -> State[Any]:
    """Deliver one request: take its files to the target action, and return its verdict.

    Args:
        request_id: Your own ID for this request: a letter or digit, then up to 63 of
            A-Z a-z 0-9 . _ -
        target_action: The action to call.
        region: Region in which the files are uploaded and the action is called.
        resources: The files that the action takes: paths or any fsspec URLs, such as
            {"ImageUrl": "id-photo.jpg", "VideoUrl": "selfie.mp4"}. Links with a query or a
            password are accepted only in a manifest.
        action_parameters: The action's other parameters, such as {"LivenessType": "SILENT"}.
        credentials: Name of a tencent-credentials block. If empty, the worker's environment is
            used.
        save_files_to: Folder for the files that the answer points to. If empty, they are not
            downloaded.
        max_windows: How many windows of two hours the request may use. Its files are uploaded
            again in each.
        on_unknown_outcome: What to do when the action was called and no answer came. Calling
            again may be billed again.
    """
    redaction.install()
    started_at = datetime.now(UTC)
    try:
        settings = DeliverySettings.load()
    except InvalidInput as error:
        return misconfigured(error)
    ending = DeliveryOutcome()
    with GracefulShutdown(settings.drain_seconds) as shutdown:
        try:
            with server_unavailable():
                settings = await settings_of_this_run(credentials)
                run = await current_run(flow_run.id, settings.service)
                await add_tags(f"request:{request_id}", f"service:{settings.service}")
            request = read_request(
                request_id=request_id,
                target_action=target_action,
                region=region,
                resources=resources,
                action_parameters=action_parameters,
            )
            validated = validate_request(request, settings)
            folder = save_files_to and settings.roots().resolve_folder(
                "save_files_to", save_files_to
            )
            if validated.action.notice:
                get_run_logger().warning("%s: %s", target_action, validated.action.notice)
            storage = await open_for_runs(settings)
            store = RecordStore(storage, settings.service, settings.account)
            pacers = open_pacers(settings, storage, settings.account, priority=True)
            options = DeliveryOptions(folder or None, max_windows, on_unknown_outcome)
            async with open_client(settings, credentials, pacers) as client:
                patience = Patience(settings.source_seconds)
                delivery = deliver_request(
                    validated, client, settings, store, run, options, patience, shutdown.drain
                )
                ending = await to_its_end(delivery, store, request_id, shutdown.drain)
        except FaceIdError as error:
            ending = DeliveryOutcome(failure=error)
        if ending.was_cut_off:
            unknown = ending.record is not None and ending.record.intent is not None
            what = "a call has no answer yet" if unknown else "no call is in flight"
            return await end_early(
                shutdown, f"{what}; the same request goes on from here [{settings.service}]"
            )
        result = result_of(
            ending,
            request_id=request_id,
            target_action=target_action,
            service=settings.service,
            started_at=started_at,
        )
        state = await finish_delivery(result, ending)
        if shutdown.heard and await is_being_cancelled():
            # Prefect accepts no other final state for a run that is being cancelled.
            return Cancelled(message=f"cancelled: {state.message}")
        return state
