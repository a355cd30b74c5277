"""Graceful shutdown of a batch on Ctrl-C, Cancel in the dashboard, or a worker that is stopped.

The batch begins no more requests. Those in flight get ``DRAIN_SECONDS`` to finish, because a call
that is cut off may be billed while its answer is lost. After that, or on a second signal, they are
cut off.

Prefect's own handlers raise an exception in the middle of whatever runs, which would cut off
everything at once.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

DRAIN_SECONDS = 20.0
"""Time for requests in flight to finish. Prefect's runner kills a run 30 s after SIGTERM."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class GracefulShutdown:
    """Handles termination signals while entered, in an event loop of the main thread only.

    ``stop`` is called on the first signal; ``cut_off`` on each later one, and ``DRAIN_SECONDS``
    after the first.
    """

    def __init__(self, stop: Callable[[], None], cut_off: Callable[[], None]) -> None:
        self.heard: signal.Signals | None = None
        """The first signal received."""
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
        """Install the handlers again, because each Prefect flow that begins installs its own."""
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
