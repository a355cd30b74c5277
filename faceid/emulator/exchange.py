"""HTTP exchanges: reads the body of a request, and sends the reply with a fault if one is planned.

This module carries out the faults that concern the connection, such as ``reset``, ``stall`` and
``truncate``. ``faceid.emulator.faults`` decides which requests have a fault.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from faceid.emulator.faults import NO_FAULT, Fault

if sys.platform != "win32":
    import fcntl
    import termios

TRANSPORT = "faceid.transport"
"""Key of the ASGI scope for the connection's ``asyncio.Transport``."""
CUT_OFF = "faceid.cut_off"
"""Key of the ASGI scope that is present if the client stopped sending before the body's end."""

Scope = dict[str, Any]
_PIECE = 256 * 1024
_PROMISED = 64
"""Content-Length that a truncated reply announces if it has no body."""
_DRAIN_SECONDS = 10
"""Maximum time for reading the rest of a body."""
_DELIVERY_TRIES = 200
"""How many times to check whether the client's system has received everything."""
_DELIVERY_SECONDS = 0.005
"""Time between two checks whether the client's system has received everything."""
# The socket option SO_LINGER with a time of 0: closing the socket resets the connection.
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class ClientGone(Exception):
    """Raised if the client closed the connection before its request was complete."""


@dataclass
class Reply:
    """An HTTP reply, whose body is either ``body`` or a part of ``file``."""

    status: int
    """The HTTP status."""
    headers: list[tuple[bytes, bytes]]
    """The headers, with lower-case names."""
    body: bytes = b""
    """The whole body; empty if it comes from ``file``."""
    file: BinaryIO | None = None
    """An open file; the body is the next ``length`` bytes from its current position."""
    length: int = 0
    """Length of the body in bytes. The reply to a HEAD has a length but no body."""

    def __post_init__(self) -> None:
        if self.body:
            self.length = len(self.body)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of the body from ``start`` to ``end``.

        A file is read sequentially, without seeking, so ``start`` must be the ``end`` of the
        previous call.
        """
        if self.file is None:
            if start < end:
                yield self.body[start:end]
            return
        while start < end and (piece := self.file.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece

    @contextmanager
    def closing(self) -> Generator[None]:
        """Close the file, if there is one, on exit."""
        try:
            yield
        finally:
            if self.file is not None:
                self.file.close()


def trouble(status: int) -> Reply:
    """Return a reply as from a gateway between the client and the service: a page of HTML."""
    page = f"<html><body><h1>{status}</h1></body></html>\n".encode()
    headers = [(b"content-type", b"text/html")]
    if status < 400:
        # A client that follows the redirect is noticed, because this path accepts neither files nor
        # calls.
        headers.append((b"location", b"/_emulator/health"))
    return Reply(status, headers, page)


class Exchange:
    """An HTTP request and its reply.

    ``scope``, ``receive`` and ``send`` are those of ASGI. ``date`` returns the value of the
    ``Date`` header. ``ending`` is set when the server shuts down or is reset, and ends all pauses.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Callable[[], Any],
        send: Callable[[dict[str, Any]], Any],
        *,
        date: Callable[[], bytes],
        ending: asyncio.Event,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._date = date
        self._ending = ending
        self._body_read = False
        self.method: str = scope["method"]
        self.raw_path: str = scope["raw_path"].decode("latin-1")
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection stays open for another request."""
        asked = self.headers.get("connection", "").lower()
        return self._scope["http_version"] == "1.1" and "close" not in asked and not self.cut_off

    @property
    def cut_off(self) -> bool:
        """Whether the client stopped sending before the body was complete."""
        return CUT_OFF in self._scope

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body of the request in chunks.

        Raises ``ClientGone`` if the client closes the connection before the body is complete.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if message["body"]:
                yield message["body"]
            if not message["more_body"]:
                self._body_read = True
                return

    async def body(self, limit: int) -> bytes | None:
        """Read and return the whole body; return ``None`` if it has more than ``limit`` bytes.

        Raises ``ClientGone`` if the client closes the connection before the body is complete.
        """
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                parts.clear()
            else:
                parts.append(chunk)
        return b"".join(parts) if size <= limit else None

    async def drain(self) -> None:
        """Read the rest of the body, for a limited time.

        This is needed before a reply after which the connection is closed. If the connection were
        closed while the client is still sending, it would be reset, and the client would not see
        the reply.
        """
        with suppress(ClientGone, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                if not self._body_read:
                    async for _ in self.chunks():
                        pass

    async def delay(self, seconds: float) -> None:
        """Wait for some seconds. Raises ``ClientGone`` if the server is reset or ends meanwhile."""
        await self._pause(seconds)
        if self._ending.is_set():
            await self.reset()
            raise ClientGone

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def answer(self, reply: Reply, fault: Fault = NO_FAULT) -> None:
        """Send the reply, with the fault if there is one, and close the reply's file."""
        with reply.closing():
            match fault.kind:
                case "commit-then-reset":
                    await self.reset()
                case "reset-after":
                    self._transport.set_write_buffer_limits(high=0)
                    await self._start(reply, reply.length)
                    await self._body(reply, 0, min(int(fault.amount), reply.length))
                    await self._part(b"")  # returns once this process has sent everything
                    await self._delivered()
                    await self.reset()
                case "truncate":
                    await self._start(reply, reply.length or _PROMISED)
                    await self._body(reply, 0, reply.length // 2)
                    self._transport.close()
                    await self._closed()
                case "stall":
                    await self._start(reply, reply.length)
                    await self._body(reply, 0, reply.length // 2)
                    await self._pause(fault.amount)
                    await self._body(reply, reply.length // 2, reply.length)
                    await self._part(b"", last=True)
                case _:
                    await self._start(reply, reply.length)
                    if reply.file is None:
                        await self._part(reply.body, last=True)
                    else:
                        await self._body(reply, 0, reply.length)
                        await self._part(b"", last=True)

    async def reset(self) -> None:
        """Cut the connection at once with a TCP reset."""
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # the client may have gone already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._transport.abort()
        await self._closed()

    async def _delivered(self) -> None:
        """Wait until the client's system has received everything: a reset would discard the rest.

        The wait is limited, because the client may not read at all. On systems that do not tell how
        much is still unsent, there is no wait.
        """
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if sys.platform == "win32" or connection is None:
            return
        waiting = bytearray(4)
        for _ in range(_DELIVERY_TRIES):
            if connection.fileno() == -1:  # the client has gone
                return
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, waiting)
            if not any(waiting):
                return
            await asyncio.sleep(_DELIVERY_SECONDS)

    @property
    def _transport(self) -> asyncio.Transport:
        return self._scope[TRANSPORT]

    async def _closed(self) -> None:
        # uvicorn logs an error for an incomplete reply, unless the client has disconnected.
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, reply: Reply, length: int) -> None:
        headers = [
            *reply.headers,
            (b"content-length", str(length).encode()),
            (b"date", self._date()),
        ]
        await self._send(
            {"type": "http.response.start", "status": reply.status, "headers": headers}
        )

    async def _part(self, body: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def _body(self, reply: Reply, start: int, end: int) -> None:
        for piece in reply.pieces(start, end):
            await self._part(piece)
