"""The first step of a delivery: request an upload ticket for one resource."""

from prefect import task

from faceid.errors import FaceIdError
from faceid.models import ResourceFile, UploadTicket
from tasks.cache import CACHED, PerRequest
from tasks.delivery import Delivery, step_name
from tasks.retries import RETRIES


@task(
    task_run_name=step_name("ticket"),
    cache_policy=PerRequest(step="ticket"),
    **CACHED,
    **RETRIES,
)
async def request_upload_url(delivery: Delivery, file: ResourceFile) -> UploadTicket:
    """Call ``CreateUploadUrl``, and return the upload ticket for the file.

    It is safe to repeat this step, because an unused ticket simply expires. Raises the
    ``FaceIdError`` that corresponds to the service's error code, and ``NoAnswer`` if no readable
    answer came.
    """
    try:
        ticket = await delivery.client.create_upload_url(
            delivery.request.target_action, delivery.request.region, file.field
        )
    except FaceIdError as error:
        delivery.note(error)
        raise
    delivery.note(ticket.tencent_request_id)
    delivery.saw_open_window = True
    return ticket
