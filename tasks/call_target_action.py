"""The last step: the target action is called, and its answer read as a verdict."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from faceid.errors import FaceIdError, NoAnswer, OutcomeUnknown, RateLimited
from faceid.models import OpenWindow, Verdict
from faceid.replies import read_verdict
from tasks.delivery import Delivery
from tasks.retries import DELAYS, JITTER, worth_retrying


@task(
    task_run_name="call {delivery.action.name}",
    cache_policy=NO_CACHE,
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_retrying,
)
async def call_target_action(delivery: Delivery, window: OpenWindow) -> Verdict:
    """Calls the target action with the uploads of an open window.

    A negative verdict is a success. A call that was sent and not answered may have been billed:
    it is repeated only where the delivery's ``on_unknown_outcome`` says so, else it raises
    ``OutcomeUnknown``.
    """
    try:
        reply = await delivery.client.call(
            delivery.action.name, delivery.request.region, _fields(delivery, window)
        )
    except NoAnswer as error:
        delivery.calls += 1
        delivery.note(error)
        if delivery.on_unknown_outcome == "stop":
            raise OutcomeUnknown(error.code, error.message, host=error.host) from None
        raise
    except FaceIdError as error:
        # Without a Tencent request ID the call was not sent at all.
        if error.tencent_request_id and not isinstance(error, RateLimited):
            delivery.calls += 1
        delivery.note(error)
        raise
    delivery.calls += 1
    delivery.note(reply.tencent_request_id)
    return read_verdict(delivery.action, reply)


def _fields(delivery: Delivery, window: OpenWindow) -> dict[str, Any]:
    fields = dict(delivery.request.parameters)
    for upload in window.uploads:
        fields[upload.field] = upload.ticket.resource_url.get_secret_value()
        resource = delivery.action.resource(upload.field)
        if resource and resource.md5_field:
            fields[resource.md5_field] = upload.md5
    return fields
