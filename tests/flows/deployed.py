"""``deliver`` as a deployment on the test's Prefect server, where the test plays the worker.

What is looked at is looked at through the HTTP API, as a caller would: by the tag of the request.
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
    """Runs scheduled runs in this process, one when it is told to."""

    api_url: str
    deployment_id: UUID
    request_id: str
    """Of this test alone: the server is that of all tests."""

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
        """Runs it as a worker would, whatever time it is due: that is now."""
        run = await self.taken(flow_run_id)
        parameters = run.parameters
        ended = await run_flow_async(deliver, run, parameters, return_type="state")
        return cast("State[Any]", ended)

    async def taken(self, flow_run_id: UUID | str) -> FlowRun:
        """The run, claimed by a worker and not begun."""
        run_id = UUID(str(flow_run_id))
        async with get_client() as client:
            await client.set_flow_run_state(run_id, Scheduled(scheduled_time=datetime.now(UTC)))
            await client.set_flow_run_state(run_id, Pending())
            return await client.read_flow_run(run_id)

    async def leave_nothing(self) -> None:
        """For other tests' sweeps to find."""
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.deployment_id]))
        async with get_client() as client:
            for run in await client.read_flow_runs(flow_run_filter=mine):
                await client.delete_flow_run(run.id)

    async def deliver(self, **changes: Any) -> State[Any]:
        return await self.work(await self.trigger(**changes))

    def chain(self) -> list[dict[str, Any]]:
        """The request's runs, the newest last: what a caller finds by the tag.

        A caller sorts by the time they are due. Here that may be the future: in the order made.
        """
        query = {"flow_runs": {"tags": {"all_": [f"request:{self.request_id}"]}}}
        return sorted(self._ask("/flow_runs/filter", query), key=lambda run: run["created"])

    def _ask(self, path: str, query: dict[str, Any]) -> Any:
        reply = httpx.post(self.api_url + path, json=query, timeout=30)
        return reply.raise_for_status().json()

    def newest(self) -> dict[str, Any]:
        return self.chain()[-1]

    def result(self, flow_run_id: UUID | str) -> DeliveryResult:
        """The result object of a run, from its artifact."""
        query = {"artifacts": {"key": {"any_": [f"result-{flow_run_id}"]}}}
        (artifact,) = self._ask("/artifacts/filter", query)
        (result,) = orjson.loads(artifact["data"])
        return DeliveryResult.model_validate(result)


async def swept() -> str:
    """What a sweep says that it did."""
    state: State[Any] = await cast("Any", sweep)(return_state=True)
    assert state.is_completed(), state
    return state.message or ""


def tag(run: dict[str, Any], name: str) -> str | None:
    """The value of a tag ``name:value``."""
    values = [text.partition(":")[2] for text in run["tags"] if text.startswith(f"{name}:")]
    assert len(values) <= 1, run["tags"]
    return values[0] if values else None


async def delete_deployment(worker: Worker) -> None:
    async with get_client() as client:
        await client.delete_deployment(worker.deployment_id)


def next_run(state: State[Any]) -> tuple[str, datetime]:
    """The run that a state says comes next, and when."""
    found = NEXT.match(state.message or "")
    assert found, state
    return found[1], datetime.fromisoformat(found[2])
