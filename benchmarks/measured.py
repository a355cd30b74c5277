"""One measured run: a fresh emulator and, where it is asked for, a fresh Prefect server, and a
process that delivers requests between them.

What is read: the emulator's own log (when the first and the last call came, most calls in any
second, throttled replies), the operating system's accounts of both processes, and the task runs in
Prefect's database.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from deployments.stack import emulator, free_port, prefect_server
from faceid.samples import copy_samples

LIFTED = 1000
"""Calls per second of every action where the limit is lifted."""

PATIENCE = 30.0
"""Seconds without another recorded task run before no more are expected."""

_ACTIONS = ("CreateUploadUrl", "IdCardOCRVerification", "VideoLivenessCompare")


@dataclass(frozen=True)
class Figures:
    """What one run showed."""

    seconds: float
    """From the first call to the last."""
    per_second: float
    """Requests."""
    most: int
    """CreateUploadUrl in any one second."""
    tickets_per_second: float
    throttled: int
    flow_cpu: float
    """Milliseconds of CPU per request in the process that delivers, its start included."""
    peak: float
    """MB of memory of that process, at most."""
    recorded: int = 0
    """Task runs that ended Completed in the database."""
    lag: float = 0
    """Seconds from the process's end until the last of them was there."""
    server_cpu: float = 0
    """Milliseconds of CPU per request in the Prefect server."""


@dataclass(frozen=True)
class Stage:
    """Where a run takes place."""

    folder: Path
    environment: dict[str, str]
    emulator_url: str
    server: psutil.Process | None
    api_url: str

    def run(self, command: list[str], requests: int, task_runs: int = 0) -> Figures:
        """Runs ``python -m COMMAND`` to its end. ``task_runs`` are those that are expected."""
        server_before = _cpu(self.server)
        with (self.folder / "run.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended = time.monotonic()
        if process.returncode:
            raise RuntimeError((self.folder / "run.log").read_text(errors="replace")[-3000:])
        recorded, lag = self._recorded(task_runs, ended) if task_runs else (0, 0.0)
        log_, stats = self._ask_emulator("requests"), self._ask_emulator("stats")
        api = [entry["at"] for entry in log_ if entry["op"] in _ACTIONS]
        seconds = max(api) - min(api)
        tickets = [entry["at"] for entry in log_ if entry["op"] == "CreateUploadUrl"]
        return Figures(
            seconds=seconds,
            per_second=requests / seconds,
            most=stats["peak_per_second"]["CreateUploadUrl"],
            tickets_per_second=len(tickets) / seconds,
            throttled=sum(stats["throttled"].values()),
            flow_cpu=1000 * (usage.ru_utime + usage.ru_stime) / requests,
            peak=usage.ru_maxrss / 1024,
            recorded=recorded,
            lag=lag,
            server_cpu=1000 * (_cpu(self.server) - server_before) / requests,
        )

    def _recorded(self, expected: int, since: float) -> tuple[int, float]:
        """How many task runs are Completed once no more come, and when the last of them came."""
        # Prefect has a task run for each child flow run, too.
        completed = {
            "task_runs": {
                "state": {"type": {"any_": ["COMPLETED"]}},
                "subflow_runs": {"exists_": False},
            }
        }
        count, changed = 0, since
        while count < expected and time.monotonic() - changed < PATIENCE:
            if (now := post(f"{self.api_url}/task_runs/count", completed)) != count:
                count, changed = now, time.monotonic()
            time.sleep(0.2)
        return count, changed - since

    def _ask_emulator(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.emulator_url}/_emulator/{what}", timeout=60) as reply:
            return json.load(reply)


@contextmanager
def stage(*, lifted: bool, server: Mapping[str, str] | None) -> Generator[Stage]:
    """``server`` are the Prefect server's settings; ``None``: there is no server."""
    rates = {"FACEID_RATES": json.dumps(dict.fromkeys(_ACTIONS, LIFTED))} if lifted else {}
    with TemporaryDirectory(prefix="faceid-bench-") as name, ExitStack() as running:
        folder = Path(name)
        copy_samples(folder)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "FACEID_"))},
            "PREFECT_HOME": str(folder / "prefect"),
            "FACEID_STORAGE": str(folder / "storage"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            **rates,
        }
        raised = {"FACEID_EMULATOR_RATES": rates["FACEID_RATES"]} if lifted else {}
        _, address = running.enter_context(emulator(environment | raised, folder / "emulator.log"))
        environment |= address.environment()
        process, api_url = None, ""
        if server is not None:
            child, api_url = running.enter_context(
                prefect_server(free_port(), environment, folder / "server.log", server)
            )
            process = psutil.Process(child.process.pid)
            environment["PREFECT_API_URL"] = api_url
        yield Stage(folder, environment, address.url, process, api_url)


def _cpu(process: psutil.Process | None) -> float:
    """Seconds of CPU of a process and those that it started."""
    if process is None:
        return 0.0
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)
