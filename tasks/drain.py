"""A gentle end of a run: no target action is called any more, and calls in flight come home.

A call that is cut off may be billed although its answer is lost. When a run is told to end, the
tasks that deliver its requests are therefore cancelled, except while a call is in flight: from the
moment at which its intent is stored until its answer is. Whatever else is cut off can be repeated.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from faceid.errors import OutcomeUnknown


class Drain:
    """The deliveries of a run, and which of them may be cancelled."""

    def __init__(self) -> None:
        self.told_to_end = False
        """Whether the run has been told to end."""
        self._deliveries: dict[asyncio.Task[Any], str] = {}
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> list[str]:
        """IDs of the requests whose call is in flight."""
        return sorted(name for task, name in self._deliveries.items() if task in self._calls)

    def add(self, delivery: "asyncio.Task[Any]", request_id: str) -> None:
        """Add the task that delivers a request. It is removed when it is done.

        If the run has been told to end, the task is cancelled.
        """
        self._deliveries[delivery] = request_id
        delivery.add_done_callback(self._deliveries.pop)
        if self.told_to_end:
            delivery.cancel()

    def begin_call(self) -> None:
        """Protect the current task, whose call is about to leave.

        Raises ``asyncio.CancelledError`` if the run has been told to end.
        """
        if self.told_to_end:
            raise asyncio.CancelledError
        self._calls.add(_current_task())

    @contextmanager
    def calling(self) -> Generator[None]:
        """End the protection of a call that began within this context.

        If the run has been told to end meanwhile and the call failed, it is not tried again: the
        task is cancelled. It is not if the outcome is unknown for good, which has to be recorded.
        """
        try:
            yield
        except OutcomeUnknown:
            raise
        except Exception:
            if self.told_to_end:
                _current_task().cancel()
            raise
        finally:
            self._calls.discard(_current_task())

    def tell_to_end(self) -> None:
        """Cancel all deliveries whose call is not in flight, and let no other call leave."""
        self.told_to_end = True
        for task in self._deliveries.keys() - self._calls:
            task.cancel()

    def cut_off(self) -> None:
        """Cancel all deliveries."""
        self.told_to_end = True
        for task in self._deliveries:
            task.cancel()


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task
