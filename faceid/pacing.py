"""Pacing: as many calls per second as the account's quota allows, and never more.

A start is the permission for one call. A token bucket does not suffice to limit the starts: with a
capacity of 20 tokens it lets up to 40 calls through in the first second, and the service counts the
calls of every second. A pacer for 20 calls per second therefore keeps the times of its last 20
starts, and allows the next start once the oldest one is slightly more than a second old. The extra
time is needed because the network may move calls closer together. Starts are spaced evenly, and a
short delay is caught up. What matters is when the service receives a call: if a busy process or a
new connection holds a call back, its start is moved to the time at which the call left.

``SharedPacer`` keeps the times in a file. All processes of a machine that use the same file share
one rate, and each of them can use all of it while the others are idle. Nothing is reserved for a
process, so a process that dies leaves nothing to clean up.
"""

import asyncio
import fcntl
import logging
import math
import mmap
import os
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from faceid.errors import StorageError

GUARD = 0.03
"""Fraction by which each second is stretched. Measured with a quota of 20 calls per second: at 19.4
calls per second the service never counted more than 20 in a second; at 19.8 it sometimes did."""

CATCH_UP = 0.2
"""Longest delay of a start, in seconds, that the following starts catch up. After a longer delay,
during which no caller wanted a start, the starts continue at their normal spacing."""

LATE = 0.005
"""Seconds between a start and the departure of its call that are ignored. If more time passes, the
start is moved to the departure."""

SLOWER_ONCE, SLOWER, SLOWEST = 1.02, 1.1, 4.0
"""Factors by which the starts slow down. When the service throttles a call at full speed, the
factor becomes ``SLOWER_ONCE``; each further throttled call within ``RECOVERY`` multiplies the
factor by ``SLOWER``, up to ``SLOWEST``. A single throttled call among thousands is caused by the
network; several in a row mean that another program uses the account."""
RECOVERY = 60.0
"""Seconds after the last slow-down within which the starts gradually return to full speed."""

THROTTLED = 1.0
"""Seconds without any start after the service has throttled a call."""

# Positions of the values in the buffer of `Slots`: the index of the oldest start, the time when the
# next start is due, the time before which only callers with priority may start, the slow-down
# factor, the time when it was set, and the first of the times of the last starts.
CAPACITY = 1024
"""How many starts are kept: a rate of more calls per second than this is paced in shorter spans."""

RATE_MEMORY = 60.0
"""Seconds for which the rate of a slower user of the same state counts after its last start."""

_LAYOUT = 2.0
"""Marks a buffer with the layout below. Any other content is discarded."""
_MARK, _HEAD, _DUE, _URGENT, _FACTOR, _SLOWED_AT, _RATE, _RATE_SEEN, _TIMES = range(9)

BUFFER_SIZE = 8 * (_TIMES + CAPACITY)
"""Size in bytes of the buffer of ``Slots``."""

logger = logging.getLogger(__name__)


class Slots:
    """The times of the last starts and of the next one, as floats in a buffer.

    ``rate`` is in starts per second. ``buffer`` has ``BUFFER_SIZE`` bytes; content that is no state
    of a pacer is discarded. All times are in seconds, on the clock of ``time.monotonic``.

    Users with different rates may share a buffer: then the slowest of them counts for all.
    """

    def __init__(self, rate: float, buffer: bytearray | mmap.mmap) -> None:
        self.rate = rate
        """The rate that counts: the own one, or that of a slower user."""
        self._own_rate = rate
        self._cells = memoryview(buffer).cast("d")
        if self._cells[_MARK] != _LAYOUT:
            self._reset()

    def wait(self, now: float, *, priority: bool) -> float:
        """Take the next start and return 0, or return the seconds to wait before asking again.

        ``now`` is the current time. While a caller with ``priority`` waits, the next start is
        reserved for that caller.
        """
        cells = self._cells
        if not self._is_plausible(now):
            self._reset()
        self.rate = self._slowest_rate(now)
        limit = starts_in_a_span(self.rate)
        span = span_of(self.rate) * self._factor(now)
        spacing = span / limit
        oldest = cells[_TIMES + (int(cells[_HEAD]) - limit) % CAPACITY]
        start = max(cells[_DUE], oldest + span if oldest else 0.0)
        if not priority:
            start = max(start, cells[_URGENT])
        elif start > now:
            cells[_URGENT] = start + spacing / 2
        if start > now:
            return start - now
        cells[_TIMES + int(cells[_HEAD])] = now
        cells[_HEAD] = (int(cells[_HEAD]) + 1) % CAPACITY
        was_late = now - cells[_DUE] <= CATCH_UP
        cells[_DUE] = (cells[_DUE] if was_late else now) + spacing
        return 0.0

    def _is_plausible(self, now: float) -> bool:
        """Return whether the state can be one of this clock.

        It is not if the machine was restarted, because its monotonic clock then began again, or if
        the file is damaged. (Comparisons with NaN are false.)
        """
        head, last = self._cells[_HEAD], now + 10 + 3 * span_of(self._own_rate) * SLOWEST
        times = (*self._cells[_DUE : _URGENT + 1], self._cells[_SLOWED_AT], self._cells[_RATE_SEEN])
        newest = self._cells[_TIMES + (int(head) - 1) % CAPACITY] if 0 <= head < CAPACITY else -1.0
        return (
            all(0 <= time <= last for time in (*times, newest))
            and 0 <= self._cells[_FACTOR] <= SLOWEST
            and head == int(head)
        )

    def _slowest_rate(self, now: float) -> float:
        """Return the rate that counts, and remember the own one if that is it."""
        slowest, seen = self._cells[_RATE], self._cells[_RATE_SEEN]
        if 0 < slowest < self._own_rate and now - seen <= RATE_MEMORY:
            return slowest
        self._cells[_RATE], self._cells[_RATE_SEEN] = self._own_rate, now
        return self._own_rate

    def _reset(self) -> None:
        self._cells[:] = memoryview(bytes(self._cells.nbytes)).cast("d")
        self._cells[_MARK] = _LAYOUT

    def move(self, start: float, to: float) -> None:
        """Move the start at the time ``start`` to the later time at which its call left."""
        head = int(self._cells[_HEAD])
        for back in range(1, CAPACITY + 1):  # it is one of the latest
            place = _TIMES + (head - back) % CAPACITY
            if self._cells[place] == start:
                self._cells[place] = to
                return

    def slow_down(self, now: float) -> None:
        """Stop all starts for a second and slow down the following ones, after a throttled call.

        Several calls that are throttled within ``THROTTLED`` seconds slow the starts down once.
        """
        if abs(now - self._cells[_SLOWED_AT]) >= THROTTLED:
            factor = self._factor(now)
            slower = min(factor * SLOWER, SLOWEST) if factor > 1 else SLOWER_ONCE
            self._cells[_FACTOR], self._cells[_SLOWED_AT] = slower, now
        self._cells[_DUE] = max(self._cells[_DUE], now + THROTTLED)

    def _factor(self, now: float) -> float:
        """Return the current slow-down factor. It falls to 1 while no call is throttled."""
        left = max(0.0, 1 - (now - self._cells[_SLOWED_AT]) / RECOVERY)
        return 1 + max(0.0, self._cells[_FACTOR] - 1) * left

    def release(self) -> None:
        """Release the buffer. The object must not be used afterwards."""
        self._cells.release()


def starts_in_a_span(rate: float) -> int:
    """Return how many starts are compared: those of one second, but at least one.

    ``rate`` is in starts per second.
    """
    return min(max(1, math.floor(rate)), CAPACITY)


def span_of(rate: float) -> float:
    """Return the time in seconds within which so many starts may lie at most."""
    return starts_in_a_span(rate) / rate * (1 + GUARD)


class Pacer:
    """Paces the calls of one process, in the order in which they ask.

    ``FaceIdClient`` asks its pacers itself.

    Example::

        pacer = Pacer(20)
        for number in range(3):
            await pacer.acquire()
            print(f"call {number} may start")
    """

    def __init__(
        self,
        rate: float,
        *,
        priority: bool = False,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Create a pacer for ``rate`` starts per second, which must be above 0.

        Pacers with ``priority`` are served before those without, which batches use. ``now`` and
        ``sleep`` replace the clock and the waiting in tests.
        """
        self._rate = rate
        self._priority = priority
        self.started: Callable[[], None] | None = None
        """Called at each start, if set."""
        self._now = now
        self._sleep = sleep
        # One caller of a process asks at a time, so that a pacer with priority in another process
        # competes with few others.
        self._turn = asyncio.Lock()
        self._buffer = bytearray(BUFFER_SIZE)
        self._is_told = False

    async def acquire(self) -> float:
        """Wait until the next start is due, take it and return its time.

        The caller must start its call at once. Raises ``StorageError`` if the pacer's file cannot
        be used.
        """
        async with self._turn:
            while True:
                now, wait = await self._ask()
                if not wait:
                    if self.started:
                        self.started()
                    return now
                await self._sleep(wait)

    async def departed(self, start: float, lag: float) -> None:
        """Report that a call left ``lag`` seconds after its start, which ``acquire`` returned."""
        if lag > LATE:
            await self._move(start, lag)

    async def _move(self, start: float, lag: float) -> None:
        with self._slots() as slots:
            slots.move(start, start + lag)

    async def throttled(self) -> None:
        """Report that the service refused a call because of its rate limit."""
        with self._slots() as slots:
            slots.slow_down(self._now())

    async def close(self) -> None:
        """Close the connections that the pacer holds, if any."""

    async def _ask(self) -> tuple[float, float]:
        """Take the next start if it is due.

        Returns the current time, and the seconds to wait before asking again, which are 0 if the
        start was taken.
        """
        with self._slots() as slots:
            # The clock is read while the file is locked, so that the starts are in order.
            now = self._now()
            wait = slots.wait(now, priority=self._priority)
            self._tell(slots.rate)
            return now, wait

    def _tell(self, rate: float) -> None:
        """Log, once, that another user of the same state has a lower rate."""
        if rate < self._rate and not self._is_told:
            self._is_told = True
            logger.warning(
                "paced at %g calls per second and not at %g: another process has the lower rate "
                "for the same account and action",
                rate,
                self._rate,
            )

    @contextmanager
    def _slots(self) -> Generator[Slots]:
        slots = Slots(self._rate, self._buffer)
        try:
            yield slots
        finally:
            slots.release()


class SharedPacer(Pacer):
    """Paces the calls of all processes of this machine that use the same file.

    The file is created if it is missing; its folder must exist. ``acquire``, ``departed`` and
    ``throttled`` raise ``StorageError`` if the file cannot be used.
    """

    def __init__(self, rate: float, path: Path, *, priority: bool = False) -> None:
        super().__init__(rate, priority=priority)
        self.path = path

    @contextmanager
    def _slots(self) -> Generator[Slots]:
        # Opening the file takes about ten microseconds, so it is not kept open between starts.
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                "StorageUnavailable", f"cannot pace calls ({error.strerror})"
            ) from None
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
        """Return the file mapped into memory, with an exclusive lock until the file is closed."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_size != BUFFER_SIZE:
                os.ftruncate(handle, 0)  # a new file, or one of an earlier version
                os.ftruncate(handle, BUFFER_SIZE)
            return mmap.mmap(handle, BUFFER_SIZE)
        except OSError as error:
            raise StorageError(
                "StorageUnavailable", f"cannot pace calls ({error.strerror})"
            ) from None
