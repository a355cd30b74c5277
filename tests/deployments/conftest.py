"""The local stack as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest

REQUEST: dict[str, Any] = {
    "request_id": "r-1",
    "target_action": "VideoLivenessCompare",
    "region": "ap-singapore",
    "resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
    "action_parameters": {"LivenessType": "SILENT"},
}


def until(look: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """What ``look`` finds as soon as it finds something; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


def final_state(api: httpx.Client, run_id: str) -> dict[str, Any]:
    """The state that a run ended in, as soon as it has."""

    def look() -> dict[str, Any] | None:
        state = cast("dict[str, Any]", api.get(f"/flow_runs/{run_id}").json()["state"])
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return cast("dict[str, Any]", until(look, "the run's end"))


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


@pytest.fixture
def up(samples: Path, tmp_path: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Starts ``faceid up --emulator`` on a free port; gives what its ready file says."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> dict[str, str]:
        ready = tmp_path / "ready.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "faceid", "up", "--emulator", "--port", "0"]
            + ["--ready-file", str(ready)],
            env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")},
        )
        started.append(process)

        def look() -> bool:
            assert process.poll() is None
            return ready.exists()

        until(look, "the ready file")
        assert ready.stat().st_mode & 0o777 == 0o600
        return json.loads(ready.read_text())

    yield start
    for process in started:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert_all_gone(family)
