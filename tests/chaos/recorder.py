"""A proxy in front of the emulator, which records the calls and cuts connections.

The emulator's own log ends when it is killed; this one does not. It also knows what the emulator
cannot: which process called, whether a call was cut off on its way there, and whether the whole
answer was delivered. While the emulator is down the port is closed, as it is for any other client.
"""

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.schedule import CUTS, Fault, Step

ACTION = "VideoLivenessCompare"
NOT_COUNTED = ("RequestLimitExceeded", "AuthFailure.SignatureExpire")
"""Codes with which a call is refused before the action is reached, and then sent again."""
RESET = struct.pack("ii", 1, 0)
"""Socket option SO_LINGER with a time of 0: closing the socket resets the connection."""


@dataclass
class Call:
    """A call of the target action."""

    md5: str
    """The ``ImageMd5`` of the call, by which the request is known."""
    pid: int | None
    """The process that called; ``None`` if it was gone by then."""
    began: float
    """When the call had come in, in Unix seconds."""
    arrived: bool = False
    """Whether the emulator got all of it."""
    ended: float = 0.0
    """When the exchange was over, in whatever way."""
    code: str | None = None
    """The error code in the answer."""
    tencent_request_id: str | None = None
    """The service's ID in the answer."""
    delivered: bool = False
    """Whether the whole answer went to a client that was still connected."""

    @property
    def counts(self) -> bool:
        """Whether the service counts this call, as far as anybody can tell."""
        return self.arrived and self.code not in NOT_COUNTED

    @property
    def answered(self) -> bool:
        """Whether the client was given an answer that is to be kept."""
        return self.delivered and self.tencent_request_id is not None and self.code is None


@dataclass
class Head:
    """The head of an HTTP message."""

    raw: bytes
    first: list[str]
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))


@dataclass
class Recorder:
    """The proxy. Its methods may be called from any thread."""

    port: int
    """The port that it listens on."""
    upstream: int
    """The emulator's port."""
    on_step: Callable[[], None] = lambda: None
    """Called after each step, in the proxy's thread."""
    calls: list[Call] = field(default_factory=list[Call])
    """All calls of the target action."""
    steps: Counter[Step] = field(default_factory=Counter[Step])
    """How often each step was taken."""

    def __post_init__(self) -> None:
        self._armed: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Begin to listen."""

        async def begin() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    def close(self) -> None:
        """Listen no more. Connections go on until the emulator ends them."""
        if self._server:
            self._loop.call_soon_threadsafe(self._server.close)
            self._server = None

    def arm(self, fault: Fault) -> None:
        """Let the next call, or the next upload, meet a cut or stalled connection."""
        assert fault.kind in CUTS
        self._armed.append(fault)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_emulator: asyncio.StreamWriter | None = None
        try:
            emulator, to_emulator = await asyncio.open_connection("127.0.0.1", self.upstream)
            while head := await _read_head(client):
                body = await client.readexactly(head.length)
                await self._exchange(head, body, client, to_client, emulator, to_emulator)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            reset(to_client)
        finally:
            for writer in filter(None, (to_client, to_emulator)):
                writer.close()

    async def _exchange(
        self,
        head: Head,
        body: bytes,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        emulator: asyncio.StreamReader,
        to_emulator: asyncio.StreamWriter,
    ) -> None:
        step = _step(head)
        call = None
        if step == "call":
            pid = await asyncio.to_thread(_owner, to_client.get_extra_info("peername")[1])
            call = Call(json.loads(body)["ImageMd5"], pid, time.time())
            self.calls.append(call)
        if step:
            self._take(step)
        fault = self._fault_for(step)
        try:
            await _send(to_emulator, head.raw + body, fault, "request")
            if call:
                call.arrived = True
            answer = await _read_head(emulator)
            if answer is None:
                raise ConnectionResetError
            sent = b"" if head.first[0] == "HEAD" else await emulator.readexactly(answer.length)
            if call:
                call.code, call.tencent_request_id = _read_answer(sent)
            await _send(to_client, answer.raw + sent, fault, "answer")
            if client.at_eof():
                raise ConnectionResetError
            if call:
                call.delivered = True
                self._take("answer")
        finally:
            if call:
                call.ended = time.time()

    def _take(self, step: Step) -> None:
        self.steps[step] += 1
        self.on_step()

    def _fault_for(self, step: Step | None) -> Fault | None:
        for fault in self._armed:
            if step in ("call", "upload") and (step == "upload") == (fault.step == "upload"):
                self._armed.remove(fault)
                return fault
        return None


async def _send(
    writer: asyncio.StreamWriter, content: bytes, fault: Fault | None, what: str
) -> None:
    """Send bytes with the fault, if it is one of these bytes."""
    if fault is not None and fault.kind.endswith(what):
        cut = min(int(fault.share * len(content)), len(content) - 1)
        writer.write(content[:cut])
        await writer.drain()
        if fault.kind.startswith("reset"):
            reset(writer)
            raise ConnectionResetError
        await asyncio.sleep(fault.seconds)
        content = content[cut:]
    writer.write(content)
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection with a TCP reset."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    """Return the next head; ``None`` at the end of the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if "chunked" in headers.get("transfer-encoding", ""):
        raise ValueError("chunked messages are not expected")
    return Head(raw, first.split(" "), headers)


def _step(head: Head) -> Step | None:
    match head.first[0], head.headers.get("x-tc-action"):
        case "POST", "CreateUploadUrl":
            return "ticket"
        case "POST", name if name == ACTION:
            return "call"
        case "PUT", _:
            return "upload"
        case _:
            return None


def _read_answer(body: bytes) -> tuple[str | None, str | None]:
    """Return the error code and the Tencent request ID in an answer, as far as it has them."""
    try:
        response: Any = json.loads(body)["Response"]
    except (ValueError, KeyError):
        return "no answer of the API", None
    return response.get("Error", {}).get("Code"), response.get("RequestId")


def _owner(port: int) -> int | None:
    """Return the process that has this local port of 127.0.0.1; ``None`` if there is none."""
    local = f"0100007F:{port:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inode = next((fields[9] for fields in lines if fields[1] == local), None)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                for handle in (process / "fd").iterdir():
                    with suppress(OSError):
                        if str(handle.readlink()) == f"socket:[{inode}]":
                            return int(process.name)
    return None
