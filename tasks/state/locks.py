"""One run at a time works on a request, in however many processes.

On one machine the kernel holds the lock (``flock``) and frees it with the process, however that
ends. Where several machines share the storage, ``FACEID_LOCKS`` names a Redis server: there the
lock lives 30 seconds and is renewed while its holder lives, so a killed one delays the next by
half a minute at most.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import LockError, RedisError

from faceid.errors import InvalidInput, StorageError
from tasks.state.storage import make_private_folder

Waiting = Callable[[], Awaitable[None]]

POLL_SECONDS = 0.2
"""How often a waiting run looks whether the lock is free."""

LEASE_SECONDS = 30.0

REDIS_SECONDS = 5.0
"""How long the Redis server may take to connect and to answer."""


@contextlib.asynccontextmanager
async def acquire_lock(
    locks: str, folder: Path, name: str, waiting: Waiting
) -> AsyncGenerator[None]:
    """Holds the lock of that name.

    ``waiting`` is called once when it is not free at once; it may raise, and so refuse to wait.

    ``locks`` is ``FACEID_LOCKS``: empty for files in ``folder``, or a ``redis://`` URL.
    """
    if locks:
        check_locks(locks)
        async with _redis_lock(locks, f"faceid:lock:{name}", waiting):
            yield
    else:
        async with _file_lock(folder / hashlib.sha256(name.encode()).hexdigest(), waiting):
            yield


def check_locks(locks: str) -> None:
    if urlsplit(locks).scheme not in ("redis", "rediss", "unix"):
        raise InvalidInput("Configuration", "FACEID_LOCKS: must be a redis:// URL, or not be set")


@contextlib.asynccontextmanager
async def _file_lock(path: Path, waiting: Waiting) -> AsyncGenerator[None]:
    handle = _try_file(path)
    if handle is None:
        await waiting()
        while (handle := _try_file(path)) is None:  # noqa: ASYNC110 - another process may hold it
            await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _free_file(path, handle)


def _free_file(path: Path, handle: int) -> None:
    # Away before it is free, or whoever got it in between would hold a file without a name.
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(handle)


def _try_file(path: Path) -> int | None:
    """The locked file's descriptor, or ``None`` when another holds it."""
    try:
        make_private_folder(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError("StorageUnavailable", f"cannot lock ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or its holder has just put the file away
    os.close(handle)
    return None


@contextlib.asynccontextmanager
async def _redis_lock(url: str, name: str, waiting: Waiting) -> AsyncGenerator[None]:
    try:
        server = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
    except ValueError:
        raise InvalidInput("Configuration", "FACEID_LOCKS: is no valid redis:// URL") from None
    try:
        async with server as redis:
            lock = redis.lock(name, timeout=LEASE_SECONDS, sleep=POLL_SECONDS)
            if not await lock.acquire(blocking=False):
                await waiting()
                await lock.acquire()
            async with _renewed(lock):
                yield
    except RedisError as error:
        raise StorageError(
            "LocksUnavailable", f"FACEID_LOCKS cannot be reached ({type(error).__name__})"
        ) from None


@contextlib.asynccontextmanager
async def _renewed(lock: Any) -> AsyncGenerator[None]:
    """Keeps the lease; a holder that lost it must not go on, and gets a ``StorageError``."""
    holder = asyncio.current_task()
    assert holder is not None
    renewal = asyncio.create_task(_renew(lock, holder))
    try:
        yield
    except asyncio.CancelledError:
        if not renewal.done():  # it was somebody else who wants us to end
            raise
        holder.uncancel()
        raise StorageError("LockLost", "the request's lock ran out while it was held") from None
    finally:
        renewal.cancel()
        # What was done is done: a lock that cannot be given back runs out by itself.
        with contextlib.suppress(RedisError):
            await lock.release()


async def _renew(lock: Any, holder: "asyncio.Task[Any]") -> None:
    """Renews until the lease is lost, or so old that it may be lost soon; then ends the holder."""
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
            continue  # it may be back in time
    holder.cancel()
