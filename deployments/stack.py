"""The processes of a local stack: a Prefect server, the emulator and a worker.

Each of them is a child process that ends when this process ends. They are stopped in the reverse
order of their start.
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
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.grace import run_seconds
from deployments.settings_files import SERVER_SETTINGS, WORKER_SETTINGS
from faceid.errors import FaceIdError, InvalidInput
from faceid.outputs import stderr

START_SECONDS = 120.0
"""Seconds within which a child must be ready. A Prefect server first migrates its database."""

STOP_SECONDS = 15.0
"""Seconds within which a child must end after SIGTERM, in addition to the time that its runs have.
It is then killed."""

MAX_RESTARTS = 5
"""Number of times that a child may be restarted within ``RESTARTS_SECONDS``."""
RESTARTS_SECONDS = 600.0
"""Length of the period, in seconds, in which restarts are counted."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Numbers of two options of ``prctl(2)``."""


class StackError(FaceIdError):
    """Raised if a part of the local stack does not start, or ends unexpectedly.

    ``message`` is the rest of a sentence that begins with ``part``.
    """

    def __init__(self, part: str, message: str) -> None:
        super().__init__("LocalStack", f"{part} {message}")


class Child:
    """A child process that runs ``python -m`` with the arguments ``command``.

    ``name`` is used in messages. The output of the process is appended to the file ``log``; if that
    is ``None``, its stderr is the stderr of this process, and its stdout is discarded. ``ready`` is
    a file that is not empty, or a URL that answers, once the process is ready. ``stop_seconds`` is
    the time that it has to end.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path | None,
        ready: Path | str,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.name = name
        """Name of the process in messages, such as ``the worker``."""
        self._command = command
        self._environment = dict(environment)
        self._log = log
        self._ready = ready
        self._stop_seconds = stop_seconds
        self._restarts: list[float] = []
        self.process = self._start()
        """The running process, or the last one."""

    def _start(self) -> "subprocess.Popen[bytes]":
        if isinstance(self._ready, Path):
            self._ready.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._log.open("ab")) if self._log else None
            return subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-m", *self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                # Without a log only stderr is shown, because stdout is for the results of commands.
                stdout=output or subprocess.DEVNULL,
                stderr=output,
                # The child is in a group of its own, which Ctrl-C in the terminal does not reach,
                # because this process stops its children in order.
                process_group=0,
                # The rule that is ignored here is about threads. Our commands have only one thread
                # when they start a child.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def wait_until_ready(self) -> None:
        """Block until the process is ready.

        Raises ``StackError`` if it ends, or is not ready within ``START_SECONDS``.
        """
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(self._ready):
            self.check()
            if time.monotonic() > deadline:
                raise StackError(self.name, f"was not ready after {START_SECONDS:.0f} seconds")
            time.sleep(0.1)

    def check(self) -> None:
        """Raise ``StackError`` if the process has ended."""
        code = self.process.poll()
        if code is not None:
            tail = self._log.read_text(errors="replace")[-2000:] if self._log else ""
            raise StackError(self.name, f"ended with exit code {code}. {tail}".rstrip())

    def keep_alive(self) -> None:
        """Restart the process if it has ended, and wait until it is ready.

        Raises ``StackError`` if it has already been restarted ``MAX_RESTARTS`` times within
        ``RESTARTS_SECONDS``, or does not become ready.
        """
        if self.process.poll() is None:
            return
        now = time.monotonic()
        self._restarts = [then for then in self._restarts if now - then < RESTARTS_SECONDS]
        if len(self._restarts) == MAX_RESTARTS:
            self.check()
        self._restarts.append(now)
        stderr.print(f"{self.name} ended with exit code {self.process.poll()}: starting it again")
        self.stop()
        self.process = self._start()
        try:
            self.wait_until_ready()
        except StackError:
            if self.process.poll() is None:
                raise
            # The process ended while it started, such as a worker whose server has just died. The
            # next call restarts it, and counts that like any other restart.

    def stop(self) -> None:
        """Terminate the process, and kill its process group after ``stop_seconds``."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self._stop_seconds)
        # This kills the process if it has ignored SIGTERM, and what it has left behind in its
        # group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def child(
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    log: Path | None,
    ready: Path | str,
    stop_seconds: float = STOP_SECONDS,
) -> Generator[Child]:
    """Start a child process, yield it once it is ready, and stop it on exit.

    The arguments are those of ``Child``. Raises ``StackError`` if the process does not become
    ready.
    """
    started = Child(name, command, environment, log, ready, stop_seconds)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.stop()


@contextlib.contextmanager
def orphans_ended(parts: Sequence[Child]) -> Generator[None]:
    """On exit, end the processes that killed children have left behind. Only on Linux.

    The runs of a worker that was killed continue without it, and until the exit may still finish
    their requests. The processes in ``parts`` are left alone.
    """
    if sys.platform != "linux":
        yield
        return
    # This makes descendants whose parent has died children of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        ours = {part.process.pid for part in parts}
        for end, seconds in ((signal.SIGTERM, run_seconds()), (signal.SIGKILL, STOP_SECONDS)):
            deadline = time.monotonic() + seconds
            for orphan in _living_children(ours):
                os.kill(orphan, end)
            while _living_children(ours) and time.monotonic() < deadline:
                time.sleep(0.1)


def _living_children(but: set[int]) -> list[int]:
    """Return the IDs of this process's running children except ``but``; reap those that ended."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    living: list[int] = []
    for pid in map(int, listed.split()):
        if pid not in but:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    living.append(pid)
    return living


def _end_with_parent() -> None:
    # This runs in the child before `exec`. It makes the child end even if this process is killed
    # with SIGKILL.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_ready(ready: Path | str) -> bool:
    if isinstance(ready, Path):
        return ready.exists() and ready.stat().st_size > 0
    try:
        with urllib.request.urlopen(ready, timeout=5):  # noqa: S310 - our own server
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def claim_port(port: int) -> int:
    """Return the port if it is free; for 0, return a free port.

    Raises ``InvalidInput`` if the port is taken.
    """
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
    port: int,
    environment: Mapping[str, str],
    log: Path | None,
    settings: Mapping[str, str] = SERVER_SETTINGS,
) -> Generator[tuple[Child, str]]:
    """Run a Prefect server on this port of 127.0.0.1; yield its process and the URL of its API.

    ``environment`` determines the server's home and database, and overrides ``settings``. Raises
    ``StackError`` if the server does not start.
    """
    root = f"http://127.0.0.1:{port}"
    variables = {
        **settings,
        **environment,
        # Without this, the dashboard would call port 4200, whatever the server's port is.
        "PREFECT_SERVER_UI_API_URL": f"{root}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
    }
    variables.pop("PREFECT_API_URL", None)
    command = ["deployments.server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with child("the Prefect server", command, variables, log, f"{root}/api/health") as process:
        yield process, f"{root}/api"


@contextlib.contextmanager
def temporary_prefect_server(environment: Mapping[str, str]) -> Generator[str]:
    """Run a Prefect server with a temporary home and database; yield the URL of its API.

    Raises ``StackError`` if the server does not start.
    """
    with TemporaryDirectory(prefix="faceid-prefect-") as home:
        log = Path(home) / "server.log"
        own = {**environment, "PREFECT_HOME": home}
        own.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
        with prefect_server(free_port(), own, log) as (_, api_url):
            yield api_url


@dataclass(frozen=True)
class EmulatorAddress:
    """The URL of a running emulator, and the key that it accepts."""

    url: str
    """URL of the emulator, without a path."""
    secret_id: str
    """ID of the key."""
    secret_key: str
    """Secret of the key."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which deliveries use the emulator."""
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
    """Run an emulator in a child process; yield the process and its address.

    The emulator reads its options from ``environment``, and uses a free port unless
    ``FACEID_EMULATOR_PORT`` is set. Raises ``StackError`` if it does not start.
    """
    with TemporaryDirectory(prefix="faceid-emulator-") as folder:
        ready = Path(folder) / "ready.json"
        command = ["faceid", "emulator", "--ready-file", str(ready)]
        if "FACEID_EMULATOR_PORT" not in environment:
            command += ["--port", "0"]
        with child("the emulator", command, environment, log, ready) as process:
            yield process, EmulatorAddress(**json.loads(ready.read_text()))


@contextlib.contextmanager
def worker(
    api_url: str, environment: Mapping[str, str], limit: int, log: Path | None
) -> Generator[Child]:
    """Run ``deployments.serve``, which executes up to ``limit`` runs at the same time.

    ``api_url`` is the URL of the Prefect server's API. Yields the process once runs can be
    triggered. Raises ``StackError`` if it does not start.
    """
    with TemporaryDirectory(prefix="faceid-worker-") as folder:
        ready = Path(folder) / "ready"
        variables = {
            **WORKER_SETTINGS,
            **environment,
            "PREFECT_API_URL": api_url,
        }
        # A key for Prefect Cloud must not be sent to this server.
        variables.pop("PREFECT_API_KEY", None)
        command = ["deployments.serve", "--limit", str(limit), "--ready-file", str(ready)]
        seconds = run_seconds() + STOP_SECONDS
        with child("the worker", command, variables, log, ready, seconds) as process:
            yield process
