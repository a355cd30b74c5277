"""Graceful shutdown of a run on Ctrl-C, Cancel in the dashboard, or a worker that is stopped.

On the first signal, no target action is called any more. Calls in flight get
``FACEID_DRAIN_SECONDS`` to end and to be stored (``tasks.drain``). After that time, or on a second
signal, they are cut off.

Prefect's own signal handlers are replaced, because they raise an exception wherever the program
happens to be, which would cut off all calls at once.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any, Self

from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled

from faceid.errors import StorageError
from tasks.drain import Drain

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None

SAY: ContextVar[Callable[[str], None] | None] = ContextVar("SAY", default=None)
"""Called with the lines that tell how a run ends; by default, they go to the run's log."""


def is_of_worker() -> bool:
    """Return whether a worker has started this process for the run.

    If so, a signal comes from the worker, and a run that did not finish is continued later.
    Otherwise it comes from the person who started the command or program.
    """
    return "PREFECT__FLOW_RUN_ID" in os.environ


class GracefulShutdown:
    """Ends a run gently when it is told to, by a signal or by ``begin``.

    Signals are handled within its context, if that is entered in the main thread. ``seconds`` is
    the time that calls in flight have to end.
    """

    def __init__(self, seconds: float) -> None:
        self.drain = Drain()
        """The deliveries that are told to end."""
        self.heard: signal.Signals | None = None
        """The first signal that was received; ``None`` if there was none."""
        self.cut_off: list[str] = []
        """IDs of the requests whose call was cut off."""
        self._seconds = seconds
        self._before: dict[signal.Signals, _Handler] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            # `nohup` ignores SIGHUP, so that the program survives its terminal.
            if before[signal.SIGHUP] is signal.SIG_IGN:
                del before[signal.SIGHUP]
            self._before = before
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
        _TASK_RUNS.removeFilter(_is_no_crash)
        self.stop_listening()

    def stop_listening(self) -> None:
        """Install the handlers again that were there before."""
        loop = asyncio.get_running_loop()
        while self._before:
            number, handler = self._before.popitem()
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)

    def begin(self) -> None:
        """Tell the run to end."""
        if self.drain.told_to_end:
            return
        _TASK_RUNS.addFilter(_is_no_crash)
        self.drain.tell_to_end()
        if calls := len(self.drain.in_flight):
            what = "1 call" if calls == 1 else f"{calls} calls"
            again = "" if is_of_worker() else "; interrupt again to cut off"
            _say(f"stopping: {what} in flight, up to {self._seconds:g} seconds to end{again}")
        else:
            _say("stopping: no call is in flight")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._cut_off)

    def _hear(self, number: signal.Signals) -> None:
        # A worker may repeat SIGTERM. Its way to cut a run off is SIGKILL.
        if self.heard is not None and not is_of_worker():
            self._cut_off()
        self.heard = self.heard or number
        self.begin()

    def _cut_off(self) -> None:
        if cut_off := self.drain.in_flight:
            self.cut_off = cut_off
            _say(f"cut off; the outcome of these calls is unknown: {', '.join(cut_off)}")
        self.drain.cut_off()


async def end_early(shutdown: GracefulShutdown, message: str) -> State[Any]:
    """End a run that was told to end, and whose work is not done.

    Returns the state ``Cancelled`` with this message, unless a worker is being stopped: the
    previous handler of the signal then ends the process, and a sweep schedules the next run.
    """
    if is_of_worker() and shutdown.heard and not await is_being_cancelled():
        shutdown.stop_listening()
        signal.raise_signal(shutdown.heard)
        raise StorageError("Stopped", "the process was told to end")
    return Cancelled(message=f"cancelled: {message}")


async def is_being_cancelled() -> bool:
    """Return whether somebody has cancelled the current run."""
    async with get_client() as client:
        state = (await client.read_flow_run(flow_run.id)).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _say(line: str) -> None:
    (SAY.get() or get_run_logger().warning)(line)


# A step that is cancelled ends as `Crashed`, and Prefect logs that as an error. Nothing is wrong
# with a step that was told to end.
_TASK_RUNS = logging.getLogger("prefect.task_runs")


def _is_no_crash(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not message.startswith(("Crash detected!", "Finished in state Crashed"))
