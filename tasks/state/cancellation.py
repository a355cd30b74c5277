"""Awaiting what a cancellation must not interrupt."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def uninterrupted(task: "asyncio.Task[T]", on_cancellation: Callable[[], object]) -> T:
    """Await a task to its end, and return its result.

    A cancellation of the caller takes effect only then. ``on_cancellation`` is called at each
    cancellation, and may cancel the task. Raises the task's own exception, unless the caller was
    cancelled.
    """
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
            on_cancellation()
    if cancellation is not None:
        if not task.cancelled():
            task.exception()  # otherwise, asyncio would log that nobody has asked for it
        raise cancellation
    return task.result()
