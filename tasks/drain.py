"""A gentle end of a run: no target action is called any more, and calls in flight come home.

A call that is cut off may be billed although its answer is lost. A call is in flight from the
moment at which its intent is stored until its answer is. Whatever cancels the task that delivers
the request meanwhile (a run that is told to end, or an error elsewhere that ends the batch) waits
until the call has come home. Whatever else is cut off can be repeated.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from faceid.errors import OutcomeUnknown
from tasks.state.cancellation import uninterrupted

T = TypeVar("T")


class Drain:
    """The deliveries of a run, and which of them have a call in flight."""

    def __init__(self) -> None:
        self.told_to_end = False
        """Whether the run has been told to end."""
        self._is_cut_off = False
        self._deliveries: dict[asyncio.Task[Any], str] = {}
        self._callers: dict[asyncio.Task[Any], asyncio.Task[Any]] = {}
        """The tasks of the calls, and the deliveries that they belong to."""
        self._in_flight: set[asyncio.Task[Any]] = set()
        """The tasks of the calls that are in flight."""

    @property
    def in_flight(self) -> list[str]:
        """IDs of the requests whose call is in flight."""
        return sorted(self._deliveries[self._callers[call]] for call in self._in_flight)

    def add(self, delivery: "asyncio.Task[Any]", request_id: str) -> None:
        """Add the task that delivers a request. It is removed when it is done.

        If the run has been told to end, the task is cancelled.
        """
        self._deliveries[delivery] = request_id
        delivery.add_done_callback(self._deliveries.pop)
        if self.told_to_end:
            delivery.cancel()

    def begin_call(self) -> None:
        """Protect the call of the current task, which is within ``bring_home`` and about to leave.

        Raises ``asyncio.CancelledError`` if the run has been told to end.
        """
        if self.told_to_end:
            raise asyncio.CancelledError
        self._in_flight.add(_current_task())

    async def bring_home(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call that uses ``begin_call``, and return its result.

        From ``begin_call`` on, a cancellation takes effect only when the call has ended, or at once
        if the run is cut off. If the run has been told to end and the call failed, it is not tried
        again: the delivery is cancelled. It is not if the outcome is unknown for good, which has to
        be recorded.
        """
        caller, task = _current_task(), asyncio.create_task(call)

        def cancelled() -> None:
            if self._is_cut_off or task not in self._in_flight:
                task.cancel()

        self._callers[task] = caller
        try:
            return await uninterrupted(task, cancelled)
        except OutcomeUnknown:
            raise
        except Exception:
            if self.told_to_end:
                caller.cancel()
            raise
        finally:
            del self._callers[task]
            self._in_flight.discard(task)

    def tell_to_end(self) -> None:
        """Cancel all deliveries whose call is not in flight, and let no other call leave."""
        self.told_to_end = True
        for task in self._deliveries.keys() - {self._callers[call] for call in self._in_flight}:
            task.cancel()

    def cut_off(self) -> None:
        """Cancel all deliveries, even those whose call is in flight."""
        self.told_to_end = self._is_cut_off = True
        for task in self._deliveries:
            task.cancel()


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task
