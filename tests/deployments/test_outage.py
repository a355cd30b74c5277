"""An outage over two windows in real processes, while the worker and the server are killed.

The emulator's clock is moved, so that hours pass; everything else is real, and is observed through
the API.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.command_line import Ended
from tests.deployments.stack_processes import parts_of_up
from tests.deployments.triggered_runs import trigger
from tests.sample_request import REQUEST
from tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ACTION = REQUEST["target_action"]


class Service:
    """Controls the emulator."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url + "/_emulator")

    def is_down(self) -> None:
        self.http.post("/faults", json={"op": ACTION, "do": "http:503", "times": 0})

    def is_well(self) -> None:
        self.http.delete("/faults")

    def window_closes(self) -> None:
        self.http.post("/clock", json={"advance": 7200})

    def calls(self) -> int:
        return self.http.get("/stats").json()["calls"].get(ACTION, 0)


def chain(api: httpx.Client) -> list[dict[str, Any]]:
    """Return the request's runs, which are found by its tag, newest first."""
    query = {"flow_runs": {"tags": {"all_": ["request:r-1"]}}, "sort": "EXPECTED_START_TIME_DESC"}
    try:
        return api.post("/flow_runs/filter", json=query).raise_for_status().json()
    except httpx.HTTPError:
        return []  # the server is not back yet


def kill(*commands: str) -> None:
    """Kill the processes of the stack that run any of these commands, with SIGKILL."""
    killed: list[str] = []
    for process in parts_of_up():
        found = [command for command in commands if command in " ".join(process.cmdline())]
        killed += found
        if found:
            process.kill()
    assert set(killed) == set(commands)


def test_a_request_outlives_an_outage_its_worker_and_its_server(
    up: Callable[[], dict[str, str]],
    faceid: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    ready = up()
    service = Service(ready["endpoint"])
    service.is_down()
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api:
        first = trigger(api)
        until(service.calls, "the first call")
        service.window_closes()
        until(lambda: len(chain(api)) == 2, "a follow-up")
        before = service.calls()
        until(lambda: service.calls() > before, "a call in the second window")

        # The worker, its run in the middle of the call, and the server.
        kill("deployments.serve", "prefect.engine", "deployments.server start")
        until(lambda: len(chain(api)) == 3, "a follow-up of the run that died")
        before = service.calls()
        until(lambda: service.calls() > before, "a call of the third run")
        service.window_closes()
        until(lambda: len(chain(api)) == 4, "a follow-up of the second window")
        service.is_well()
        until(lambda: chain(api)[0]["state"]["type"] == "COMPLETED", "the newest run's end")
        runs = chain(api)
        artifacts = api.post(
            "/artifacts/filter",
            json={"artifacts": {"key": {"any_": [f"result-{runs[0]['id']}"]}}},
        ).json()

    assert runs[-1]["id"] == first
    states = [(run["state"]["name"], run["state"]["message"].partition(":")[0]) for run in runs]
    assert states == [
        ("Completed", "verdict"),
        ("Completed", "rerequested"),
        ("Crashed", states[2][1]),
        ("Completed", "rerequested"),
    ]
    # The runs are linked in both directions.
    for newer, older in pairwise(runs):
        assert f"previous:{older['id']}" in newer["tags"]
        assert f"next:{newer['id']}" in older["tags"]
    assert {"outcome:verdict", "verdict:passed", "service:emulator"} <= set(runs[0]["tags"])
    assert "passed" in artifacts[0]["data"]

    monkeypatch.setenv("FACEID_ENDPOINT", ready["endpoint"])
    code, out, _ = faceid("status", "r-1")
    assert code == 0
    assert f'"calls":{service.calls()}' in out
    for run in runs:
        assert run["id"] in out
    assert '"windows":3' in out
