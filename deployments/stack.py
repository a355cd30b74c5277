"""The processes of a local stack: a Prefect server, the emulator and a worker.

Each one is a child process that ends with this process. They are stopped in the reverse order of
their start.
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

from deployments.settings_files import SERVER_SETTINGS, WORKER_SETTINGS
from faceid.command import stderr
from faceid.errors import FaceIdError, InvalidInput

START_SECONDS = 120.0
"""How long a child may take to become ready. A Prefect server migrates its database first."""

STOP_SECONDS = 15.0

MAX_RESTARTS = 5
RESTARTS_SECONDS = 600.0
"""A child is started again at most ``MAX_RESTARTS`` times in ``RESTARTS_SECONDS``."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


class StackError(FaceIdError):
    """A part of the local stack did not start, or ended unexpectedly."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__("LocalStack", f"{part} {message}")


class Child:
    """A child process that runs ``python -m`` with ``command``.

    Its output goes to the file ``log``. If that is ``None``, its stderr is ours and its stdout is
    discarded.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path | None,
        ready: Path | str,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = dict(environment)
        self._log = log
        self._ready = ready
        """A file that is not empty, or a URL that answers, once the process is ready."""
        self._restarts: list[float] = []
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        if isinstance(self._ready, Path):
            self._ready.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._log.open("ab")) if self._log else None
            return subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-m", *self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                # Without a log only errors are shown: a child's stdout is not ours to print.
                stdout=output or subprocess.DEVNULL,
                stderr=output,
                # Keeps Ctrl-C in the terminal from the child: we stop our children in order.
                process_group=0,
                # The rule is about threads: our commands have only one when they start a child.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def wait_until_ready(self) -> None:
        """Block until the process is ready. Raises ``StackError`` if it ends or takes too long."""
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
        """Restart the process if it has ended. Raises ``StackError`` if that happens too often."""
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
            # It ended while it started, such as a worker whose server has just died. It is
            # restarted the next time, and as often as any other.

    def stop(self) -> None:
        """Terminate the process, and kill its process group after ``STOP_SECONDS``."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        # Kills the process if it ignored SIGTERM, and whatever it left behind in its group.
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
) -> Generator[Child]:
    """Start a process, yield it once it is ready, and stop it on exit. Raises ``StackError``."""
    started = Child(name, command, environment, log, ready)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.stop()


@contextlib.contextmanager
def orphans_ended(parts: Sequence[Child]) -> Generator[None]:
    """On exit, end the processes that killed children left behind (on Linux only).

    The runs of a worker that was killed go on without it, and may still finish their requests until
    then. The processes of ``parts`` are left alone.
    """
    if sys.platform != "linux":
        yield
        return
    # Makes descendants whose parent has died our children.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        ours = {part.process.pid for part in parts}
        for end in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_SECONDS
            for orphan in _living_children(ours):
                os.kill(orphan, end)
            while _living_children(ours) and time.monotonic() < deadline:
                time.sleep(0.1)


def _living_children(but: set[int]) -> list[int]:
    """Return the process IDs of our running children except ``but``, and reap ended ones."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    living: list[int] = []
    for pid in map(int, listed.split()):
        if pid not in but:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    living.append(pid)
    return living


def _end_with_parent() -> None:
    # Runs in the child before exec, so that the child ends even if we are killed with SIGKILL.
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
    """Return the port, or a free one for 0. Raises ``InvalidInput`` if the port is taken."""
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

    ``environment`` determines its home and database, and overrides ``settings``. Raises
    ``StackError`` if the server does not start.
    """
    root = f"http://127.0.0.1:{port}"
    variables = {
        **settings,
        **environment,
        # By default the dashboard calls port 4200, whatever the server's port is.
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
    """Run a Prefect server with a temporary home; yield the URL of its API."""
    with TemporaryDirectory(prefix="faceid-prefect-") as home:
        log = Path(home) / "server.log"
        own = {**environment, "PREFECT_HOME": home}
        own.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
        with prefect_server(free_port(), own, log) as (_, api_url):
            yield api_url


@dataclass(frozen=True)
class EmulatorAddress:
    """The URL of a running emulator, and a key that it accepts."""

    url: str
    secret_id: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make a client use the emulator."""
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
    """Run the emulator in a child process; yield the process and its address.

    It reads ``FACEID_EMULATOR_*`` from ``environment``, and uses a free port unless
    ``FACEID_EMULATOR_PORT`` is set.
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
    """Run ``deployments.serve``, which executes up to ``limit`` runs at the same time."""
    with TemporaryDirectory(prefix="faceid-worker-") as folder:
        ready = Path(folder) / "ready"
        variables = {
            **WORKER_SETTINGS,
            **environment,
            "PREFECT_API_URL": api_url,
        }
        # A key for Prefect Cloud means nothing to this server.
        variables.pop("PREFECT_API_KEY", None)
        command = ["deployments.serve", "--limit", str(limit), "--ready-file", str(ready)]
        with child("the worker", command, variables, log, ready) as process:
            yield process
