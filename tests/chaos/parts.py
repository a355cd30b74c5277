"""The processes that a chaos run starts, and how it finds, kills and clears them away.

``deployments.stack`` is not used for this: its children end with the thread that started them, and
here a fault's thread starts them again.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "FACEID_CHAOS"
"""Environment variable by which the processes of a chaos run, orphans included, are known."""

START_SECONDS = 300.0
"""Seconds within which a part must be ready, on a machine that is busy."""


class Part:
    """A process that is started, killed and started again.

    ``command`` may run anything. Its output is appended to ``log``. ``is_ready`` is asked until it
    returns true.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        is_ready: Callable[[], bool],
    ) -> None:
        self.name = name
        self.command = command
        self.environment = dict(environment)
        self._log = log
        self._is_ready = is_ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start the process and wait until it is ready. A process that ends is started again."""
        deadline = time.monotonic() + seconds
        while True:
            if self.process is None or self.process.poll() is not None:
                with self._log.open("ab") as output:
                    self.process = subprocess.Popen(
                        self.command,
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
            if self._is_ready():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready; see {self._log}")
            time.sleep(0.2)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the process a signal, and wait for its end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes of the chaos run with this mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
    return found


def having(processes: Iterable[psutil.Process], *words: str) -> list[psutil.Process]:
    """Return those of the processes whose command line has one of the words, oldest first."""
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and set(words) & set(process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


def clear_away(mark: str) -> None:
    """Kill all processes of the chaos run with this mark."""
    while left := marked(mark):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
