"""A deployment of ``deliver-batch``, with the test in the role of its worker."""

from typing import Any, cast
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow_async

from flows.deliver_batch import deliver_batch
from flows.server.runs import tag_of
from tests.flows.deployed import Worker


class Deployed:
    """A deployed batch, whose runs are executed by the test."""

    def __init__(
        self, worker: Worker, parameters: dict[str, Any], patch: pytest.MonkeyPatch
    ) -> None:
        self.worker = worker
        self.parameters = parameters
        self.patch = patch

    async def trigger(self) -> FlowRun:
        async with get_client() as client:
            return await client.create_flow_run_from_deployment(
                self.worker.deployment_id, parameters=self.parameters
            )

    async def work(self, run: FlowRun) -> State[Any]:
        """Execute a run as the process that a worker starts for it."""
        self.patch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
        taken = await self.worker.taken(run.id)
        ended = await run_flow_async(deliver_batch, taken, taken.parameters, return_type="state")
        return cast("State[Any]", ended)

    async def read(self, run: FlowRun) -> FlowRun:
        async with get_client() as client:
            return await client.read_flow_run(run.id)

    async def next(self, run: FlowRun) -> FlowRun:
        following = tag_of(await self.read(run), "next")
        assert following
        async with get_client() as client:
            return await client.read_flow_run(UUID(following))
