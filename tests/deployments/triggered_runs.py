"""Triggers and watches runs through the API, as its users do."""

from typing import Any, cast

import httpx

from tests.sample_request import REQUEST
from tests.waiting import until


def trigger(api: httpx.Client, **changes: Any) -> str:
    """Trigger a run of the sample request, and return its ID."""
    deployment = api.get("/deployments/name/deliver/default").json()["id"]
    created = api.post(
        f"/deployments/{deployment}/create_flow_run", json={"parameters": REQUEST | changes}
    )
    assert created.status_code == 201, created.text
    return created.json()["id"]


def final_state(api: httpx.Client, run_id: str) -> dict[str, Any]:
    """Wait until a run has ended, and return its final state."""

    def look() -> dict[str, Any] | None:
        state = cast("dict[str, Any]", api.get(f"/flow_runs/{run_id}").json()["state"])
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return cast("dict[str, Any]", until(look, "the run's end"))
