"""``faceid up`` under load: a batch, single runs and constant triggers at the same time.

These are real processes, on SQLite. Every trigger is accepted at the first attempt and soon, and
nothing that was reported to the server is lost.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.stack import EmulatorAddress
from faceid.samples import copy_samples
from tests.deployments.stack_processes import running_up
from tests.sample_request import REQUEST
from tests.server_log import refusals
from tests.waiting import until

# A services test, because those run one at a time: this one keeps both cores busy.
pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

REQUESTS = 300
SECONDS_BETWEEN = 0.3
MAX_SECONDS = 30.0
"""Limit for the reply to a trigger. A server that cannot get SQLite's lock refuses after 60 s."""

STEPS = 4
"""Task runs per request."""

ONE_FILE: dict[str, Any] = {
    "target_action": "IdCardOCRVerification",
    "region": "ap-singapore",
    "resources": {"ImageUrl": "alder.jpg"},
}


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[dict[str, str]]:
    copy_samples(tmp_path)
    with (tmp_path / "up.log").open("wb") as log, running_up(tmp_path, output=log) as ready:
        yield ready


@contextmanager
def running_batch(ready: dict[str, str], folder: Path) -> Generator["subprocess.Popen[bytes]"]:
    lines = [json.dumps(ONE_FILE | {"request_id": f"b-{n}"}) for n in range(REQUESTS)]
    (folder / "people.jsonl").write_text("\n".join(lines))
    address = EmulatorAddress(ready["endpoint"], ready["secret_id"], ready["secret_key"])
    with (folder / "batch.log").open("wb") as log:
        batch = subprocess.Popen(
            [sys.executable, "-m", "faceid", "batch", "people.jsonl", "--results", "results.jsonl"],
            cwd=folder,
            env={
                **os.environ,
                **address.environment(),
                "PREFECT_HOME": str(folder / "prefect"),
                "PREFECT_API_URL": ready["api_url"],
            },
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield batch
    finally:
        batch.kill()
        batch.wait()


def events(api: httpx.Client, prefix: str) -> int:
    """Return how many events with this prefix the server has stored."""
    query = {"filter": {"event": {"prefix": [prefix]}, "occurred": {"since": "2026-01-01"}}}
    return api.post("/events/filter", json=query).raise_for_status().json()["total"]


def count(api: httpx.Client, what: str, query: dict[str, Any]) -> int:
    return api.post(f"/{what}/count", json=query).raise_for_status().json()


def test_triggers_are_taken_while_a_batch_and_single_runs_are_at_work(
    ready: dict[str, str], tmp_path: Path
):
    triggered: list[str] = []
    with (
        running_batch(ready, tmp_path) as batch,
        httpx.Client(base_url=ready["api_url"], timeout=120) as api,
    ):
        deployment = api.get("/deployments/name/deliver/default").json()["id"]
        create = f"/deployments/{deployment}/create_flow_run"
        while batch.poll() is None:
            began = time.monotonic()
            parameters = REQUEST | {"request_id": f"s-{len(triggered)}"}
            reply = api.post(create, json={"parameters": parameters})
            seconds = time.monotonic() - began
            assert reply.status_code == 201, reply.text
            assert seconds < MAX_SECONDS
            triggered.append(reply.json()["id"])
            time.sleep(max(0.0, SECONDS_BETWEEN - seconds))
        assert batch.returncode == 0, (tmp_path / "batch.log").read_text()
        assert len(triggered) > 30
        single = {
            "flow_runs": {"id": {"any_": triggered}, "state": {"type": {"any_": ["COMPLETED"]}}}
        }
        until(lambda: count(api, "flow_runs", single) >= 2, "completed single runs")

        results = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
        assert [result["status"] for result in results] == ["verdict"] * REQUESTS
        of_batch = {
            "flow_runs": {"tags": {"any_": ["batch:people"]}},
            "task_runs": {
                "state": {"type": {"any_": ["COMPLETED"]}},
                "subflow_runs": {"exists_": False},
            },
        }
        told = "faceid.delivery.verdict"
        until(lambda: count(api, "task_runs", of_batch) == STEPS * REQUESTS, "all task runs")
        until(lambda: events(api, told) >= REQUESTS, "an event for each verdict")
    assert refusals(tmp_path, "up.log") == []
