"""The third step: is the window still open, by the server's clock, with time to spare?"""

from datetime import timedelta

from prefect import task

from faceid.errors import WindowOver
from faceid.models import OpenWindow, Upload, UploadTicket
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
        raise_if_over(upload.ticket, delivery)
    delivery.saw_open_window = True
    return OpenWindow(tuple(uploads))


def raise_if_over(ticket: UploadTicket, delivery: Delivery) -> None:
    """Raises ``WindowOver`` when less than the margin is left of the ticket's life.

    The margin is ``FACEID_EXPIRY_MARGIN``, but never more than a tenth of the ticket's life.
    """
    life = ticket.expires_at - ticket.issued_at
    margin = min(timedelta(seconds=delivery.settings.expiry_margin), life / 10)
    left = ticket.expires_at - delivery.client.server_now()
    if left <= margin:
        raise WindowOver(
            "WindowOver",
            f"resource {ticket.field}: the upload ticket has {max(left.total_seconds(), 0):.0f} "
            f"seconds left, and more than {margin.total_seconds():.0f} are needed",
        )
