"""Fixtures to run flows in this process, with a real Prefect server and a real emulator."""

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
from prefect.types.entrypoint import EntrypointType

from faceid.emulator import Emulator
from faceid.models import DeliveryFailed, DeliveryResult
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.upkeep import dead_runs, request_runs
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.upload_resource import upload_resource
from tests.flows import batches
from tests.flows.batches import Ended, RunBatch, entry, write
from tests.flows.deliveries import Deliver, Delivered
from tests.flows.deployed import Worker
from tests.flows.deployed_batch import Deployed
from tests.flows.sweeping import Gone
from tests.sample_request import REQUEST


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the delays of retries, but not the retries."""
    steps = (request_upload_url, upload_resource, check_expiry, call_target_action, save_files)
    for step in steps:
        monkeypatch.setattr(step, "retry_delay_seconds", [0] * (step.retries or 0))


@pytest.fixture
def run_deliver(prefect_api: str, emulator: Emulator, no_delays: None) -> Deliver:
    """A function that runs ``deliver`` on the sample request, changed by keyword arguments."""

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
    """Raise the account's rates, so that tests do not wait for the pacer."""
    rates = '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}'
    monkeypatch.setenv("FACEID_RATES", rates)


@pytest.fixture
def run_batch(prefect_api: str, emulator: Emulator, samples: Path, no_delays: None) -> RunBatch:
    """A function that runs ``deliver-batch`` on a manifest; keyword arguments are parameters."""

    async def run(manifest: Path | str, **changes: Any) -> Ended:
        return await batches.run_batch(manifest, samples / "results", **changes)

    return run


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deployed runs read in the folder of the test, as ``faceid up`` does with its own."""
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", str(tmp_path))


@pytest.fixture
async def worker(prefect_api: str, emulator: Emulator, no_delays: None) -> AsyncGenerator[Worker]:
    """A new deployment of ``deliver``, with the test in the role of its worker."""
    worker = await Worker.of_a_deployment(prefect_api)
    yield worker
    await worker.leave_nothing()


@pytest.fixture
async def deployed(
    prefect_api: str,
    emulator: Emulator,
    samples: Path,
    no_delays: None,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Deployed]:
    deployment = await deliver_batch.ato_deployment(
        f"test-{uuid4().hex[:12]}", entrypoint_type=EntrypointType.MODULE_PATH
    )
    worker = Worker(prefect_api, await deployment.aapply(), "none")
    write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(6)])
    results = str(samples / "results")
    parameters = {"manifest": "people.jsonl", "results": results, "concurrency": 3}
    yield Deployed(worker, parameters, monkeypatch)
    await worker.leave_nothing()


@pytest.fixture
def runner(prefect_api: str) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the settling time, because the tests' server writes task runs every second."""
    monkeypatch.setattr(request_runs, "SETTLING_SECONDS", 3.0)


@pytest.fixture
def request_id() -> str:
    """A request ID that no other test uses, because all tests share the server."""
    return f"r-{uuid4().hex[:12]}"


@pytest.fixture
def die(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[UUID]]:
    """A function that lets a run die after it has claimed the request, and returns the run's ID."""

    async def run_and_die(flow_run_id: UUID | str | None = None) -> UUID:
        flow_run_id = UUID(str(flow_run_id or await worker.trigger()))

        async def dead(*_: object) -> None:
            raise Gone

        with monkeypatch.context() as patch:
            patch.setattr("flows.delivery.run.to_verdict", dead)
            with pytest.raises(Gone):
                await worker.work(flow_run_id)
        # A killed process reports nothing, so for Prefect the run is still running.
        async with get_client() as client:
            await client.set_flow_run_state(flow_run_id, Running(), force=True)
        return flow_run_id

    return run_and_die


@pytest.fixture
async def nothing_crashed_before(prefect_api: str) -> None:
    """Delete crashed runs of other tests from the shared server, so that no sweep finds them."""
    since = datetime.now(UTC) - timedelta(days=1)
    async with get_client() as client:
        for flow in ("deliver", "deliver-batch"):
            for run in await dead_runs.crashed_runs(client, flow, since):
                await client.delete_flow_run(run.id)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every run that is not at work as dead, however short its silence."""
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(0))
