"""One HTTP exchange: reads the body of a request and sends the reply, with a fault if planned.

Faults of the connection (``reset``, ``stall``, ``truncate``, ...) are carried out here. Which
requests they happen to is decided by ``faults``.
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
# Content-Length that a truncated reply announces if it has no body.
_PROMISED = 64
_DRAIN_SECONDS = 10
_DELIVERY_TRIES = 200
_DELIVERY_SECONDS = 0.005
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class ClientGone(Exception):
    """Raised if the client closed the connection before its request was complete."""


@dataclass
class Reply:
    """An HTTP reply. Its body is ``body``, or the next ``length`` bytes of ``file``.

    The reply to a HEAD has a length but no body.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    file: BinaryIO | None = None
    length: int = 0

    def __post_init__(self) -> None:
        if self.body:
            self.length = len(self.body)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``end``. A file is read sequentially, without seeking.

        For a file, ``start`` must therefore be the end of the previous call.
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
        try:
            yield
        finally:
            if self.file is not None:
                self.file.close()


def trouble(status: int) -> Reply:
    """Return the reply of a gateway between client and service: neither an envelope nor XML."""
    page = f"<html><body><h1>{status}</h1></body></html>\n".encode()
    headers = [(b"content-type", b"text/html")]
    if status < 400:
        # A client that follows the redirect is noticed: this path accepts neither files nor calls.
        headers.append((b"location", b"/_emulator/health"))
    return Reply(status, headers, page)


class Exchange:
    """One HTTP request and its reply.

    ``receive`` and ``send`` are those of ASGI, and ``date`` returns the value of the ``Date``
    header. ``ending`` is set when the server shuts down, and ends all pauses.
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
        """Whether another request may follow on the connection."""
        asked = self.headers.get("connection", "").lower()
        return self._scope["http_version"] == "1.1" and "close" not in asked and not self.cut_off

    @property
    def cut_off(self) -> bool:
        """Whether the client has stopped sending before the body was complete."""
        return CUT_OFF in self._scope

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body in chunks. Raises ``ClientGone``."""
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
        """Read the whole body; return ``None`` if it has more than ``limit`` bytes.

        Raises ``ClientGone``.
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

        Needed before a reply after which the connection is closed: closing it while the client is
        still sending would reset it, and the client would not see the reply.
        """
        with suppress(ClientGone, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                if not self._body_read:
                    async for _ in self.chunks():
                        pass

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until the server shuts down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def answer(self, reply: Reply, fault: Fault = NO_FAULT) -> None:
        """Send the reply, with the fault if there is one."""
        with reply.closing():
            match fault.kind:
                case "commit-then-reset":
                    await self.reset()
                case "reset-after":
                    self._transport.set_write_buffer_limits(high=0)
                    await self._start(reply, reply.length)
                    await self._body(reply, 0, min(int(fault.amount), reply.length))
                    await self._part(b"")  # returns when this process has nothing left to send
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
                    await self.pause(fault.amount)
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
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._transport.abort()
        await self._closed()

    async def _delivered(self) -> None:
        """Wait until the client's system has received everything: a reset discards the rest.

        Waits for a limited time, as the client may not read at all, and only on systems that tell
        how much is still unsent.
        """
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if sys.platform == "win32" or connection is None:
            return
        waiting = bytearray(4)
        for _ in range(_DELIVERY_TRIES):
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
