"""Locks that let only one run at a time work on a request, across processes and machines.

On one machine a lock is a file that is locked with ``flock``: the kernel releases the lock when the
process ends, in whatever way. Where several machines share the storage, ``FACEID_LOCKS`` names a
Redis server. A lock on that server is a lease of ``LEASE_SECONDS`` that its holder renews, so a
holder that is killed delays the next one by half a minute at most.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import LockError, RedisError

from faceid.errors import InvalidInput, StorageError
from tasks.state.file_locks import is_held, release_file_lock, try_file_lock

Waiting = Callable[[], Awaitable[None]]
"""Called once if a lock is not free immediately. It may raise an error instead of waiting."""

POLL_SECONDS = 0.2
"""Interval at which a waiting run checks whether the lock is free."""

LEASE_SECONDS = 30.0
"""How long a lock on the Redis server is held without renewal."""

LEASE_LEFT = 5.0
"""Seconds that a lease must have left when it is confirmed."""

CONFIRM_SECONDS = 1.0
"""Age at which the confirmation of a lease is too old, and is asked for again."""

CONFIRM_TRIES = 5
"""How often a lease is asked for before it counts as lost."""

REDIS_SECONDS = 5.0
"""Timeout of a connection to the Redis server, and of each answer from it."""


class Lease(Protocol):
    """A lock that is held, as far as its holder knows."""

    async def confirm(self) -> None:
        """Ask the lock's keeper whether it is still held, for some seconds at least.

        The keeper is the kernel for a file, and otherwise the Redis server. Raises ``StorageError``
        if it is not, or if the answer took too long to be of use. The clock counts the time for
        which the process, or the machine, was stopped.
        """
        ...

    def not_to_be_cut_off(self) -> contextlib.AbstractContextManager[None]:
        """Within this context the holder is not cancelled if the lease is lost."""
        ...


@contextlib.asynccontextmanager
async def acquire_lock(
    locks: str, folder: Path, name: str, waiting: Waiting
) -> AsyncGenerator[Lease]:
    """Hold the lock ``name`` within the context, waiting for the lock if necessary.

    ``locks`` is ``FACEID_LOCKS``: empty for files in ``folder``, or a ``redis://`` URL. ``waiting``
    is called once if the lock is not free immediately; it may raise an error instead of waiting.

    Raises ``InvalidInput`` if ``locks`` is not a valid URL, and ``StorageError`` if the files or
    the Redis server cannot be used, or if a lease is lost while the lock is held.
    """
    if locks:
        check_locks(locks)
        async with _redis_lock(locks, f"faceid:lock:{name}", waiting) as lease:
            yield lease
    else:
        path = folder / hashlib.sha256(name.encode()).hexdigest()
        async with _file_lock(path, waiting) as lease:
            yield lease


def check_locks(locks: str) -> None:
    """Raise ``InvalidInput`` if ``FACEID_LOCKS`` is not the URL of a Redis server."""
    if urlsplit(locks).scheme not in ("redis", "rediss", "unix"):
        raise InvalidInput("Configuration", "FACEID_LOCKS: must be a redis:// URL, or not be set")


@contextlib.asynccontextmanager
async def _file_lock(path: Path, waiting: Waiting) -> AsyncGenerator[Lease]:
    handle = _try(path)
    if handle is None:
        await waiting()
        while (handle := _try(path)) is None:  # noqa: ASYNC110 - another process may hold it
            await asyncio.sleep(POLL_SECONDS)
    try:
        yield _FileLease(path, handle)
    finally:
        release_file_lock(path, handle)


class _FileLease:
    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    async def confirm(self) -> None:
        # The kernel keeps the lock as long as the process has the file open. But somebody may have
        # removed the file, and others then lock another one of the same name.
        if not is_held(self._path, self._handle):
            raise _lost()

    def not_to_be_cut_off(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _try(path: Path) -> int | None:
    try:
        return try_file_lock(path)
    except OSError as error:
        raise StorageError("StorageUnavailable", f"cannot lock ({error.strerror})") from None


@contextlib.asynccontextmanager
async def _redis_lock(url: str, name: str, waiting: Waiting) -> AsyncGenerator[Lease]:
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
            async with _renewed(_RedisLease(redis, lock)) as lease:
                yield lease
    except RedisError as error:
        raise locks_unavailable(error) from None


def locks_unavailable(error: RedisError) -> StorageError:
    """Return the ``StorageError`` to raise if a call to the Redis server has failed."""
    return StorageError(
        "LocksUnavailable",
        f"FACEID_LOCKS cannot be reached ({type(error).__name__})",
        advice="Check FACEID_LOCKS, and that the Redis server is running.",
    )


def _lost() -> StorageError:
    return StorageError(
        "LockLost",
        "the request's lock expired while it was held",
        advice="Deliver the same request again: it continues where it stopped.",
    )


class _RedisLease:
    def __init__(self, redis: Redis, lock: Any) -> None:
        self.lock = lock
        self._redis = redis
        self._is_protected = False
        self.is_lost = False

    async def confirm(self) -> None:
        for _ in range(CONFIRM_TRIES):
            asked = _clock()
            try:
                # Both at one moment: what is left of the next holder's lease is not left of this
                # one.
                both: Any = self._redis.pipeline()
                token, left = await both.get(self.lock.name).pttl(self.lock.name).execute()
            except RedisError as error:
                raise locks_unavailable(error) from None
            took = _clock() - asked
            if token != self.lock.local.token or left / 1000 - took < LEASE_LEFT:
                raise _lost()
            if took < CONFIRM_SECONDS:
                return
            # The process was stopped since, or the server was. A lease that had time left then may
            # have vanished with the server's memory, and somebody else may hold the lock now.
        raise _lost()

    @contextlib.contextmanager
    def not_to_be_cut_off(self) -> Generator[None]:
        self._is_protected = True
        try:
            yield
        finally:
            self._is_protected = False

    def lose(self, holder: "asyncio.Task[Any]") -> None:
        """Cancel the holder, unless what it does must not be cut off."""
        self.is_lost = True
        if not self._is_protected:
            holder.cancel()


def _clock() -> float:
    """Return seconds on a clock that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@contextlib.asynccontextmanager
async def _renewed(lease: _RedisLease) -> AsyncGenerator[Lease]:
    """Keep the lease renewed. A holder that loses it is stopped with a ``StorageError``."""
    holder = asyncio.current_task()
    assert holder is not None
    renewal = asyncio.create_task(_renew(lease, holder))
    try:
        yield lease
    except asyncio.CancelledError:
        if not lease.is_lost:  # the cancellation came from somebody else
            raise
        holder.uncancel()
        raise _lost() from None
    finally:
        renewal.cancel()
        # An error here must not hide the result: a lock that is not released expires by itself.
        with contextlib.suppress(RedisError):
            await lease.lock.release()


async def _renew(lease: _RedisLease, holder: "asyncio.Task[Any]") -> None:
    """Renew until the lease is lost or may be lost soon, and then cancel the holder."""
    renewed_at = _clock()
    while _clock() - renewed_at < LEASE_SECONDS * 2 / 3:
        await asyncio.sleep(LEASE_SECONDS / 6)
        try:
            await lease.lock.reacquire()
            renewed_at = _clock()
        except LockError:
            break
        except RedisError:
            continue  # the server may be back in time
    lease.lose(holder)
