"""The worker lets its runs finish when it is told to end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
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
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from tests.sample_request import REQUEST
from tests.waiting import until

ACTION = "VideoLivenessCompare"
REQUESTS = 200


class Pool(NamedTuple):
    """A new work pool, with ``deliver`` and ``deliver-batch`` deployed to it."""

    name: str
    deliver: UUID
    batch: UUID


@pytest.fixture
async def pool(prefect_api: str) -> Pool:
    name = f"test-{uuid4().hex[:12]}"
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        await client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template)
        )
    deployed: list[UUID] = []
    for flow in (deliver, deliver_batch):
        deployment = await flow.ato_deployment(
            name, work_pool_name=name, entrypoint_type=EntrypointType.MODULE_PATH
        )
        deployed.append(await deployment.aapply())
    return Pool(name, *deployed)


@pytest.fixture
def worker(
    pool: Pool, prefect_api: str, emulator: Emulator, tmp_path: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker for the pool. The action takes two seconds to answer."""
    emulator.add_fault(op=ACTION, do="delay:2", times=0)
    with (tmp_path / "worker.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.worker", f"--pool={pool.name}", "--limit=1"],
            env={
                **os.environ,
                **WORKER_SETTINGS,
                "PREFECT_API_URL": prefect_api,
                "FACEID_RESOURCE_ROOTS": str(tmp_path),
            },
            stdout=output,
            stderr=output,
            # Scripts start background processes with SIGINT ignored. The rule is about threads.
            preexec_fn=ignore_interrupts,  # noqa: PLW1509
        )
    yield process
    process.kill()
    process.wait()


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def calls(emulator: Emulator) -> int:
    return emulator.stats()["calls"].get(ACTION, 0)


def start(api: str, deployment: UUID, **parameters: Any) -> str:
    url = f"{api}/deployments/{deployment}/create_flow_run"
    return httpx.post(url, json={"parameters": parameters}).raise_for_status().json()["id"]


def told_to_end(worker: "subprocess.Popen[bytes]") -> None:
    (process,) = psutil.Process(worker.pid).children()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not process.is_running()


def state_of(api: str, run: str) -> dict[str, Any]:
    return httpx.get(f"{api}/flow_runs/{run}").json()["state"]


@pytest.mark.long
def test_a_batch_that_is_at_work_lets_what_is_in_flight_finish(
    worker: "subprocess.Popen[bytes]",
    pool: Pool,
    prefect_api: str,
    emulator: Emulator,
    tmp_path: Path,
):
    entries = [REQUEST | {"request_id": f"w-{number}"} for number in range(REQUESTS)]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    results = tmp_path / "results"
    run = start(prefect_api, pool.batch, manifest=str(manifest), results=str(results))
    until(lambda: calls(emulator) >= 5, "calls in flight")

    told_to_end(worker)

    lines = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    # Each call that was sent has its answer. Requests whose turn had not come wait.
    verdicts = [line for line in lines if line["status"] == "verdict"]
    assert len(verdicts) == calls(emulator) < REQUESTS
    assert {line["status"] for line in lines} <= {"verdict", "waiting"}
    # The sweeper continues crashed batches.
    assert state_of(prefect_api, run)["type"] == "CRASHED"


@pytest.mark.long
def test_a_single_request_is_brought_to_its_verdict(
    worker: "subprocess.Popen[bytes]",
    pool: Pool,
    prefect_api: str,
    emulator: Emulator,
    tmp_path: Path,
):
    resources = {field: str(tmp_path / name) for field, name in REQUEST["resources"].items()}
    run = start(prefect_api, pool.deliver, **REQUEST | {"resources": resources})
    until(lambda: calls(emulator), "the call")

    told_to_end(worker)

    assert state_of(prefect_api, run)["message"] == "verdict: passed, Success [emulator]"
    assert calls(emulator) == 1
