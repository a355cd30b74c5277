"""Reading sources, that is, the files that requests name, without holding up anything else.

A source may be slow or hang, wherever it is. Therefore, each read has a daemon thread, which is
abandoned when the read is cancelled or takes too long. Other work does not use these threads, they
do not keep the process from ending, and remote sources take none of the threads of local ones.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from io import BufferedReader
from typing import TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from faceid.actions import ResourceField
from faceid.errors import InvalidInput
from faceid.files.resources import measure, open_location, refused
from faceid.models import ResourceFile

SOURCE_SECONDS = 300.0
"""Seconds that the reading of a source may take in all, unless another limit is given."""

SLOW_SECONDS = 5.0
"""Seconds of reading after which a source counts as slow."""

LOCAL_THREADS = 64
"""Maximum number of local sources that are read at the same time, per event loop."""

REMOTE_THREADS = 256
"""Maximum number of remote sources that are read at the same time, per event loop. It is high,
because these threads do little but wait."""

CHUNK = 256 * 1024
"""Size in bytes of the chunks in which a source is uploaded."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_limiters: RunVar[dict[bool, CapacityLimiter]] = RunVar("faceid_source_limiters")


class Patience:
    """How long a source may take, and what happens to its request meanwhile.

    This class does nothing about slow sources; a batch begins other requests.
    """

    def __init__(self, seconds: float = SOURCE_SECONDS) -> None:
        self.seconds = seconds
        """Seconds that each reading of a source may take in all."""

    def step_aside(self) -> None:
        """Called when a source is slow, possibly several times."""

    async def resume(self) -> None:
        """Called when the request's sources have been read, slow or not."""


def is_remote(location: str) -> bool:
    """Return whether a location is a URL."""
    return "://" in location


async def measure_source(
    field: ResourceField, location: str, patience: Patience | None = None
) -> ResourceFile:
    """Read a file once, and return its size in bytes and its MD5.

    Raises ``InvalidInput`` as ``measure`` does, and if reading takes too long.
    """
    source = Source(field.name, location, patience)
    return await source.run(measure, field, location, source.read_from)


async def stream_source(file: ResourceFile, patience: Patience) -> AsyncGenerator[bytes]:
    """Yield the bytes of a file that was measured, in chunks of ``CHUNK`` bytes.

    Raises ``InvalidInput`` if the file cannot be read or takes too long, and before the last chunk
    if the file has changed.
    """
    source = Source(file.field, file.location, patience)
    changed = InvalidInput(
        "ResourceChanged", f"resource {file.field}: the file changed during the delivery"
    )
    digest = hashlib.md5(usedforsecurity=False)
    left = file.size
    try:
        while left:
            chunk = await source.read(min(CHUNK, left))
            digest.update(chunk)
            left -= len(chunk)
            if not chunk or (not left and digest.hexdigest() != file.md5):
                raise changed
            yield chunk
    except OSError:
        raise InvalidInput(
            "ResourceGone", f"resource {file.field}: the file can no longer be read"
        ) from None
    finally:
        source.close()


class Source:
    """One reading of a source, from its beginning to its end.

    ``field`` is the resource field that errors name. Only the time that is spent in ``run`` counts
    towards the limit, not the time in between.
    """

    def __init__(self, field: str, location: str, patience: Patience | None = None) -> None:
        self._field = field
        self._location = location
        self._patience = patience or Patience()
        self._left = self._patience.seconds
        self._until = 0.0
        """Time at which a thread has to stop reading, by the monotonic clock."""
        self._is_abandoned = False
        self._file: BufferedReader | None = None

    async def read(self, size: int) -> bytes:
        """Open the source if necessary; return its next ``size`` bytes, or fewer at its end.

        Raises ``OSError``, and ``InvalidInput`` if it takes too long.
        """
        return await self.run(self._read, size)

    def close(self) -> None:
        """Close the source, if it is open."""
        if self._file is None:
            return
        if self._is_abandoned:
            # Closing would wait for the thread that is still reading.
            threading.Thread(target=_close, args=(self._file,), daemon=True).start()
        else:
            self._file.close()

    def read_from(self, file: BufferedReader, size: int) -> bytes:
        """Return the next ``size`` bytes of an open file, or fewer at its end. Blocks.

        Raises ``OSError``, and ``InvalidInput`` soon after the reading was abandoned.
        """
        found = bytearray()
        # A single `read` would go on for as long as a source trickles.
        while len(found) < size and (piece := file.read1(size - len(found))):
            found += piece
            if self._is_abandoned or time.monotonic() > self._until:
                raise self._too_slow()
        return bytes(found)

    async def run(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Do blocking work on the source in a thread, and return its result.

        Raises the errors of ``work``, and ``InvalidInput`` if the time is over. In that case, and
        on cancellation, the thread is abandoned.
        """
        spent = self._patience.seconds - self._left
        slow = asyncio.get_running_loop().call_later(
            max(0.0, SLOW_SECONDS - spent), self._patience.step_aside
        )
        try:
            async with _threads(remote=is_remote(self._location)):
                return await self._in_time(work, *arguments)
        finally:
            slow.cancel()

    async def _in_time(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        began = time.monotonic()
        self._until = began + self._left
        result = _in_thread(work, *arguments)
        limit = asyncio.timeout(self._left)
        try:
            async with limit:
                return await result
        except TimeoutError:  # of the limit, or an error of the source
            if not limit.expired():
                raise
            raise self._too_slow() from None
        finally:
            self._is_abandoned = result.cancelled()
            self._left -= time.monotonic() - began

    def _read(self, size: int) -> bytes:
        if self._file is None:
            file = open_location(self._location)
            if self._is_abandoned:
                file.close()
                raise self._too_slow()
            self._file = file
        return self.read_from(self._file, size)

    def _too_slow(self) -> InvalidInput:
        seconds = f"{self._patience.seconds:g} s (FACEID_SOURCE_SECONDS)"
        reason = f"the file could not be read within {seconds}"
        return refused(self._field, reason, self._location)


def _threads(*, remote: bool) -> CapacityLimiter:
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = {False: CapacityLimiter(LOCAL_THREADS), True: CapacityLimiter(REMOTE_THREADS)}
        _limiters.set(limiters)
    return limiters[remote]


def _in_thread(
    work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
) -> "asyncio.Future[T]":
    """Do blocking work in a new daemon thread. If the result is cancelled, nobody waits for it.

    The threads of anyio and of ``concurrent.futures`` are no daemons: the process would wait for
    them at its end.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T) -> None:
        if not result.done():
            result.set_result(value)

    def fail(error: BaseException) -> None:
        if not result.done():
            result.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the event loop has been closed meanwhile
            try:
                value = work(*arguments)
            except BaseException as error:  # whatever it is, the caller gets it
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(settle, value)

    threading.Thread(target=run, name="faceid source", daemon=True).start()
    return result


def _close(file: BufferedReader) -> None:
    with suppress(OSError):
        file.close()
