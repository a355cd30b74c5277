"""The Prefect events about requests and batches, as read from the server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect import flow

from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from flows.server.events import emit_event
from tasks.state.records import Backoff
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, swept
from tests.flows.helpers import (
    ACTION,
    REFUSES_THE_ACCOUNT,
    REFUSES_THE_FILE,
    Event,
    record_of,
    records,
    told_of,
)
from tests.waiting import wait_until


def related(event: Event, role: str) -> list[str]:
    """Return the names, or else the IDs, of the event's related resources with this role."""
    return [
        resource.get("prefect.resource.name") or resource["prefect.resource.id"]
        for resource in event["related"]
        if resource["prefect.resource.role"] == role
    ]


async def test_a_verdict_is_told_with_the_result_object(prefect_api: str, run_deliver: Deliver):
    request_id = f"r-{uuid4().hex[:12]}"
    _, result, run = await run_deliver(request_id=request_id)
    (event,) = await told_of(prefect_api, f"faceid.request.emulator.{request_id}", 1)
    assert event["event"] == "faceid.delivery.verdict"
    assert event["resource"] == {
        "prefect.resource.id": f"faceid.request.emulator.{request_id}",
        "prefect.resource.name": request_id,
        "faceid.service": "emulator",
        "faceid.scope": "request",
        "faceid.outcome": "verdict",
        "faceid.target-action": ACTION,
        "faceid.verdict": "passed",
        "faceid.result": "Success",
    }
    assert DeliveryResult.model_validate(event["payload"]) == result
    assert related(event, "flow-run") == [run.name]
    assert related(event, "flow") == ["deliver"]


async def test_a_failure_is_told_with_its_kind_and_code(
    prefect_api: str, run_deliver: Deliver, emulator: Emulator
):
    request_id = f"r-{uuid4().hex[:12]}"
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver(request_id=request_id)
    (event,) = await told_of(prefect_api, f"faceid.request.emulator.{request_id}", 1)
    assert event["event"] == "faceid.delivery.failed"
    assert event["resource"]["faceid.outcome"] == "invalid-input"
    assert event["resource"]["faceid.error-kind"] == "account"
    assert event["resource"]["faceid.error-code"] == "ResourceUnavailable.InArrears"
    assert event["payload"]["error"]["kind"] == "account"
    assert event["payload"]["verdict"] is None


async def test_a_request_left_to_a_later_run_is_told_with_that_run(
    prefect_api: str, worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    emulator.add_fault(ACTION, "http:503")
    await worker.deliver()
    follow_up = worker.newest()["id"]
    await worker.work(follow_up)
    resource = f"faceid.request.emulator.{worker.request_id}"
    left, verdict = await told_of(prefect_api, resource, 2)
    assert left["event"] == "faceid.delivery.rerequested"
    assert left["payload"]["status"] == "waiting"
    assert left["resource"]["faceid.error-kind"] == "unavailable"
    assert related(left, "next-run") == [f"prefect.flow-run.{follow_up}"]
    assert verdict["event"] == "faceid.delivery.verdict"
    assert verdict["payload"]["flow_run_id"] == follow_up


async def test_a_batch_tells_of_each_request_once_and_of_its_end(
    prefect_api: str, run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    mark = uuid4().hex[:12]
    manifest = write(samples / f"{mark}.jsonl", [entry(f"{mark}-{n}") for n in range(3)])
    emulator.add_fault(ACTION, REFUSES_THE_FILE)
    _, _, lines, (failed,) = await run_batch(manifest)
    await run_batch(manifest)
    batch = f"faceid.batch.emulator.{mark}"
    partial, completed = await told_of(prefect_api, batch, 2)
    assert partial["event"] == "faceid.batch.partial"
    assert partial["resource"]["faceid.scope"] == "batch"
    assert partial["payload"] | {"flow_run_id": None} == {
        "batch": mark,
        "service": "emulator",
        "outcome": "partial",
        "message": "partial: 2 verdicts, 1 failed of 3 requests [emulator]",
        "flow_run_id": None,
        "next_flow_run_id": None,
        "requests": 3,
        "not_begun": 0,
        "verdict": 2,
        "failed": 1,
        "waiting": 0,
        "verdicts": {"passed": 2, "refused": 0, "none": 0},
        "failures": [{"kind": "input", "code": "FailedOperation.ImageDecodeFailed", "requests": 1}],
    }
    assert related(partial, "flow") == ["deliver-batch"]
    assert completed["event"] == "faceid.batch.completed"
    for line in lines:
        request = f"faceid.request.emulator.{line.request_id}"
        events = await told_of(prefect_api, request, 2 if line.request_id == failed else 1)
        assert {event["resource"]["faceid.scope"] for event in events} == {"in-batch"}
        names = [event["event"].removeprefix("faceid.delivery.") for event in events]
        assert names == (["failed", "verdict"] if line.request_id == failed else ["verdict"])


async def test_a_batch_that_sends_nothing_or_waits_tells_so(
    prefect_api: str,
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    mark = uuid4().hex[:12]
    manifest = write(samples / f"{mark}.jsonl", [entry(f"{mark}-1"), entry(f"{mark}-1")])
    await run_batch(manifest)
    write(manifest, [entry(f"{mark}-1")])
    emulator.add_fault(ACTION, "http:503")
    await run_batch(manifest)
    failed, waiting = await told_of(prefect_api, f"faceid.batch.emulator.{mark}", 2)
    assert failed["event"] == "faceid.batch.failed"
    assert failed["resource"]["faceid.outcome"] == "invalid-input"
    assert "requests" not in failed["payload"]
    assert waiting["event"] == "faceid.batch.waiting"
    assert waiting["payload"]["waiting"] == 1


async def test_what_waits_for_more_than_an_hour_is_told_by_each_sweep(
    prefect_api: str, worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    emulator.add_fault(ACTION, "http:503")
    await worker.deliver()
    assert await swept() == "1 waiting"
    record = await record_of(worker.request_id)
    assert record.backoff
    an_hour_ago = datetime.now(UTC) - timedelta(minutes=61)
    backoff = Backoff(since=an_hour_ago, count=record.backoff.count)
    await records().save(record.model_copy(update={"backoff": backoff}))
    assert await swept() == "1 waiting, 1 waiting for a long time"

    async def look() -> list[Event] | None:
        query = {"filter": {"event": {"name": ["faceid.requests.waiting"]}}}
        async with httpx.AsyncClient(base_url=prefect_api, timeout=30) as api:
            events = (await api.post("/events/filter", json=query)).json()["events"]
        mine = [e for e in events if worker.request_id in e["payload"]["such_as"]]
        return mine or None

    (event,) = await wait_until(look, "the event about waiting requests")
    assert event["resource"]["prefect.resource.id"] == "faceid.requests.emulator.waiting"
    assert event["payload"] == {
        "requests": 1,
        "since": an_hour_ago.isoformat(timespec="seconds"),
        "such_as": [worker.request_id],
    }
    assert related(event, "flow") == ["sweep"]


async def test_an_event_that_cannot_be_sent_does_no_harm(
    prefect_api: str, caplog: pytest.LogCaptureFixture
):
    @flow(persist_result=False)
    async def tells() -> str:
        too_much = {"text": "x" * 2_000_000}
        emit_event(
            "delivery.verdict",
            kind="request",
            name="r-1",
            service="emulator",
            labels={},
            payload=too_much,
        )
        return "went on"

    assert await cast("Any", tells)() == "went on"
    assert "event delivery.verdict was not sent (EventTooLarge)" in caplog.text
