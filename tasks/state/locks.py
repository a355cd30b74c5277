"""Locks that let only one run at a time work on a request, across processes and machines.

On one machine a lock is a file that is locked with ``flock``: the kernel releases the lock when the
process ends, in whatever way. Where several machines share the storage, ``FACEID_LOCKS`` names a
Redis server. A lock on that server is a lease of ``LEASE_SECONDS`` that its holder renews, so a
holder that is killed delays the next one by half a minute at most.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import LockError, RedisError

from faceid.errors import InvalidInput, StorageError
from tasks.state.file_locks import release_file_lock, try_file_lock

Waiting = Callable[[], Awaitable[None]]
"""Called once if a lock is not free immediately. It may raise an error instead of waiting."""

POLL_SECONDS = 0.2
"""Interval at which a waiting run checks whether the lock is free."""

LEASE_SECONDS = 30.0
"""How long a lock on the Redis server is held without renewal."""

REDIS_SECONDS = 5.0
"""Timeout of a connection to the Redis server, and of each answer from it."""


@contextlib.asynccontextmanager
async def acquire_lock(
    locks: str, folder: Path, name: str, waiting: Waiting
) -> AsyncGenerator[None]:
    """Hold the lock ``name`` within the context, waiting for the lock if necessary.

    ``locks`` is ``FACEID_LOCKS``: empty for files in ``folder``, or a ``redis://`` URL. ``waiting``
    is called once if the lock is not free immediately; it may raise an error instead of waiting.

    Raises ``InvalidInput`` if ``locks`` is not a valid URL, and ``StorageError`` if the files or
    the Redis server cannot be used, or if a lease is lost while the lock is held.
    """
    if locks:
        check_locks(locks)
        async with _redis_lock(locks, f"faceid:lock:{name}", waiting):
            yield
    else:
        async with _file_lock(folder / hashlib.sha256(name.encode()).hexdigest(), waiting):
            yield


def check_locks(locks: str) -> None:
    """Raise ``InvalidInput`` if ``FACEID_LOCKS`` is not the URL of a Redis server."""
    if urlsplit(locks).scheme not in ("redis", "rediss", "unix"):
        raise InvalidInput("Configuration", "FACEID_LOCKS: must be a redis:// URL, or not be set")


@contextlib.asynccontextmanager
async def _file_lock(path: Path, waiting: Waiting) -> AsyncGenerator[None]:
    handle = _try(path)
    if handle is None:
        await waiting()
        while (handle := _try(path)) is None:  # noqa: ASYNC110 - another process may hold it
            await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        release_file_lock(path, handle)


def _try(path: Path) -> int | None:
    try:
        return try_file_lock(path)
    except OSError as error:
        raise StorageError("StorageUnavailable", f"cannot lock ({error.strerror})") from None


@contextlib.asynccontextmanager
async def _redis_lock(url: str, name: str, waiting: Waiting) -> AsyncGenerator[None]:
    try:
        server = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
    except ValueError:
        raise InvalidInput("Configuration", "FACEID_LOCKS: not a valid redis:// URL") from None
    try:
        async with server as redis:
            lock = redis.lock(name, timeout=LEASE_SECONDS, sleep=POLL_SECONDS)
            if not await lock.acquire(blocking=False):
                await waiting()
                await lock.acquire()
            async with _renewed(lock):
                yield
    except RedisError as error:
        raise locks_unavailable(error) from None


def locks_unavailable(error: RedisError) -> StorageError:
    """Return the ``StorageError`` to raise if a call to the Redis server has failed."""
    return StorageError(
        "LocksUnavailable",
        f"FACEID_LOCKS cannot be reached ({type(error).__name__})",
        advice="Check FACEID_LOCKS, and that the Redis server is running.",
    )


@contextlib.asynccontextmanager
async def _renewed(lock: Any) -> AsyncGenerator[None]:
    """Keep the lease of a lock renewed within the context, and release the lock on exit.

    If the lease is lost, the current task is cancelled, and ``StorageError`` is raised.
    """
    holder = asyncio.current_task()
    assert holder is not None
    renewal = asyncio.create_task(_renew(lock, holder))
    try:
        yield
    except asyncio.CancelledError:
        if not renewal.done():  # the cancellation came from somebody else
            raise
        holder.uncancel()
        raise StorageError(
            "LockLost",
            "the request's lock expired while it was held",
            advice="Deliver the same request again: it continues where it stopped.",
        ) from None
    finally:
        renewal.cancel()
        # An error here must not hide the result. A lock that is not released expires by itself.
        with contextlib.suppress(RedisError):
            await lock.release()


async def _renew(lock: Any, holder: "asyncio.Task[Any]") -> None:
    """Renew the lease until it is lost, or may be lost soon, and then cancel the holder's task."""
    clock = asyncio.get_running_loop().time
    renewed_at = clock()
    while clock() - renewed_at < LEASE_SECONDS * 2 / 3:
        await asyncio.sleep(LEASE_SECONDS / 6)
        try:
            await lock.reacquire()
            renewed_at = clock()
        except LockError:
            break
        except RedisError:
            continue  # the server may be back in time
    holder.cancel()
