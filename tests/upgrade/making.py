"""A running system of some version of this project, whose runs are executed one by one.

The system is that of ``faceid up --emulator``, in a folder of its own. Its worker is suspended, so
that each scheduled run stays where it is until the caller executes it, or kills it in the middle.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from dotenv import dotenv_values

from faceid.emulator.remote import EmulatorControl
from tests.waiting import until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class System:
    """A system in ``folder``, run by the code in ``checkout``."""

    folder: Path
    environment: dict[str, str]
    """Environment of the worker's runs, and of commands."""
    api: httpx.Client
    emulator: EmulatorControl

    def trigger(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Schedule a run, and return its ID."""
        deployment_id = self._get(f"/deployments/name/{deployment}")["id"]
        reply = self.api.post(
            f"/deployments/{deployment_id}/create_flow_run", json={"parameters": parameters}
        )
        return reply.raise_for_status().json()["id"]

    def begin(self, run_id: str, **more: str) -> "subprocess.Popen[bytes]":
        """Begin to execute a run in a process of its own, as a worker does."""
        run = self._get(f"/flow_runs/{run_id}")
        deployment = self._get(f"/deployments/{run['deployment_id']}")
        self.set_state(run_id, "PENDING")
        return subprocess.Popen(
            [sys.executable, "-m", "prefect.flow_engine", deployment["entrypoint"]],
            cwd=self.folder,
            env={**self.environment, "PREFECT__FLOW_RUN_ID": run_id, **more},
        )

    def work(self, run_id: str, **more: str) -> str:
        """Execute a run to its end, and return the message of its final state."""
        assert self.begin(run_id, **more).wait() == 0
        state = self._get(f"/flow_runs/{run_id}")["state"]
        assert state["type"] in FINAL, state
        return state["message"]

    def set_state(self, run_id: str, state: str) -> None:
        body = {"state": {"type": state}, "force": state == "CANCELLED"}
        self.api.post(f"/flow_runs/{run_id}/set_state", json=body).raise_for_status()

    def runs(self, tag: str) -> list[dict[str, Any]]:
        """Return the runs with a tag, oldest first."""
        query = {"flow_runs": {"tags": {"all_": [tag]}}}
        found = self.api.post("/flow_runs/filter", json=query).raise_for_status().json()
        return sorted(found, key=lambda run: run["created"])

    def called(self, op: str) -> int:
        """Return how many calls of an operation the emulator has received."""
        return self.emulator.stats()["calls"].get(op, 0)

    def command(self, *arguments: str) -> str:
        """Run ``python`` with the system's code and settings, and return its standard output."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return ended.stdout

    def status(self, *request_ids: str, credentials: str = "") -> dict[str, dict[str, Any]]:
        """Return what ``faceid status`` says about requests, by request ID."""
        flags = ["--credentials", credentials] if credentials else []
        lines = self.command("-m", "faceid", "status", *request_ids, *flags).splitlines()
        return {one["request_id"]: one for one in map(json.loads, lines)}

    def _get(self, path: str) -> dict[str, Any]:
        return self.api.get(path).raise_for_status().json()


@contextmanager
def running(checkout: Path, folder: Path, settings: dict[str, str]) -> Generator[System]:
    """Run the system of a checkout in a folder, and stop it on exit."""
    environment = {
        **os.environ,
        **{name: value or "" for name, value in _worker_settings(checkout).items()},
        **settings,
        "PYTHONPATH": str(checkout),
        "PREFECT_HOME": str(folder / "prefect"),
        "FACEID_RESOURCE_ROOTS": str(folder),
    }
    ready = folder / "ready.json"
    command = ["faceid", "up", "--emulator", "--port", "0", "--ready-file", str(ready)]
    up = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment)
    try:
        until(ready.exists, "the ready file")
        address = json.loads(ready.read_text())
        environment |= {
            "PREFECT_API_URL": address["api_url"],
            "FACEID_ENDPOINT": address["endpoint"],
            "TENCENTCLOUD_SECRET_ID": address["secret_id"],
            "TENCENTCLOUD_SECRET_KEY": address["secret_key"],
        }
        if auth := address.get("auth_string"):
            environment["PREFECT_API_AUTH_STRING"] = auth
        user, _, password = (auth or ":").partition(":")
        with httpx.Client(
            base_url=address["api_url"], auth=(user, password) if auth else None, timeout=60
        ) as api:
            system = System(folder, environment, api, EmulatorControl(address["endpoint"]))
            until(lambda: _has_swept(api), "the first sweep")
            for process in psutil.Process(up.pid).children():
                if "deployments.serve" in process.cmdline():
                    process.suspend()
            yield system
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(90)
        ready.unlink(missing_ok=True)


def _worker_settings(checkout: Path) -> dict[str, str | None]:
    return dotenv_values(checkout / "deployments" / "worker.env", interpolate=False)


def _has_swept(api: httpx.Client) -> bool:
    query = {"flows": {"name": {"any_": ["sweep"]}}}
    runs = api.post("/flow_runs/filter", json=query).raise_for_status().json()
    return any(run["state"]["type"] == "COMPLETED" for run in runs)
