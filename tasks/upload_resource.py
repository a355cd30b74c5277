"""The second step of a delivery: upload the file to the URL of its ticket."""

from prefect import task

from faceid.models import ResourceFile, Upload, UploadTicket
from tasks.cache import CACHED, PerRequest
from tasks.delivery import Delivery, step_name
from tasks.retries import RETRIES


@task(
    task_run_name=step_name("upload"),
    cache_policy=PerRequest(step="upload"),
    **CACHED,
    **RETRIES,
)
async def upload_resource(delivery: Delivery, ticket: UploadTicket, file: ResourceFile) -> Upload:
    """Upload the file to the URL of its ticket, and return the upload.

    It is safe to repeat this step, because the store overwrites the object. Raises ``WindowOver``
    if the ticket has expired or is about to expire, ``InvalidInput`` if the file has changed since
    it was checked or takes too long to read, and the ``FaceIdError`` that corresponds to an error
    code of the store.
    """
    await delivery.client.learn_clock()
    delivery.require_open(ticket)
    await delivery.client.put_resource(ticket, file, delivery.patience)
    return Upload(ticket, file.md5)
