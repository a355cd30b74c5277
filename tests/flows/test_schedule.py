"""Scheduled runs: what ``{date}`` means for them, and parameters that were not validated."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow_async
from prefect.types.entrypoint import EntrypointType

from faceid.emulator import Emulator
from flows.batch.chain import replace_dead
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from tasks.settings import DeliverySettings
from tests.flows.batches import entry, write
from tests.flows.deployed import Worker, tag

SINGAPORE = ZoneInfo("Asia/Singapore")


class Scheduled:
    """A deployed flow with a schedule, as created in the dashboard."""

    def __init__(self, api: httpx.AsyncClient, flow: Flow[..., Any], deployment_id: UUID) -> None:
        self.api = api
        self.flow = flow
        self.deployment_id = deployment_id

    async def ask(self, method: str, path: str, json: Any = None) -> Any:
        reply = await self.api.request(method, path, json=json)
        return reply.raise_for_status().json() if reply.content else None

    async def late_runs(self, cron: str, zone: str, parameters: dict[str, Any]) -> list[FlowRun]:
        """Create a schedule, and return its runs of the last three days, oldest first.

        No worker has taken them.
        """
        path = f"/deployments/{self.deployment_id}"
        schedule = {"schedule": {"cron": cron, "timezone": zone}, "parameters": parameters}
        await self.ask("POST", f"{path}/schedules", [schedule])
        now = datetime.now(UTC)
        span = {"start_time": str(now - timedelta(days=3)), "end_time": str(now), "min_runs": 2}
        await self.ask("POST", f"{path}/schedule", span)
        query = {"flow_runs": {"deployment_id": {"any_": [str(self.deployment_id)]}}}
        runs = await self.ask("POST", "/flow_runs/filter", query)
        found = [FlowRun.model_validate(run) for run in runs]
        late = [run for run in found if run.expected_start_time and run.expected_start_time < now]
        return sorted(late, key=lambda run: str(run.expected_start_time))

    async def work(self, run: FlowRun) -> State[Any]:
        """Execute a run, as a worker that comes late would."""
        worker = Worker(str(self.api.base_url), self.deployment_id, "")
        taken = await worker.taken(run.id)
        return cast(
            "State[Any]",
            await run_flow_async(self.flow, taken, taken.parameters, return_type="state"),
        )


async def _scheduled(api_url: str, flow: Flow[..., Any]) -> AsyncGenerator[Scheduled]:
    made = await flow.ato_deployment(
        f"test-{uuid4().hex[:12]}", entrypoint_type=EntrypointType.MODULE_PATH
    )
    async with httpx.AsyncClient(base_url=api_url, timeout=30) as api:
        scheduled = Scheduled(api, flow, await made.aapply())
        yield scheduled
        await Worker(api_url, scheduled.deployment_id, "").leave_nothing()
        await scheduled.ask("DELETE", f"/deployments/{scheduled.deployment_id}")


@pytest.fixture
async def batch(prefect_api: str, emulator: Emulator, no_delays: None) -> AsyncGenerator[Scheduled]:
    async for scheduled in _scheduled(prefect_api, deliver_batch):
        yield scheduled


@pytest.fixture
async def one(prefect_api: str, emulator: Emulator, no_delays: None) -> AsyncGenerator[Scheduled]:
    async for scheduled in _scheduled(prefect_api, deliver):
        yield scheduled


async def test_a_late_run_takes_the_file_of_the_day_it_was_due_on_its_schedules_clock(
    batch: Scheduled, samples: Path, fast: None
):
    # 1 a.m. in Singapore is 5 p.m. of the previous day in UTC.
    runs = await batch.late_runs("0 1 * * *", "Asia/Singapore", {"manifest": "on-{date}.jsonl"})
    first = runs[0]
    assert first.expected_start_time
    day = f"{first.expected_start_time.astimezone(SINGAPORE):%Y-%m-%d}"
    assert day == f"{first.expected_start_time + timedelta(days=1):%Y-%m-%d}"
    write(samples / f"on-{day}.jsonl", [entry("p-1")])

    state = await batch.work(first)
    assert state.message == "completed: 1 verdicts of 1 requests [emulator]"
    async with get_client() as client:
        run = await client.read_flow_run(first.id)
        assert run.name == f"batch on-{day}.jsonl"
        assert tag(run.model_dump(), "batch") == f"on-{day}"

        # The run that continues uses the same file, even if the schedule has been deleted.
        (schedule,) = await client.read_deployment_schedules(batch.deployment_id)
        await client.delete_deployment_schedule(batch.deployment_id, schedule.id)
        following = await replace_dead(client, run, DeliverySettings.load())
    assert following
    assert following.parameters["manifest"] == f"on-{day}.jsonl"


async def test_a_schedule_without_parameters_says_what_is_missing(
    batch: Scheduled, one: Scheduled, samples: Path
):
    for scheduled, said in (
        (batch, "invalid-input: InvalidManifest: manifest: the location is empty"),
        (one, "invalid-input: InvalidRequest: request_id: must be a letter or digit"),
    ):
        runs = await scheduled.late_runs("0 1 * * *", "UTC", {})
        state = await scheduled.work(runs[0])
        assert state.is_failed()
        assert (state.message or "").startswith(said), state
