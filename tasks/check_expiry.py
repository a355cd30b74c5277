"""The third step of a delivery: check that the window is open for long enough for the call."""

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

    Raises ``WindowOver`` if one of the tickets is not valid for more than ``FACEID_EXPIRY_MARGIN``
    seconds, by the server's clock. The margin must cover the call, because the action downloads the
    files during the call. Raises ``ServiceUnavailable`` if the server's time cannot be learned.
    """
    # If all earlier steps were cached, no reply has shown the server's time yet.
    await delivery.client.learn_clock()
    for upload in uploads:
        delivery.require_open(upload.ticket)
    delivery.saw_open_window = True
    return OpenWindow(tuple(uploads))
