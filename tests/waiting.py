"""Helpers that wait for other processes and tasks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until(look: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """Call ``look`` until it returns something true, and return that; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


async def wait_until(look: Callable[[], Awaitable[T | None]], what: str, seconds: float = 90) -> T:
    """Await ``look`` until it returns something true, and return that; fail after ``seconds``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (found := await look()):
        assert loop.time() < deadline, f"not seen within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)
    return found
