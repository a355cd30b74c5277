"""The local stack that the tests of the dashboard use, and requests for them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.sample_request import REQUEST

AUTH = "admin:let me in"


@dataclass
class Stack:
    """A running ``faceid up --emulator``, with an authenticated client of its API."""

    dashboard: str
    endpoint: str
    folder: Path
    """The folder in which the stack was started; relative locations start from it."""
    api: httpx.Client

    def ask(self, method: str, path: str, json: Any = None) -> Any:
        reply = self.api.request(method, path, json=json)
        return reply.raise_for_status().json() if reply.content else None

    def deployment(self, flow: str) -> str:
        return self.ask("GET", f"/deployments/name/{flow}/default")["id"]

    def page_of(self, flow: str) -> str:
        return f"{self.dashboard}/v2/deployments/deployment/{self.deployment(flow)}"

    def page_of_run(self, run: str, tab: str = "Logs") -> str:
        return f"{self.dashboard}/v2/runs/flow-run/{run}?tab={tab}"

    def runs_of(self, flow: str) -> int:
        return self.ask("POST", "/flow_runs/count", {"flows": {"name": {"any_": [flow]}}})

    def artifact(self, key: str) -> str | None:
        found = self.ask("POST", "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
        return f"{self.dashboard}/v2/artifacts/artifact/{found[0]['id']}" if found else None

    def logs_of(self, run: str) -> list[str]:
        query = {"logs": {"flow_run_id": {"any_": [run]}}}
        return [log["message"] for log in self.ask("POST", "/logs/filter", query)]

    def calls_of(self, action: str) -> int:
        stats = httpx.get(f"{self.endpoint}/_emulator/stats").raise_for_status().json()
        return stats["calls"].get(action, 0)

    def add_fault(self, **fault: Any) -> None:
        httpx.post(f"{self.endpoint}/_emulator/faults", json=fault).raise_for_status()


def new_id(what: str) -> str:
    """Return a request ID that no other test uses."""
    return f"{what}-{uuid4().hex[:8]}"


def manifest_line(request_id: str, **changes: Any) -> str:
    return json.dumps(REQUEST | {"request_id": request_id} | changes) + "\n"
