"""Ctrl-C, Cancel in the dashboard, a worker that is stopped: what a batch does when told to end.

It begins no more requests, and those in flight get some time to come to their end, because a call
that is cut off may be billed and its answer lost. Then, or when it is told again, they are cut off.

Prefect's own way is an exception in the middle of whatever runs, which would cut off all of it.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

DRAIN_SECONDS = 20.0
"""For requests in flight. Prefect's runner kills a run 30 s after it told it to end."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class GracefulShutdown:
    """Hears signals while it is entered, in the main thread's event loop; else it hears none."""

    def __init__(self, stop: Callable[[], None], cut_off: Callable[[], None]) -> None:
        self.heard: signal.Signals | None = None
        """The first signal that came."""
        self._stop = stop
        self._cut_off = cut_off
        self._before: dict[signal.Signals, _Handler] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            self.listen()
        return self

    def listen(self) -> None:
        """Once more: each Prefect flow that begins puts its own handler in place."""
        loop = asyncio.get_running_loop()
        for number in self._before:
            loop.add_signal_handler(number, self._hear, number)

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        for number, handler in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)

    def _hear(self, number: signal.Signals) -> None:
        if self.heard is not None:
            self._cut_off()
            return
        self.heard = number
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._cut_off)
