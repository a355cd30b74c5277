"""The last step: the target action is called, and its answer read as a verdict.

The call may be billed, so the record stands guard: an answer that is stored is returned, never
asked for again; the intent is on disk before the call, the answer before this step returns.
"""

from typing import Any, cast

from prefect import task
from prefect.states import Completed

from faceid.errors import (
    FaceIdError,
    NoAnswer,
    OutcomeUnknown,
    RateLimited,
    ResourceUnreadable,
    StorageError,
    WindowOver,
)
from faceid.models import OpenWindow, Reply, Verdict
from faceid.replies import read_verdict
from tasks.cache import UNCACHED
from tasks.delivery import Delivery
from tasks.retries import RETRIES


@task(
    task_run_name="call {delivery.action.name}{delivery.suffix}",
    **UNCACHED,
    **RETRIES,
)
async def call_target_action(delivery: Delivery, window: OpenWindow | None) -> Verdict:
    """The verdict: the stored one as ``Cached``, else that of a call with the open window.

    No window is needed where nothing may be called (``Delivery.may_call``). A negative verdict is
    a success. A call that was sent and not answered is repeated only where the delivery's
    ``on_unknown_outcome`` says so, else this raises ``OutcomeUnknown``. Raises ``WindowOver``
    when the uploads ran out meanwhile, ``StorageError`` when the record cannot be trusted: then
    nothing is called.
    """
    record = delivery.record
    if record.verdict is not None:
        # A state, where Prefect types a value: it is what shows `Cached` in the dashboard.
        message = "The verdict was stored by an earlier run."
        return cast("Verdict", Completed(name="Cached", message=message, data=record.verdict))
    if record.intent is not None and delivery.on_unknown_outcome == "stop":
        raise OutcomeUnknown(
            "OutcomeUnknown", f"the call of {record.intent.at:%Y-%m-%d %H:%M:%S} UTC has no answer"
        )
    assert window is not None
    for upload in window.uploads:
        delivery.require_open(upload.ticket)
    await _intend(delivery)
    reply, verdict = await _call(delivery, window)
    # A run that is to save files is not at its end yet.
    record.answer(reply, verdict, ends_run=not delivery.wants_files)
    await delivery.save()
    return verdict


async def _intend(delivery: Delivery) -> None:
    """Stores the intent to call; where that fails, nothing is called and nothing was intended."""
    record = delivery.record
    before = record.intent
    record.intend_call()
    try:
        await delivery.save()
    except StorageError:
        record.withdraw_call(before)
        raise


async def _call(delivery: Delivery, window: OpenWindow) -> tuple[Reply, Verdict]:
    """The answer. Whatever error it raises, the record says truly what is known of the call."""
    record = delivery.record
    try:
        reply = await delivery.client.call(
            delivery.action.name, delivery.request.region, _fields(delivery, window)
        )
        return reply, read_verdict(delivery.action, reply)
    except NoAnswer as error:
        # The intent stands: it may have been done.
        delivery.note(error)
        await delivery.save()
        if delivery.on_unknown_outcome == "stop":
            raise OutcomeUnknown(error.code, error.message, host=error.host) from None
        raise
    except FaceIdError as error:
        is_throttled = isinstance(error, RateLimited)
        record.refuse_call(reached_action=not is_throttled and bool(error.tencent_request_id))
        delivery.note(error)
        await delivery.save()
        if isinstance(error, ResourceUnreadable):
            await _raise_if_gone(delivery, window)
        raise


async def _raise_if_gone(delivery: Delivery, window: OpenWindow) -> None:
    """The service could not read an upload: is that because it is there no more?"""
    for upload in window.uploads:
        delivery.require_open(upload.ticket)
        if not await delivery.client.resource_exists(upload.ticket):
            raise WindowOver("ResourceGone", f"resource {upload.field}: the store has it no more")


def _fields(delivery: Delivery, window: OpenWindow) -> dict[str, Any]:
    fields = dict(delivery.request.parameters)
    for upload in window.uploads:
        fields[upload.field] = upload.ticket.resource_url.get_secret_value()
        resource = delivery.action.resource(upload.field)
        if resource and resource.md5_field:
            fields[resource.md5_field] = upload.md5
    return fields
