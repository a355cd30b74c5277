"""An HTTP server whose files are slow: it is up to the test when they come to their end."""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class SlowSources:
    """Files that a server delivers slowly. Their content is that of a sample.

    The first part of the path says how: ``/silent/…`` sends nothing, ``/hang/…`` half of the file,
    ``/trickle/…`` a byte every 20 ms, and ``/second/…`` the whole file to the first reader and half
    of it to all others. The rest is sent after ``release``.
    """

    def __init__(self, content: bytes, port: int) -> None:
        self.content = content
        self.url = f"http://127.0.0.1:{port}"
        self.readers: Counter[str] = Counter()
        """The number of times each path was read."""
        self._changed = threading.Condition()
        self._released = threading.Event()

    def release(self) -> None:
        """Send the rest of all files."""
        self._released.set()

    def wait_for(self, path: str, times: int = 1) -> None:
        """Wait until readers of a path, or of paths that begin with it, have come. Blocks."""

        def seen() -> bool:
            return sum(n for p, n in self.readers.items() if p.startswith(path)) >= times

        with self._changed:
            assert self._changed.wait_for(seen, timeout=90), f"{path} was not read {times} times"

    def send(self, to: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        kind = to.path.split("/")[1]
        with self._changed:
            first = not self.readers[to.path]
            self.readers[to.path] += 1
            self._changed.notify_all()
        if kind == "silent":
            self._released.wait()
        to.send_response(200)
        to.send_header("Content-Length", str(len(self.content)))
        to.end_headers()
        rest = self.content
        if kind == "hang" or (kind == "second" and not first):
            half = len(rest) // 2
            to.wfile.write(rest[:half])
            rest = rest[half:]
            self._released.wait()
        while kind == "trickle" and rest and not self._released.wait(0.02):
            to.wfile.write(rest[:1])
            rest = rest[1:]
        to.wfile.write(rest)


@contextmanager
def slow_sources(sample: Path) -> Generator[SlowSources]:
    """Serve a sample file slowly. All readers are let go at the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                sources.send(self)
            except OSError:
                self.close_connection = True  # the reader has gone

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        sources = SlowSources(sample.read_bytes(), server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield sources
        finally:
            sources.release()
            server.shutdown()
