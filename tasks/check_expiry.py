"""The third step: is the window still open, by the server's clock, with time to spare?"""

from prefect import task

from faceid.models import OpenWindow, Upload
from tasks.cache import UNCACHED
from tasks.delivery import Delivery
from tasks.retries import RETRIES


@task(
    task_run_name="check expiry{delivery.suffix}",
    **UNCACHED,
    **RETRIES,
)
async def check_expiry(delivery: Delivery, uploads: list[Upload]) -> OpenWindow:
    """All uploads of a request, each with enough of its life left. Raises ``WindowOver``.

    The action fetches the files while it is called, so the margin must cover the call.
    """
    # Cached steps may have brought us here without a single reply.
    await delivery.client.learn_clock()
    for upload in uploads:
        delivery.require_open(upload.ticket)
    delivery.saw_open_window = True
    return OpenWindow(tuple(uploads))
