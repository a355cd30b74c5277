"""Batches deliver the requests of a manifest: results, failures, windows, and early stops."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow_async
from prefect.types.entrypoint import EntrypointType

from faceid.emulator import Emulator
from flows import deliver_batch as module
from flows.deliver_batch import deliver_batch
from flows.server.runs import tag_of
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import task_runs_of
from tests.flows.deployed import Worker
from tests.flows.helpers import ACTION, REFUSES_THE_ACCOUNT, calls_of, steps_of
from tests.waiting import wait_until

WINDOW = 7200


async def children_of(run: FlowRun) -> list[FlowRun]:
    mine = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    async with get_client() as client:
        return sorted(
            await client.read_flow_runs(flow_run_filter=mine), key=lambda child: str(child.created)
        )


async def test_each_request_comes_to_its_verdict_and_each_step_is_seen(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "SHARD", 4)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(1, 11)])
    state, run, lines, failures = await run_batch(manifest)
    assert state.is_completed()
    assert state.message == "completed: 10 verdicts of 10 requests [emulator]"
    assert [line.request_id for line in lines] == [f"p-{n}" for n in range(1, 11)]
    assert {(line.status, line.windows, line.calls) for line in lines} == {("verdict", 1, 1)}
    assert failures == []
    assert calls_of(emulator) == 10
    assert calls_of(emulator, "CreateUploadUrl") == 20
    assert {"batch:people", "service:emulator", "outcome:completed"} <= set(run.tags)
    assert run.name == "batch people.jsonl"

    shards = await children_of(run)
    assert [shard.name for shard in shards] == [
        "requests 1 to 4",
        "requests 5 to 8",
        "requests 9 to 10",
    ]
    assert all({"batch:people", "service:emulator"} <= set(shard.tags) for shard in shards)
    assert await steps_of(shards[2], 12) == {
        f"{step} p-{n}": "Completed"
        for n in (9, 10)
        for step in (
            "ticket ImageUrl",
            "ticket VideoUrl",
            "upload ImageUrl",
            "upload VideoUrl",
            "check expiry",
            f"call {ACTION}",
        )
    }
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    async with get_client() as client:
        artifacts = {a.type: a for a in await client.read_artifacts(artifact_filter=mine)}
    assert artifacts["progress"].data == 100
    assert "| passed | 10 |" in str(artifacts["markdown"].data)


async def test_failures_do_not_stop_a_batch_and_the_same_manifest_continues(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    (samples / "broken.jpg").write_bytes(b"no photo")
    entries = [entry(f"p-{n}") for n in range(1, 6)]
    entries[1]["resources"] = {"ImageUrl": "none.jpg", "VideoUrl": "alder.mp4"}
    entries[3]["resources"] = {"ImageUrl": "broken.jpg", "VideoUrl": "alder.mp4"}
    manifest = write(samples / "people.jsonl", entries)
    state, run, lines, failures = await run_batch(manifest)
    assert state.is_completed()
    assert state.message == "partial: 3 verdicts, 2 failed of 5 requests [emulator]"
    assert [line.status for line in lines] == [
        "verdict",
        "failed",
        "verdict",
        "failed",
        "verdict",
    ]
    assert sorted(failures) == ["p-2", "p-4"]
    assert "outcome:partial" in run.tags

    # Fix the two requests. Those with a verdict do not need their files any more.
    entries[1] = entry("p-2")
    entries[3] = entry("p-4")
    write(manifest, entries)
    calls = calls_of(emulator)
    state, run, lines, failures = await run_batch(manifest)
    assert state.message == "completed: 5 verdicts of 5 requests [emulator]"
    assert [line.request_id for line in lines] == [f"p-{n}" for n in range(1, 6)]
    assert {line.calls for line in lines} == {1}
    assert failures == []
    assert calls_of(emulator) == calls + 2
    (shard,) = await children_of(run)

    async def recorded() -> bool:
        return len(await task_runs_of(shard)) == 12

    await wait_until(recorded, "the task runs of the two requests")


async def test_a_manifest_that_is_wrong_sends_nothing(
    run_batch: RunBatch, emulator: Emulator, samples: Path
):
    manifest = write(samples / "people.jsonl", [entry("p-1"), entry("p-1"), entry("p 3")])
    state, run, lines, _ = await run_batch(manifest)
    assert state.is_failed()
    assert (state.message or "").startswith("invalid-input: BadManifest: 2 bad lines, the first")
    assert "outcome:invalid-input" in run.tags
    assert lines == []
    assert emulator.requests() == []


async def test_a_glob_that_matches_nothing_is_nothing_to_do(
    run_batch: RunBatch, emulator: Emulator
):
    state, _, lines, _ = await run_batch("people-*.jsonl")
    assert state.is_completed()
    assert "nothing to do" in (state.message or "")
    assert lines == []


async def test_the_date_in_a_manifests_name_is_the_runs_day(
    run_batch: RunBatch, samples: Path, fast: None
):
    state, _, _, _ = await run_batch("people-{date}.jsonl")
    assert state.is_failed()
    write(samples / f"people-{datetime.now(UTC):%Y-%m-%d}.jsonl", [entry("p-1")])
    state, run, lines, _ = await run_batch("people-{date}.jsonl")
    assert [line.status for line in lines] == ["verdict"]
    assert f"batch:people-{datetime.now(UTC):%Y-%m-%d}" in run.tags


async def test_a_wrong_key_is_refused_once(
    run_batch: RunBatch, emulator: Emulator, samples: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", "wrong")
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(40)])
    state, _, lines, _ = await run_batch(manifest)
    assert state.is_failed()
    assert (state.message or "").startswith("invalid-input: AuthFailure.SignatureFailure")
    assert emulator.stats()["errors"] == {"AuthFailure.SignatureFailure": 1}
    assert len(lines) < 40


async def test_a_closed_account_stops_the_batch(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT, times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(60)])
    state, _, lines, _ = await run_batch(manifest, concurrency=4)
    assert state.is_failed()
    assert "InArrears" in (state.message or "")
    assert "not begun" in (state.message or "")
    assert len(lines) < 20


async def test_too_many_failures_stop_the_batch(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "api:FailedOperation.ImageDecodeFailed", times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(60)])
    state, _, lines, failures = await run_batch(manifest, max_failed_percent=10, concurrency=4)
    assert state.is_failed()
    assert "100 % of" in (state.message or "")
    assert 20 <= len(lines) < 40
    assert len(failures) == len(lines)


async def test_windows_that_run_out_are_opened_afresh_inside_the_batch(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "expire-now", times=3)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(6)])
    state, run, lines, _ = await run_batch(manifest)
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"
    assert sorted(line.windows for line in lines) == [1, 1, 1, 2, 2, 2]
    # The requests have no flow runs of their own.
    async with get_client() as client:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["request:p-0"]))
        assert run.id not in {r.id for r in await client.read_flow_runs(flow_run_filter=tagged)}


async def test_what_the_service_is_down_for_waits(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    emulator.add_fault(ACTION, "http:503", times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(3)])
    state, _, lines, failures = await run_batch(manifest)
    assert state.message == "partial: 0 verdicts, 3 waiting of 3 requests [emulator]"
    assert [line.status for line in lines] == ["waiting"] * 3
    assert failures == []
    emulator.clear_faults()
    state, _, lines, _ = await run_batch(manifest)
    assert state.message == "completed: 3 verdicts of 3 requests [emulator]"
    assert {line.calls for line in lines} == {2}
    assert calls_of(emulator, "CreateUploadUrl") == 6


async def test_what_waits_in_a_deployed_batch_is_left_to_one_later_run(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
    prefect_api: str,
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    deployment = await deliver_batch.ato_deployment(
        f"test-{uuid4().hex[:12]}", entrypoint_type=EntrypointType.MODULE_PATH
    )
    deployment_id = await deployment.aapply()
    write(samples / "people-2.jsonl", [entry(f"p-{n}") for n in range(3)])
    worker = Worker(prefect_api, deployment_id, "none")
    parameters = {"manifest": str(samples / "people-*.jsonl"), "results": str(samples / "results")}
    async with get_client() as client:
        run = await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
    emulator.add_fault(ACTION, "http:503", times=4)
    ended: list[State[Any]] = []
    for _ in range(2):
        taken = await worker.taken(run.id)
        state = await run_flow_async(deliver_batch, taken, taken.parameters, return_type="state")
        ended.append(cast("State[Any]", state))
        async with get_client() as client:
            run = await client.read_flow_run(run.id)
            if follow_up := tag_of(run, "next"):
                previous, run = run, await client.read_flow_run(UUID(follow_up))
                assert tag_of(run, "previous") == str(previous.id)
                assert tag_of(run, "batch") == "people"
                assert run.parameters == parameters
    first, second = (state.message or "" for state in ended)
    assert first == "partial: 0 verdicts, 3 waiting of 3 requests [emulator]"
    assert second == "partial: 2 verdicts, 1 waiting of 3 requests [emulator]"
    assert tag_of(run, "attempt") == "2"
    assert run.expected_start_time
    assert run.expected_start_time > datetime.now(UTC)
    await worker.leave_nothing()
