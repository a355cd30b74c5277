"""Graceful shutdown of a batch on Ctrl-C, Cancel in the dashboard, or a worker that is stopped.

On the first signal, the batch begins no more requests. Requests in flight get ``DRAIN_SECONDS`` to
finish, because a call that is cut off may be billed although its answer is lost. After that time,
or on a second signal, they are cut off.

Prefect's own signal handlers are replaced, because they raise an exception wherever the program
happens to be, which would cut off all requests at once.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

DRAIN_SECONDS = 20.0
"""Time for requests in flight to finish, in seconds. It is less than the 30 seconds after which
Prefect's runner kills a run that was sent SIGTERM."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class GracefulShutdown:
    """Handles termination signals within its context, if that is entered in the main thread.

    ``stop`` is called on the first signal. ``cut_off`` is called ``DRAIN_SECONDS`` after the first
    signal, and on every further signal.
    """

    def __init__(self, stop: Callable[[], None], cut_off: Callable[[], None]) -> None:
        self.heard: signal.Signals | None = None
        """The first signal that was received; ``None`` if there was none."""
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
        """Install the handlers again, because every Prefect flow that begins installs its own."""
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
