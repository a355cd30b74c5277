"""A run whose call is in flight longer than Prefect would wait before it kills it."""

from collections.abc import Callable

import httpx
import pytest

from tests.deployments.triggered_runs import final_state, trigger
from tests.sample_request import REQUEST
from tests.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ACTION = REQUEST["target_action"]
PREFECTS_PATIENCE = 30
"""Seconds after which Prefect's runner kills a process that it has sent SIGTERM."""


def test_cancel_in_the_dashboard_brings_the_call_home(up: Callable[[], dict[str, str]]):
    ready = up()
    control = httpx.Client(base_url=ready["endpoint"] + "/_emulator")
    control.post("/faults", json={"op": ACTION, "do": f"delay:{PREFECTS_PATIENCE + 5}"})
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api:
        run = trigger(api)

        def calls() -> int:
            return control.get("/stats").json()["calls"].get(ACTION, 0)

        until(calls, "the call")
        cancelling = {"state": {"type": "CANCELLING"}}
        api.post(f"/flow_runs/{run}/set_state", json=cancelling).raise_for_status()
        state = final_state(api, run)
        assert state["type"] == "CANCELLED"
        assert state["message"] == "cancelled: verdict: passed, Success [emulator]"
        # The verdict is stored: the next run calls nothing.
        assert final_state(api, trigger(api))["message"] == "verdict: passed, Success [emulator]"
        assert calls() == 1
