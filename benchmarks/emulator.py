"""The number of signed requests that the emulator serves per second of CPU time.

The emulator runs in its own process with raised rate limits. Its CPU time is read from the
operating system, so that the cost of generating the load is not included. For comparison, the same
run measures the same server with an application that only answers, which is the upper bound for the
emulator.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil

from faceid.signing import sign_request

REQUESTS = 10_000
CONNECTIONS = 16
BODY = b'{"TargetAction": "VideoLivenessCompare"}'

BARE = """
import json, socket
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def answer(request):
    await request.body()
    return JSONResponse({"Response": {"RequestId": "0"}})

app = Starlette(routes=[Route("/", answer, methods=["POST"])])
listener = socket.create_server(("127.0.0.1", 0))
url = "http://127.0.0.1:%d" % listener.getsockname()[1]
print(json.dumps({"url": url, "secret_id": "AKIDnobody", "secret_key": "nothing"}), flush=True)
server = uvicorn.Server(uvicorn.Config(app, http="httptools", loop="asyncio", log_config=None))
server.run(sockets=[listener])
"""


@contextmanager
def _server(arguments: list[str]) -> Generator[tuple[psutil.Process, dict[str, str]]]:
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout as lines:
        try:
            yield psutil.Process(process.pid), json.loads(lines.readline())
        finally:
            process.terminate()


def _request(url: str, secret_id: str, secret_key: str) -> bytes:
    host = url.removeprefix("http://")
    headers = sign_request(
        secret_id=secret_id,
        secret_key=secret_key,
        service="faceid",
        host=host,
        action="CreateUploadUrl",
        version="2018-03-01",
        region="ap-singapore",
        timestamp=int(time.time()),
        body=BODY,
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


async def _load(url: str, request: bytes, number: int) -> None:
    async def connection() -> None:
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        for _ in range(number // CONNECTIONS):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            assert b'"Error"' not in body, body
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def _measure(arguments: list[str]) -> float:
    """Return the number of requests served per second of the server's CPU time."""
    with _server(arguments) as (process, ready):
        request = _request(ready["url"], ready["secret_id"], ready["secret_key"])
        asyncio.run(_load(ready["url"], request, 1_000))  # warm-up
        before = sum(process.cpu_times()[:2])
        asyncio.run(_load(ready["url"], request, REQUESTS))
        return REQUESTS / (sum(process.cpu_times()[:2]) - before)


def main() -> None:
    rates = json.dumps({"CreateUploadUrl": 1_000_000})
    emulator = _measure(["-m", "faceid", "emulator", "--port", "0", "--rates", rates])
    bare = _measure(["-c", BARE])
    print(f"  signed CreateUploadUrl    {emulator:6.0f} requests per second of one core")
    print(f"  a server that only answers{bare:7.0f}  ({emulator / bare:.0%} of it)")
