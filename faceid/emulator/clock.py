"""The emulator's clock, which can be moved.

Windows, objects and the ``Date`` header follow ``now``, which a test moves by hours at once.
The timestamps of signed requests are compared with ``real``, which cannot be moved: a client
signs with its own clock, and must go on working when windows are made to run out. ``skew`` puts
the whole server off, both times alike.
"""

import time
from email.utils import formatdate
from functools import lru_cache

# Unix seconds have 10 digits between these, as the API documents its ExpiredTimestamp.
EARLIEST = 1_000_000_000
LATEST = 9_000_000_000


class Clock:
    """Times are seconds since 1970, as floats."""

    def __init__(self, skew: float = 0) -> None:
        self._skew = skew
        self._moved = 0.0

    def real(self) -> float:
        """The server's idea of the real time."""
        return time.time() + self._skew

    def now(self) -> float:
        """The time by which windows and objects end."""
        return time.time() + self._skew + self._moved

    def advance(self, seconds: float) -> float:
        """Moves ``now``, and returns it. Backwards, too: what has ended does not come back.

        Raises ``ValueError`` when the clock would leave the years 2001 to 2255.
        """
        moved = self.now() + seconds
        if not EARLIEST <= moved <= LATEST:
            raise ValueError("the clock cannot be moved that far")
        self._moved += seconds
        return moved

    def reset(self) -> None:
        self._moved = 0.0

    def date(self) -> bytes:
        """The value of the ``Date`` header."""
        return _http_date(int(self.now()))


@lru_cache(maxsize=4)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
