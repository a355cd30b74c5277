"""Runs that are watched at every await: each can be frozen there, as by SIGSTOP, or cancelled.

All tasks that a run starts belong to it. A frozen run is not resumed at any of its awaits; only
what its threads are doing goes on.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any, cast

CURRENT: ContextVar["Stepped | None"] = ContextVar("CURRENT", default=None)
"""The run that the current code belongs to, also in the run's threads."""


class Stepped:
    """A run that calls ``at_await`` whenever one of its tasks is about to be suspended."""

    task: "asyncio.Task[Any]"
    """The run's first task, once it is started."""

    def __init__(self, at_await: Callable[[], None]) -> None:
        self.at_await = at_await
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start the run, in a context of its own."""
        context = copy_context()
        context.run(CURRENT.set, self)
        self.task = asyncio.get_running_loop().create_task(work, context=context)
        return self.task

    @property
    def is_frozen(self) -> bool:
        return not self._goes_on.is_set()

    def freeze(self) -> None:
        """Let no task of the run go on after the await that it is at, or comes to next."""
        self._goes_on.clear()

    def thaw(self) -> None:
        self._goes_on.set()

    async def watch(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await ``work`` as a task of this run."""
        return await _watched(self, work)

    def wait_while_frozen(self) -> Generator[Any, None, BaseException | None]:
        """Wait until the run is thawed; return a cancellation that came meanwhile."""
        interruption: BaseException | None = None
        while self.is_frozen:
            try:
                yield from self._goes_on.wait().__await__()
            except asyncio.CancelledError as error:
                interruption = error
        return interruption


@types.coroutine
def _watched(run: Stepped, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    failure: BaseException | None = None
    while True:
        try:
            waits_for = work.throw(failure) if failure else work.send(None)
        except StopIteration as end:
            return end.value
        run.at_await()
        failure = None
        try:
            yield waits_for
        except BaseException as error:  # thrown into `work`
            failure = error
        if not isinstance(failure, GeneratorExit):
            failure = (yield from run.wait_while_frozen()) or failure


def _task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
) -> "asyncio.Task[Any]":
    context = more.get("context")
    run = context.get(CURRENT) if context is not None else CURRENT.get()
    return asyncio.Task(run.watch(work) if run else work, loop=loop, **more)


def watch_runs(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of the loop's runs be watched."""
    loop.set_task_factory(cast("Any", _task))
