"""The emulator's clock, which can be moved.

Windows, objects and the ``Date`` header follow ``now``, which tests can move by hours. Timestamps
of signed calls are compared with ``real``, which cannot be moved, because clients sign with their
own clocks and must be able to sign calls after a test has let windows expire. ``skew`` shifts both
times.
"""

import time
from email.utils import formatdate
from functools import lru_cache

# The limits of the movable clock. Between them, Unix seconds have 10 digits, as documented for
# ExpiredTimestamp.
EARLIEST = 1_000_000_000
LATEST = 9_000_000_000


class Clock:
    """A clock with an offset. All times are in Unix seconds.

    ``skew`` is the number of seconds by which the clock is ahead of this machine's.
    """

    def __init__(self, skew: float = 0) -> None:
        self._skew = skew
        self._moved = 0.0

    def real(self) -> float:
        """Return the real time, including ``skew``."""
        return time.time() + self._skew

    def now(self) -> float:
        """Return the time that decides when windows and objects expire."""
        return time.time() + self._skew + self._moved

    def advance(self, seconds: float) -> float:
        """Move the clock forward by some seconds, and return the new time.

        A negative number moves the clock backwards; objects that have expired do not come back.
        Raises ``ValueError`` if the new time is not within the years 2001 to 2255.
        """
        moved = self.now() + seconds
        if not EARLIEST <= moved <= LATEST:
            raise ValueError("the clock cannot be moved that far")
        self._moved += seconds
        return moved

    def reset(self) -> None:
        """Undo all moves of the clock."""
        self._moved = 0.0

    def date(self) -> bytes:
        """Return the time of the movable clock as a value of the ``Date`` header."""
        return _http_date(int(self.now()))


@lru_cache(maxsize=4)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
