"""Exact pacing: never more starts in any second than the account may make, and close to that many.

A token bucket of 20 lets 40 through in the first second, and the service counts every second. So a
pacer keeps the times of its last 20 starts: the next one is not before the oldest is a second old,
and a little more, because the network moves requests closer together. Between these, starts are
spaced evenly; one that came late is caught up with. What counts is when the service sees a call: it
is counted from when it left, where a busy process or a new connection kept it back.

The times may be kept in a file: then all processes of a machine that use it share one rate, to the
full, whoever comes and goes. Nothing is reserved, so a process that dies leaves nothing behind.
"""

import asyncio
import fcntl
import math
import mmap
import os
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from faceid.errors import StorageError

GUARD = 0.03
"""By how much a second is stretched. At 19.4 a second no second of the service's held more than 20
(measured; at 19.8 some did)."""

CATCH_UP = 0.2
"""Seconds that a start may be late for the next ones to catch up; after more, nobody had asked."""

LATE = 0.005
"""Seconds that a call may take from its start to the network without anybody being told."""

SLOWER_ONCE, SLOWER, SLOWEST = 1.02, 1.1, 4.0
RECOVERY = 60.0
"""By what factor everybody slows down when the service throttles, and again when it does so before
that is over; at most by how much in all; and seconds until it is over. One throttled call among
thousands is the network's doing. Several in a row mean that somebody else uses the account."""

THROTTLED = 1.0
"""Seconds in which nobody starts anything after the service throttled."""

_HEAD, _DUE, _URGENT, _FACTOR, _SLOWED_AT, _TIMES = range(6)


class Slots:
    """When the last starts were made, and when the next may be: plain numbers in a buffer.

    All times are seconds of one clock, that of ``time.monotonic`` in a process.
    """

    def __init__(self, rate: float, buffer: bytearray | mmap.mmap) -> None:
        self._limit = starts_in_a_span(rate)
        self._span = self._limit / rate * (1 + GUARD)
        self._cells = memoryview(buffer).cast("d")

    def wait(self, now: float, *, priority: bool) -> float:
        """Takes the next start and gives 0; or gives the seconds until it is worth asking again.

        Who has ``priority`` has the next start kept for it while it waits; others go round it.
        """
        cells = self._cells
        factor = self._factor(now)
        span = self._span * factor
        spacing = span / self._limit
        if cells[_DUE] > now + 10 + 3 * span:
            # The clock began anew: the machine was started again since.
            cells[:] = memoryview(bytes(cells.nbytes)).cast("d")
        oldest = cells[_TIMES + int(cells[_HEAD])]
        start = max(cells[_DUE], oldest + span if oldest else 0.0)
        if not priority:
            start = max(start, cells[_URGENT])
        elif start > now:
            cells[_URGENT] = start + spacing / 2
        if start > now:
            return start - now
        cells[_TIMES + int(cells[_HEAD])] = now
        cells[_HEAD] = (int(cells[_HEAD]) + 1) % self._limit
        was_late = now - cells[_DUE] <= CATCH_UP
        cells[_DUE] = (cells[_DUE] if was_late else now) + spacing
        return 0.0

    def move(self, start: float, to: float) -> None:
        """A start that was made later than it was given."""
        for place in range(_TIMES, len(self._cells)):
            if self._cells[place] == start:
                self._cells[place] = to
                return

    def slow_down(self, now: float) -> None:
        """The service throttled: nobody starts anything for a second, and then all go slower.

        Calls that are throttled within one second count once.
        """
        if abs(now - self._cells[_SLOWED_AT]) >= THROTTLED:
            factor = self._factor(now)
            slower = min(factor * SLOWER, SLOWEST) if factor > 1 else SLOWER_ONCE
            self._cells[_FACTOR], self._cells[_SLOWED_AT] = slower, now
        self._cells[_DUE] = max(self._cells[_DUE], now + THROTTLED)

    def _factor(self, now: float) -> float:
        """By how much everything is slower; falls back to 1 while the service throttles nothing."""
        departed = max(0.0, 1 - (now - self._cells[_SLOWED_AT]) / RECOVERY)
        return 1 + max(0.0, self._cells[_FACTOR] - 1) * departed

    def release(self) -> None:
        self._cells.release()


def starts_in_a_span(rate: float) -> int:
    """How many starts are counted together: those of a second, one at least."""
    return max(1, math.floor(rate))


def buffer_size(rate: float) -> int:
    """Bytes."""
    return 8 * (_TIMES + starts_in_a_span(rate))


class Pacer:
    """Gives starts in the order in which they are asked for; for one process alone."""

    def __init__(
        self,
        rate: float,
        *,
        priority: bool = False,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``rate`` is in starts per second, and above 0. With ``priority`` it goes before
        those who deliver batches."""
        self._rate = rate
        self._priority = priority
        self.started: Callable[[], None] | None = None
        """Is called for each start."""
        self._now = now
        self._sleep = sleep
        # One of a process asks at a time: those who go first find few before them.
        self._turn = asyncio.Lock()
        self._buffer = bytearray(buffer_size(rate))

    async def acquire(self) -> float:
        """Returns when the next start may be made, which is to be made at once; gives the time."""
        async with self._turn:
            while True:
                now, wait = await self._ask()
                if not wait:
                    if self.started:
                        self.started()
                    return now
                await self._sleep(wait)

    async def departed(self, start: float, lag: float) -> None:
        """A call leaves ``lag`` seconds after its start was given."""
        if lag > LATE:
            await self._move(start, lag)

    async def _move(self, start: float, lag: float) -> None:
        with self._slots() as slots:
            slots.move(start, start + lag)

    async def throttled(self) -> None:
        """The service refused a start as one too many."""
        with self._slots() as slots:
            slots.slow_down(self._now())

    async def close(self) -> None:
        """Frees what it holds, if anything."""

    async def _ask(self) -> tuple[float, float]:
        """The time, and the seconds until it is worth asking again: 0 when the start is given."""
        with self._slots() as slots:
            now = self._now()  # asked with the file's lock held: starts are in order
            return now, slots.wait(now, priority=self._priority)

    @contextmanager
    def _slots(self) -> Generator[Slots]:
        slots = Slots(self._rate, self._buffer)
        try:
            yield slots
        finally:
            slots.release()


class SharedPacer(Pacer):
    """For all processes of this machine that name the same file.

    The file is made where it is missing; its folder must be there. Raises ``StorageError``.
    """

    def __init__(self, rate: float, path: Path, *, priority: bool = False) -> None:
        super().__init__(rate, priority=priority)
        self.path = path

    @contextmanager
    def _slots(self) -> Generator[Slots]:
        # Opened for each start, which takes some ten microseconds: nothing is left to be closed.
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError("StorageUnavailable", f"cannot pace ({error.strerror})") from None
        try:
            with self._mapped(handle) as buffer:
                slots = Slots(self._rate, buffer)
                try:
                    yield slots
                finally:
                    slots.release()
        finally:
            os.close(handle)

    def _mapped(self, handle: int) -> mmap.mmap:
        """The file's numbers in memory, for us alone until the file is closed."""
        size = buffer_size(self._rate)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_size != size:
                os.ftruncate(handle, 0)  # made for another rate, or never filled
                os.ftruncate(handle, size)
            return mmap.mmap(handle, size)
        except OSError as error:
            raise StorageError("StorageUnavailable", f"cannot pace ({error.strerror})") from None
