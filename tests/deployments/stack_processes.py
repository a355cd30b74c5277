"""Runs ``faceid up --emulator``, and finds its processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from tests.waiting import until


@contextmanager
def running_up(
    folder: Path, output: IO[bytes] | None = None, **more: str
) -> Generator[dict[str, str]]:
    """Run ``faceid up --emulator`` on a free port in this folder.

    Yields the contents of the ready file. ``output`` receives stderr, and ``more`` is added to the
    environment.
    """
    ready = folder / "ready.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "faceid", "up", "--emulator", "--port", "0"]
        + ["--ready-file", str(ready)],
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect"), **more},
        cwd=folder,
        stderr=output,
    )
    try:

        def look() -> bool:
            assert process.poll() is None, "it ended by itself"
            return ready.exists()

        until(look, "the ready file")
        assert ready.stat().st_mode & 0o777 == 0o600
        yield json.loads(ready.read_text())
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert_all_gone(family)


def parts_of_up() -> list[psutil.Process]:
    """Return the processes that ``faceid up`` has started, and their descendants."""
    (up,) = [
        process
        for process in psutil.Process().children()
        if {"faceid", "up"} <= set(process.cmdline())
    ]
    return up.children(recursive=True)


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
