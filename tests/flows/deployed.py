"""A deployment of ``deliver`` on the tests' Prefect server, with the test in the worker's role.

Runs are looked up through the HTTP API by the request's tag, as a caller would do.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, cast
from uuid import UUID, uuid4

import httpx
import orjson
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow_async
from prefect.states import Pending, Scheduled
from prefect.types.entrypoint import EntrypointType

from faceid.models import DeliveryResult
from flows.deliver import deliver
from flows.sweep import sweep
from tests.sample_request import REQUEST

NEXT = re.compile(r"rerequested: next run ([0-9a-f-]{36}) at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")


@dataclass
class Worker:
    """Executes scheduled runs in this process, one at a time, when the test asks for it."""

    api_url: str
    deployment_id: UUID
    request_id: str
    """Used by this test only, because all tests share the server."""

    @classmethod
    async def of_a_deployment(cls, api_url: str) -> Self:
        name = f"test-{uuid4().hex[:12]}"
        deployment = await deliver.ato_deployment(
            name, tags=["faceid"], entrypoint_type=EntrypointType.MODULE_PATH
        )
        return cls(api_url, await deployment.aapply(), f"r-{uuid4().hex[:12]}")

    async def trigger(self, **changes: Any) -> UUID:
        parameters = REQUEST | {"request_id": self.request_id} | changes
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(
                self.deployment_id, parameters=parameters, job_variables={"env": {"A": "B"}}
            )
        return run.id

    async def work(self, flow_run_id: UUID | str) -> State[Any]:
        """Execute a run as a worker would, but at once, whenever it is due."""
        run = await self.taken(flow_run_id)
        parameters = run.parameters
        ended = await run_flow_async(deliver, run, parameters, return_type="state")
        return cast("State[Any]", ended)

    async def taken(self, flow_run_id: UUID | str) -> FlowRun:
        """Claim a run as a worker does, without beginning it, and return it."""
        run_id = UUID(str(flow_run_id))
        async with get_client() as client:
            await client.set_flow_run_state(run_id, Scheduled(scheduled_time=datetime.now(UTC)))
            await client.set_flow_run_state(run_id, Pending())
            return await client.read_flow_run(run_id)

    async def leave_nothing(self) -> None:
        """Delete the deployment's runs, so that the sweeps of other tests do not find them."""
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.deployment_id]))
        async with get_client() as client:
            for run in await client.read_flow_runs(flow_run_filter=mine):
                await client.delete_flow_run(run.id)

    async def deliver(self, **changes: Any) -> State[Any]:
        return await self.work(await self.trigger(**changes))

    def chain(self) -> list[dict[str, Any]]:
        """Return the request's runs, which are found by its tag, in the order of their creation.

        A caller would sort by due time. The test cannot, because it executes runs before they are
        due.
        """
        query = {"flow_runs": {"tags": {"all_": [f"request:{self.request_id}"]}}}
        return sorted(self._ask("/flow_runs/filter", query), key=lambda run: run["created"])

    def _ask(self, path: str, query: dict[str, Any]) -> Any:
        reply = httpx.post(self.api_url + path, json=query, timeout=30)
        return reply.raise_for_status().json()

    def newest(self) -> dict[str, Any]:
        return self.chain()[-1]

    def result(self, flow_run_id: UUID | str) -> DeliveryResult:
        """Return the result object of a run, read from its artifact."""
        query = {"artifacts": {"key": {"any_": [f"result-{flow_run_id}"]}}}
        (artifact,) = self._ask("/artifacts/filter", query)
        (result,) = orjson.loads(artifact["data"])
        return DeliveryResult.model_validate(result)


async def swept() -> str:
    """Run a sweep, and return its state message."""
    state: State[Any] = await cast("Any", sweep)(return_state=True)
    assert state.is_completed(), state
    return state.message or ""


def tag(run: dict[str, Any], name: str) -> str | None:
    """Return the value of the run's tag ``name:value``, or ``None``."""
    values = [text.partition(":")[2] for text in run["tags"] if text.startswith(f"{name}:")]
    assert len(values) <= 1, run["tags"]
    return values[0] if values else None


async def delete_deployment(worker: Worker) -> None:
    async with get_client() as client:
        await client.delete_deployment(worker.deployment_id)


def next_run(state: State[Any]) -> tuple[str, datetime]:
    """Return the ID and the due time of the follow-up that a state message names."""
    found = NEXT.match(state.message or "")
    assert found, state
    return found[1], datetime.fromisoformat(found[2])
