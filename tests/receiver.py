"""A server that stores the messages that automations send, in the place of a team's own server."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.waiting import wait_until


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    """Header names are in lower case."""
    body: dict[str, Any]


class Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[Received] = []

    async def got(self, path: str, count: int = 1) -> list[Received]:
        """Wait until at least ``count`` messages have arrived at this path, and return them."""

        async def look() -> list[Received] | None:
            found = [one for one in self.received if one.path == path]
            return found if len(found) >= count else None

        return await wait_until(look, f"{count} messages at {path}")


@contextmanager
def receiver() -> Generator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            here.received.append(Received(self.path, headers, json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield here
        server.shutdown()
        thread.join()
