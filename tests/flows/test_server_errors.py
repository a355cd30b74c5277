"""The Prefect server refuses a call in the middle of a run: what is told, and what goes on."""

from typing import Any

import pytest
from prefect import get_client
from prefect.artifacts import Artifact

from faceid.emulator import Emulator
from flows import deliver as deliver_flow
from flows.batch import summary
from flows.delivery import outcome
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.helpers import calls_of


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
    run_batch: RunBatch, samples: Any, fast: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(summary, "add_tags", refused)
    monkeypatch.setattr(summary, "acreate_markdown_artifact", refused)
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
