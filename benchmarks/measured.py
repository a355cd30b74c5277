"""Measured runs: a process delivers requests to a new emulator, with or without a Prefect server.

The figures come from three sources: the emulator's log and statistics (times of the first and last
call, most calls in any second, throttled replies), the operating system's resource usage of the
delivering process and the server, and the task runs in Prefect's database.
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
"""Limit of every action when the limit is lifted, in calls per second."""

PATIENCE = 30.0
"""How long to wait for another recorded task run before giving up, in seconds."""

_ACTIONS = ("CreateUploadUrl", "IdCardOCRVerification", "VideoLivenessCompare")


@dataclass(frozen=True)
class Figures:
    """The figures of one run."""

    seconds: float
    """Time from the first call to the last, in seconds."""
    per_second: float
    """Requests per second."""
    most: int
    """The most calls of CreateUploadUrl in any one second."""
    tickets_per_second: float
    throttled: int
    """Number of throttled calls."""
    flow_cpu: float
    """CPU time per request in the delivering process, including its start, in milliseconds."""
    peak: float
    """Peak memory of the delivering process, in MB."""
    recorded: int = 0
    """Number of completed task runs in Prefect's database."""
    lag: float = 0
    """Time from the end of the process until the last task run was recorded, in seconds."""
    server_cpu: float = 0
    """CPU time per request in the Prefect server, in milliseconds."""


@dataclass(frozen=True)
class Stage:
    """The environment of a measured run: its folder, emulator and Prefect server."""

    folder: Path
    environment: dict[str, str]
    emulator_url: str
    server: psutil.Process | None
    api_url: str

    def run(self, command: list[str], requests: int, task_runs: int = 0) -> Figures:
        """Run ``python -m COMMAND`` until it ends, and return the figures.

        ``task_runs`` is the expected number of task runs. Raises ``RuntimeError`` if the command
        fails.
        """
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
        """Wait until all expected task runs are recorded, or until ``PATIENCE`` runs out.

        Returns the number of completed task runs, and the time from ``since`` until the last of
        them was recorded, in seconds.
        """
        # Prefect also creates a task run for each child flow run; these are not counted.
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
    """Start an emulator and a Prefect server in a temporary folder, and yield the stage.

    ``server`` contains the settings of the Prefect server; with ``None`` no server is started. With
    ``lifted`` the limit of every action is ``LIFTED``.
    """
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
    """Return the CPU time of a process and its descendants, in seconds."""
    if process is None:
        return 0.0
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def post(url: str, body: dict[str, Any]) -> Any:
    """Post a JSON document, and return the JSON of the reply."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)
