"""Flows run in this process, recorded by a real Prefect server, against the real emulator."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.states import Running

from faceid.emulator import Emulator
from faceid.models import DeliveryFailed, DeliveryResult
from flows.deliver import deliver
from flows.upkeep import dead_runs, request_runs
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.upload_resource import upload_resource
from tests.flows import batches
from tests.flows.batches import Ended, RunBatch
from tests.flows.deliveries import Deliver, Delivered
from tests.flows.deployed import Worker
from tests.flows.sweeping import Gone
from tests.sample_request import REQUEST


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries stay, their delays go."""
    steps = (request_upload_url, upload_resource, check_expiry, call_target_action, save_files)
    for step in steps:
        monkeypatch.setattr(step, "retry_delay_seconds", [0] * (step.retries or 0))


@pytest.fixture
def run_deliver(prefect_api: str, emulator: Emulator, no_delays: None) -> Deliver:
    """Runs the flow on the sample request, with what the test changes of it."""

    async def run_flow(**changes: Any) -> Delivered:
        state: State[Any] = await cast("Any", deliver)(**REQUEST | changes, return_state=True)
        outcome = await state.aresult(raise_on_failure=False)
        result = outcome.result if isinstance(outcome, DeliveryFailed) else outcome
        assert isinstance(result, DeliveryResult), state
        assert result.flow_run_id
        async with get_client() as client:
            run = await client.read_flow_run(UUID(result.flow_run_id))
        return Delivered(state, result, run)

    return run_flow


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's rates raised, so that tests do not wait for them."""
    rates = '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}'
    monkeypatch.setenv("FACEID_RATES", rates)


@pytest.fixture
def run_batch(prefect_api: str, emulator: Emulator, samples: Path, no_delays: None) -> RunBatch:
    """Runs the flow on a manifest, with what the test changes of it."""

    async def run(manifest: Path | str, **changes: Any) -> Ended:
        return await batches.run_batch(manifest, samples / "results", **changes)

    return run


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says what runs of deployments may read, as that of ``faceid up`` does."""
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", str(tmp_path))


@pytest.fixture
async def worker(prefect_api: str, emulator: Emulator, no_delays: None) -> AsyncGenerator[Worker]:
    """A worker's part, played by the test."""
    worker = await Worker.of_a_deployment(prefect_api)
    yield worker
    await worker.leave_nothing()


@pytest.fixture
def runner(prefect_api: str) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server writes steps down each second, and not each five."""
    monkeypatch.setattr(request_runs, "SETTLING_SECONDS", 3.0)


@pytest.fixture
def request_id() -> str:
    """The server is that of all tests."""
    return f"r-{uuid4().hex[:12]}"


@pytest.fixture
def die(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[UUID]]:
    """Lets a run of the request die after it has claimed it, and returns its ID."""

    async def run_and_die(flow_run_id: UUID | str | None = None) -> UUID:
        flow_run_id = UUID(str(flow_run_id or await worker.trigger()))

        async def dead(*_: object) -> None:
            raise Gone

        with monkeypatch.context() as patch:
            patch.setattr("flows.delivery.run.to_verdict", dead)
            with pytest.raises(Gone):
                await worker.work(flow_run_id)
        # One that was killed tells nobody: for Prefect it is at work.
        async with get_client() as client:
            await client.set_flow_run_state(flow_run_id, Running(), force=True)
        return flow_run_id

    return run_and_die


@pytest.fixture
async def nothing_crashed_before(prefect_api: str) -> None:
    """The server is all tests': what others left crashed is none of a sweep's here."""
    since = datetime.now(UTC) - timedelta(days=1)
    async with get_client() as client:
        for flow in ("deliver", "deliver-batch"):
            for run in await dead_runs.crashed_runs(client, flow, since):
                await client.delete_flow_run(run.id)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time after which a run that is not heard of is taken for dead has passed for all."""
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(0))
