"""The server's time, as the replies show it."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class ServerClock:
    """The clock of the server, which may differ from that of this machine."""

    def __init__(self) -> None:
        self.offset = 0.0
        """Seconds by which the server's clock is ahead; 0 until a reply has shown it."""
        self.is_known = False
        """Whether a reply has shown the server's time."""

    def now(self) -> datetime:
        """Return the server's time (± 1 second)."""
        return datetime.fromtimestamp(time.time() + self.offset, UTC)

    def learn(self, date: str) -> None:
        """Learn the time from the ``Date`` header of a reply that has just come."""
        try:
            server = parsedate_to_datetime(date)
        except ValueError:
            return  # a reply of a gateway may lack a valid `Date`
        # `Date` is truncated to whole seconds: on average, the server is half a second ahead.
        self.offset = (server + timedelta(seconds=0.5)).timestamp() - time.time()
        self.is_known = True
