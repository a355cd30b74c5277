"""The processes of a local stack: a Prefect server, the emulator, what runs the deployments.

Each is a child process of its own that ends with us, in the reverse order of its start.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from faceid.errors import FaceIdError, InvalidInput

START_SECONDS = 120.0
"""How long a child may take to be ready. A Prefect server migrates its database first."""

STOP_SECONDS = 15.0

# Without these the default server loses task runs under load, and leases when it dies.
SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
}


class StackError(FaceIdError):
    """A part of the local stack did not start, or ended by itself."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__("LocalStack", f"{part} {message}")


@dataclass
class Child:
    """A child process, and the file its output goes to (``None``: our own stderr)."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """Raises ``StackError`` when the process has ended."""
        code = self.process.poll()
        if code is not None:
            tail = self.log.read_text(errors="replace")[-2000:] if self.log else ""
            raise StackError(self.name, f"ended with exit code {code}. {tail}".rstrip())

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        # What it may have left behind in its group; itself, when it did not hear.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def child(
    name: str, command: list[str], environment: Mapping[str, str], log: Path | None
) -> Generator[Child]:
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-m", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            # What a child prints is for who starts it alone; its complaints are for all.
            stdout=output or subprocess.DEVNULL,
            stderr=output,
            # A Ctrl-C in the terminal is ours to handle: children end in order.
            process_group=0,
            # The rule warns of threads; the commands start their children from their only one.
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
        started = Child(name, process, log)
        try:
            yield started
        finally:
            started.stop()


def _end_with_parent() -> None:
    # In the child, before exec: PR_SET_PDEATHSIG, so that not even kill -9 of us leaves it behind.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def wait_until_ready(part: Child, ready: Path | str) -> None:
    """Waits for a file to hold something, or a URL to answer. Raises ``StackError``."""
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(ready):
        part.check()
        if time.monotonic() > deadline:
            raise StackError(part.name, f"was not ready after {START_SECONDS:.0f} seconds")
        time.sleep(0.1)


def _is_ready(ready: Path | str) -> bool:
    if isinstance(ready, Path):
        return ready.exists() and ready.stat().st_size > 0
    try:
        with urllib.request.urlopen(ready, timeout=5):  # noqa: S310 - our own server
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def claim_port(port: int) -> int:
    """The port, or a free one for 0. Raises ``InvalidInput`` when it is taken."""
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InvalidInput(
                "PortInUse",
                f"port {port} is taken: choose another with --port, 0 for a free one",
            ) from None
    return port


@contextlib.contextmanager
def prefect_server(
    port: int, environment: Mapping[str, str], log: Path | None
) -> Generator[tuple[Child, str]]:
    """A Prefect server on this port of 127.0.0.1; gives its process and its API's URL.

    ``environment`` decides on its home and database.
    """
    root = f"http://127.0.0.1:{port}"
    variables = {
        **SERVER_SETTINGS,
        **environment,
        # The dashboard calls port 4200 whatever the server's port is.
        "PREFECT_SERVER_UI_API_URL": f"{root}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
    }
    variables.pop("PREFECT_API_URL", None)
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with child("the Prefect server", command, variables, log) as process:
        wait_until_ready(process, f"{root}/api/health")
        yield process, f"{root}/api"


@contextlib.contextmanager
def temporary_prefect_server(environment: Mapping[str, str]) -> Generator[str]:
    """A Prefect server with a home of its own that is gone at the end; gives its API's URL."""
    with TemporaryDirectory(prefix="faceid-prefect-") as home:
        log = Path(home) / "server.log"
        own = {**environment, "PREFECT_HOME": home}
        own.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
        with prefect_server(free_port(), own, log) as (_, api_url):
            yield api_url


@dataclass(frozen=True)
class EmulatorAddress:
    url: str
    secret_id: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """What makes a client use it."""
        return {
            "FACEID_ENDPOINT": self.url,
            "TENCENTCLOUD_SECRET_ID": self.secret_id,
            "TENCENTCLOUD_SECRET_KEY": self.secret_key,
            "TENCENTCLOUD_TOKEN": "",
        }


@contextlib.contextmanager
def emulator(
    environment: Mapping[str, str], log: Path | None
) -> Generator[tuple[Child, EmulatorAddress]]:
    """The emulator as a process of its own, on a free port.

    ``FACEID_EMULATOR_*`` of the environment hold.
    """
    with TemporaryDirectory(prefix="faceid-emulator-") as folder:
        ready = Path(folder) / "ready.json"
        command = ["faceid", "emulator", "--ready-file", str(ready)]
        if "FACEID_EMULATOR_PORT" not in environment:
            command += ["--port", "0"]
        with child("the emulator", command, environment, log) as process:
            wait_until_ready(process, ready)
            yield process, EmulatorAddress(**json.loads(ready.read_text()))


@contextlib.contextmanager
def worker(
    api_url: str, environment: Mapping[str, str], limit: int, log: Path | None
) -> Generator[Child]:
    """What registers the deployments and runs them, ``limit`` at a time."""
    with TemporaryDirectory(prefix="faceid-worker-") as folder:
        ready = Path(folder) / "ready"
        variables = {
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            **environment,
            "PREFECT_API_URL": api_url,
        }
        command = ["deployments.serve", "--limit", str(limit), "--ready-file", str(ready)]
        with child("the worker", command, variables, log) as process:
            wait_until_ready(process, ready)
            yield process
