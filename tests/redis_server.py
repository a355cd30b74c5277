"""A Redis server of a test's own, which may be flushed and stopped."""

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError

from deployments.stack import free_port
from tests.waiting import until


@contextmanager
def redis_server(folder: Path, *flags: str) -> Generator[tuple[Redis, str]]:
    """Start a Redis server that keeps nothing; yield a client of it, and its URL.

    ``flags`` are further flags of the server, which works in ``folder``.
    """
    if not shutil.which("redis-server"):
        if os.environ.get("FACEID_TEST_SERVICES") == "required":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += flags
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder) as server:
        client = Redis(port=port)
        try:
            until(lambda: _answers(client), "the Redis server")
            yield client, f"redis://127.0.0.1:{port}"
        finally:
            client.close()
            server.send_signal(signal.SIGCONT)  # in case the test has stopped it
            server.terminate()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except (ConnectionError, BusyLoadingError):
        return False


def lock_of_request(client: Redis) -> bytes | None:
    """Return the key of a request's lock that a run holds on the server, if there is one."""
    # The return values of redis-py are only partly typed.
    return next(client.scan_iter("faceid:lock:records*"), None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
