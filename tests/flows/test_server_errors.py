"""The Prefect server refuses a call in the middle of a run: what is told, and what goes on."""

from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.artifacts import Artifact

from faceid.emulator import Emulator
from flows import deliver as deliver_flow
from flows.batch import summary
from flows.batch.runner import Batch
from flows.delivery import follow_ups, outcome
from flows.delivery import run as delivery_run
from tasks.call_target_action import call_target_action
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, swept
from tests.flows.helpers import calls_of
from tests.flows.sweeping import PASSED


async def refused(*_: Any, **__: Any) -> list[str]:
    async with get_client() as client:
        await client.read_flow_runs(limit=100_000)  # more than the server allows
    return []


async def test_a_verdict_is_told_although_it_cannot_be_reported(
    run_deliver: Deliver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(outcome, "add_tags", refused)
    monkeypatch.setattr(Artifact, "acreate", refused)
    delivered = await run_deliver()
    assert delivered.state.message == "verdict: passed, Success [emulator]"
    said = "a call to the Prefect server failed (422 Unprocessable Entity)"
    for what in ("the run is not tagged with its outcome", "the run has no artifact"):
        assert f"{what}: PrefectUnavailable: {said}" in caplog.text


async def test_a_batch_ends_as_it_should_although_it_cannot_be_reported(
    run_batch: RunBatch, samples: Path, fast: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(summary, "add_tags", refused)
    monkeypatch.setattr(summary, "acreate_markdown_artifact", refused)
    manifest = write(samples / "people.jsonl", [entry("p-1")])
    state, *_ = await run_batch(manifest)
    assert state.message == "completed: 1 verdicts of 1 requests [emulator]"


async def test_a_batch_whose_requests_have_all_ended_does_not_fail_for_its_shard(
    run_batch: RunBatch, samples: Path, fast: None, monkeypatch: pytest.MonkeyPatch
):
    deliver_slice = Batch.deliver_slice

    async def deliver_and_fail(self: Batch, first: int, count: int) -> int:
        await deliver_slice(self, first, count)
        return len(await refused())

    monkeypatch.setattr(Batch, "deliver_slice", deliver_and_fail)
    manifest = write(samples / "people.jsonl", [entry("p-1")])
    state, *_ = await run_batch(manifest)
    assert state.message == "completed: 1 verdicts of 1 requests [emulator]"


async def test_before_anything_is_sent_the_run_fails_with_one_line(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deliver_flow, "add_tags", refused)
    delivered = await run_deliver()
    assert delivered.state.is_failed()
    assert delivered.result.error
    assert delivered.result.error.code == "PrefectUnavailable"
    assert calls_of(emulator, "CreateUploadUrl") == 0


async def test_in_mid_run_the_request_is_left_to_a_follow_up(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(delivery_run, "check_expiry", refused)
        state = await worker.work(await worker.trigger())
    assert state.is_completed()
    assert (state.message or "").startswith("rerequested: next run ")
    assert "PrefectUnavailable" in (state.message or "")
    assert (await worker.work(worker.newest()["id"])).message == PASSED
    assert calls_of(emulator) == 1


async def test_if_the_follow_up_cannot_be_scheduled_either_the_sweep_does_it(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(delivery_run, "check_expiry", refused)
        patch.setattr(follow_ups, "submit", refused)
        state = await worker.work(await worker.trigger())
    said = "rerequested: the next run could not be scheduled yet; the sweep tries again; Prefect"
    assert (state.message or "").startswith(said)
    assert await swept() == "1 scheduled"
    assert (await worker.work(worker.newest()["id"])).message == PASSED
    assert calls_of(emulator) == 1


async def test_after_the_call_the_run_ends_with_its_verdict(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    async def call_and_fail(*args: Any) -> None:
        await call_target_action(*args)
        await refused()

    monkeypatch.setattr(delivery_run, "call_target_action", call_and_fail)
    delivered = await run_deliver()
    assert delivered.state.message == PASSED
    assert calls_of(emulator) == 1
