"""Runs of a deployment may only read and write inside the worker's roots."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow_async
from prefect.types.entrypoint import EntrypointType

from faceid.emulator import Emulator
from flows.deliver_batch import deliver_batch
from tests.flows.batches import entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker

OUTSIDE = [
    "http://169.254.169.254/latest/meta-data",
    "https://127.0.0.1:9/x.jpg",
    "s3://bucket/x.jpg",
    "memory://x.jpg",
    "/etc/hostname",
    "../x.jpg",
    "c://../../etc/hostname",
]


def resources(location: str) -> dict[str, str]:
    return {"ImageUrl": location, "VideoUrl": "alder.mp4"}


@pytest.mark.parametrize("location", OUTSIDE)
async def test_a_caller_names_no_resource_outside(
    worker: Worker, emulator: Emulator, location: str
):
    state = await worker.deliver(resources=resources(location))
    said = state.message or ""
    assert said.startswith("invalid-input: InvalidResource: resource ImageUrl: the ")
    assert "169.254" not in said
    assert "hostname" not in said
    assert emulator.requests() == []


@pytest.mark.parametrize("folder", ["/tmp/elsewhere", "..", "s3://bucket/out"])
async def test_a_caller_names_no_folder_outside(worker: Worker, emulator: Emulator, folder: str):
    state = await worker.deliver(save_files_to=folder)
    assert (state.message or "").startswith("invalid-input: InvalidResource: resource save_files_")
    assert emulator.requests() == []


async def test_a_worker_without_roots_reads_nothing(
    worker: Worker, emulator: Emulator, run_deliver: Deliver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("FACEID_RESOURCE_ROOTS")
    state = await worker.deliver()
    assert "FACEID_RESOURCE_ROOTS, which says what runs may read, is not set" in str(state.message)
    assert emulator.requests() == []
    # A run without a deployment, such as that of a command, reads from the working folder.
    _, result, _ = await run_deliver(request_id=worker.request_id)
    assert result.status == "verdict"


RunDeployed = Callable[..., Awaitable[State[Any]]]


@pytest.fixture
async def run_deployed(prefect_api: str, emulator: Emulator, fast: None) -> RunDeployed:
    """A function that runs a deployment of ``deliver-batch``; keyword arguments are parameters."""
    name = f"test-{uuid4().hex[:12]}"
    deployment = await deliver_batch.ato_deployment(
        name, entrypoint_type=EntrypointType.MODULE_PATH
    )
    worker = Worker(prefect_api, cast("Any", await deployment.aapply()), "none")

    async def run(**parameters: Any) -> State[Any]:
        async with get_client() as client:
            created = await client.create_flow_run_from_deployment(
                worker.deployment_id, parameters=parameters
            )
        taken = await worker.taken(created.id)
        ended = await run_flow_async(deliver_batch, taken, taken.parameters, return_type="state")
        return cast("State[Any]", ended)

    return run


async def test_a_batch_of_a_deployment_stays_inside(
    run_deployed: RunDeployed, emulator: Emulator, samples: Path
):
    manifest = str(write(samples / "people.jsonl", [entry("p-1")]))
    for parameters, named in (
        ({"manifest": "http://127.0.0.1:9/people.jsonl"}, "manifest: the location is outside"),
        ({"manifest": "/etc/*.jsonl"}, "manifest: the file lies outside"),
        ({"manifest": manifest, "results": "s3://bucket/out"}, "results: the location is outside"),
        ({"manifest": manifest, "results": "/tmp/elsewhere"}, "results: the file lies outside"),
        ({"manifest": manifest, "save_files_to": ".."}, "save_files_to: the file lies outside"),
    ):
        state = await run_deployed(**parameters)
        assert (state.message or "").startswith("invalid-input: Invalid")
        assert f"{named} FACEID_RESOURCE_ROOTS" in (state.message or "")
    for location in OUTSIDE:
        write(samples / "people.jsonl", [entry("p-1", resources=resources(location))])
        state = await run_deployed(manifest=manifest)
        assert (state.message or "").startswith("invalid-input: BadManifest: 1 bad line: people.")
    assert emulator.requests() == []
    write(samples / "people.jsonl", [entry("p-1")])
    state = await run_deployed(manifest=manifest)
    assert state.message == "completed: 1 verdicts of 1 requests [emulator]"
