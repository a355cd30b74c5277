"""Forgetting a request of a batch erases only its part of what the batch's requests share."""

import json
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import fsspec
import pytest
from prefect import get_client
from prefect.client.schemas.objects import State

from faceid.emulator import Emulator
from flows.batch.results import BatchResults, read_lines, results_location
from flows.deliver_batch import deliver_batch
from flows.forget import Forgotten, Left, open_forgetting
from flows.server.runs import PAGE
from flows.upkeep import request_runs
from flows.upkeep.result_lines import forget_lines
from tasks.settings import DeliverySettings
from tests.flows.batches import entry, write
from tests.flows.helpers import record_of, records
from tests.flows.test_batch_results import ids, result
from tests.flows.traces import documents_with, rows_with


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the settling time, because the tests' server writes task runs every second."""
    monkeypatch.setattr(request_runs, "SETTLING_SECONDS", 3.0)


async def forgotten(*request_ids: str, keep_verdict: bool = False) -> list[Forgotten | Left]:
    async with open_forgetting(DeliverySettings.load(), keep_verdict=keep_verdict) as forgetting:
        return [one async for one in forgetting.each(records(), request_ids)]


async def step_names(flow_run_id: str) -> set[str]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    mine = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    async with get_client() as client:
        found = await client.read_task_runs(flow_run_filter=mine, limit=PAGE)
    return {step.name for step in found}


@pytest.mark.usefixtures("prefect_api", "no_delays", "fast")
async def test_its_steps_and_its_line_go_and_the_others_stay(emulator: Emulator, samples: Path):
    mark = uuid4().hex[:12]
    # One ID is a prefix of the other, so names alone must not decide.
    first, other = f"{mark}-p", f"{mark}-p-2"
    write(samples / "people.jsonl", [entry(first), entry(other)])
    state: State[Any] = await cast("Any", deliver_batch)("people.jsonl", return_state=True)
    shard = (await record_of(first)).runs[0].flow_run_id
    location = results_location("", DeliverySettings.load(), str(state.state_details.flow_run_id))
    answers = (await record_of(first)).tencent_request_ids
    assert ids(location) == [first, other]

    (kept,) = await forgotten(first, keep_verdict=True)
    assert isinstance(kept, Forgotten)
    assert ids(location) == [first, other]
    await forgotten(first)
    assert ids(location) == [other]
    assert await step_names(shard) == {
        f"{step} {other}"
        for step in (
            "ticket ImageUrl",
            "ticket VideoUrl",
            "upload ImageUrl",
            "upload VideoUrl",
            "check expiry",
            "call VideoLivenessCompare",
        )
    }
    for text in answers:
        assert rows_with(text) == set()
        assert documents_with(text) == []
    for step in await step_names(shard):
        assert rows_with(step)
    # The folder is removed with the last line.
    await forgotten(other)
    assert not Path(location).exists()


async def test_a_batch_at_work_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    settings = DeliverySettings.load()
    location = results_location("", settings, "run")
    assert forget_lines(settings, {"p-0"}) == 0
    with BatchResults(location, tmp_path) as results:
        results.write(0, result("p-0"))
        assert forget_lines(settings, {"p-0"}) == 1
        results.finish(1)
    assert ids(location) == ["p-0"]
    (Path(location) / "results.jsonl").chmod(0o600)
    assert forget_lines(settings, {"p-1"}) == 0
    assert ids(location) == ["p-0"]


async def test_lines_go_from_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FACEID_STORAGE", f"memory://{uuid4().hex}")
    settings = DeliverySettings.load()
    location = results_location("", settings, "run")
    try:
        with BatchResults(location, tmp_path) as results:
            for number in range(3):
                results.write(number, result(f"p-{number}", "failed"))
            results.finish(3)
        assert forget_lines(settings, {"p-1"}) == 0
        for name in ("results.jsonl", "failures.jsonl"):
            assert [json.loads(line)["request_id"] for line in read_lines(location, name)] == [
                "p-0",
                "p-2",
            ]
        assert forget_lines(settings, {"p-0", "p-2"}) == 0
        with pytest.raises(FileNotFoundError):
            ids(location)
    finally:
        fsspec.filesystem("memory").store.clear()
