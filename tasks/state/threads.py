"""Threads for reading and writing the storage, which no other work takes.

An answer must be stored however many other threads are busy.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

STORAGE_THREADS = 40
"""Maximum number of accesses to the storage at the same time, per event loop."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_limiter: RunVar[CapacityLimiter] = RunVar("faceid_storage_limiter")


async def in_storage_thread(work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Do blocking work on the storage in a thread, and return its result.

    Once it has begun, the work comes to its end even if the caller is cancelled.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(STORAGE_THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(work, *arguments, limiter=limiter)
