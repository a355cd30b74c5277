"""The second step: the file goes to its ticket."""

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
    """PUTs the file, unless its ticket is about to run out.

    Safe to repeat: the store overwrites. Raises ``WindowOver``.
    """
    await delivery.client.learn_clock()
    delivery.require_open(ticket)
    await delivery.client.put_resource(ticket, file)
    return Upload(ticket, file.md5)
