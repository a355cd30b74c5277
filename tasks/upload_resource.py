"""The second step: the file goes to its ticket."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from faceid.models import ResourceFile, Upload, UploadTicket
from tasks.check_expiry import raise_if_over
from tasks.delivery import Delivery
from tasks.retries import DELAYS, JITTER, worth_retrying


@task(
    task_run_name="upload {file.field}",
    cache_policy=NO_CACHE,
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_retrying,
)
async def upload_resource(delivery: Delivery, ticket: UploadTicket, file: ResourceFile) -> Upload:
    """PUTs the file, unless its ticket is about to run out.

    Safe to repeat: the store overwrites. Raises ``WindowOver``.
    """
    raise_if_over(ticket, delivery)
    await delivery.client.put_resource(ticket, file)
    return Upload(ticket, file.md5)
