"""The worker that lets its runs come to their end when it is told to end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from deployments.settings_files import WORKER_SETTINGS
from faceid.emulator import Emulator
from flows.deliver_batch import deliver_batch
from tests.deployments.conftest import REQUEST, until

ACTION = "VideoLivenessCompare"
REQUESTS = 200


@pytest.fixture
async def deployment(prefect_api: str) -> UUID:
    """Batches in a work pool of this test's own."""
    name = f"test-{uuid4().hex[:12]}"
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        await client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template)
        )
    made = await deliver_batch.ato_deployment(
        name, work_pool_name=name, entrypoint_type=EntrypointType.MODULE_PATH
    )
    return await made.aapply()


@pytest.fixture
def worker(
    deployment: UUID, prefect_api: str, emulator: Emulator, tmp_path: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    pool = httpx.get(f"{prefect_api}/deployments/{deployment}").json()["work_pool_name"]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.worker", f"--pool={pool}", "--limit=1"],
            env={
                **os.environ,
                **WORKER_SETTINGS,
                "PREFECT_API_URL": prefect_api,
                "FACEID_RESOURCE_ROOTS": str(tmp_path),
            },
            stdout=output,
            stderr=output,
        )
    yield process
    process.kill()
    process.wait()


def test_a_batch_that_is_at_work_lets_what_is_in_flight_finish(
    worker: "subprocess.Popen[bytes]",
    deployment: UUID,
    prefect_api: str,
    emulator: Emulator,
    tmp_path: Path,
):
    entries = [REQUEST | {"request_id": f"w-{number}"} for number in range(REQUESTS)]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    control = f"{emulator.url}/_emulator"
    httpx.post(f"{control}/faults", json={"op": ACTION, "do": "delay:2", "times": 0})
    results = tmp_path / "results"
    run = httpx.post(
        f"{prefect_api}/deployments/{deployment}/create_flow_run",
        json={"parameters": {"manifest": str(manifest), "results": str(results)}},
    ).json()["id"]

    def calls() -> int:
        return httpx.get(f"{control}/stats").json()["calls"].get(ACTION, 0)

    until(lambda: calls() >= 5, "calls in flight")
    (process,) = psutil.Process(worker.pid).children()

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(60) == 0
    assert not process.is_running()
    lines = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {"verdict"}
    # Each call that was sent has its answer, and others were not begun.
    assert len(lines) == calls() < REQUESTS
    # For the sweeper to go on with.
    state = httpx.get(f"{prefect_api}/flow_runs/{run}").json()["state"]
    assert state["type"] == "CRASHED"
