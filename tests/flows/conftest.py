"""Flows run in this process, recorded by a real Prefect server, against the real emulator."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State

from faceid.emulator import Emulator
from faceid.models import DeliveryFailed, DeliveryResult
from flows.deliver import deliver
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.request_upload_url import request_upload_url
from tasks.save_files import save_files
from tasks.upload_resource import upload_resource
from tests.flows import batches
from tests.flows.batches import Ended, RunBatch
from tests.flows.deliveries import Deliver, Delivered
from tests.flows.deployed import Worker
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
