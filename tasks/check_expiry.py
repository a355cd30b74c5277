"""The third step of a delivery: check that the window is open for long enough."""

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
    """Return the open window with all uploads of the request.

    Raises ``WindowOver`` if, by the server's clock, less than ``FACEID_EXPIRY_MARGIN`` seconds are
    left of one of the tickets. The margin must cover the call, because the action downloads the
    files during the call.
    """
    # If all earlier steps were cached, no reply has told us the server's time yet.
    await delivery.client.learn_clock()
    for upload in uploads:
        delivery.require_open(upload.ticket)
    delivery.saw_open_window = True
    return OpenWindow(tuple(uploads))
