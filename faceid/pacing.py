"""Exact pacing: at most so many starts in any second, with no burst at the beginning.

A token bucket of 20 lets 40 through in the first second, and the service counts every second. A
pacer gives each start a slot of its own instead. Slots are spaced a little wider than the rate
asks, because the network moves requests closer together: at 19.4 a second none of the service's
seconds held more than 20 (measured; at 19.8 some did).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

HEADROOM = 0.97


class Pacer:
    """Hands out slots in the order in which they are asked for."""

    def __init__(
        self,
        rate: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``rate`` is in starts per second, and above 0."""
        self._spacing = 1 / (rate * HEADROOM)
        self._next = 0.0
        self._now = now
        self._sleep = sleep

    async def slot(self) -> None:
        """Returns when the next start may be made. A caller that gives up has used its slot."""
        now = self._now()
        mine = max(now, self._next)
        self._next = mine + self._spacing
        if mine > now:
            await self._sleep(mine - now)
