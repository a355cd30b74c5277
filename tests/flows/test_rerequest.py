"""Requests that cannot be completed now are left to a later run of the same deployment."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import get_client

from faceid.emulator import Emulator
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, delete_deployment, next_run, tag
from tests.flows.helpers import ACTION, REFUSES_THE_ACCOUNT, calls_of, record_of, records, steps_of

WINDOW = 7200


async def test_a_window_that_is_over_is_left_to_a_run_that_is_due_at_once(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    before = datetime.now(UTC) - timedelta(seconds=1)
    state = await worker.deliver()
    assert state.is_completed()
    follow_up, due = next_run(state)
    assert before <= due <= datetime.now(UTC)

    first, second = worker.chain()
    assert second["id"] == follow_up
    assert second["state"]["type"] == "SCHEDULED"
    assert second["name"] == f"deliver {worker.request_id}"
    assert second["deployment_id"] == first["deployment_id"] == str(worker.deployment_id)
    assert second["parameters"] == first["parameters"]
    assert second["job_variables"] == first["job_variables"] == {"env": {"A": "B"}}
    assert second["idempotency_key"]
    # The runs are linked in both directions, and the second is not a child of the first.
    assert tag(first, "next") == second["id"]
    assert tag(second, "previous") == first["id"]
    assert second["parent_task_run_id"] is None
    assert (tag(second, "window"), tag(second, "attempt")) == ("2", "1")
    assert (tag(first, "outcome"), tag(first, "verdict")) == ("rerequested", "none")
    assert tag(first, "service") == tag(second, "service") == "emulator"
    waiting = worker.result(first["id"])
    assert (waiting.status, waiting.error, waiting.verdict) == ("waiting", None, None)

    state = await worker.work(follow_up)
    assert state.message == "verdict: passed, Success [emulator]"
    result = worker.result(follow_up)
    assert (result.status, result.windows, result.calls) == ("verdict", 2, 2)
    assert calls_of(emulator) == 2
    # A caller that polls by the tag finds the newest run.
    query = {
        "flow_runs": {"tags": {"all_": [f"request:{worker.request_id}"]}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    (newest,) = httpx.post(f"{worker.api_url}/flow_runs/filter", json=query, timeout=30).json()  # noqa: ASYNC210 - nothing else runs meanwhile
    assert (newest["id"], tag(newest, "outcome")) == (follow_up, "verdict")
    assert tag(newest, "previous") == first["id"]
    record = await record_of(worker.request_id)
    assert [(run.flow_run_id, run.window, run.outcome) for run in record.runs] == [
        (first["id"], 1, "rerequested"),
        (second["id"], 2, "verdict"),
    ]


@pytest.mark.long
@pytest.mark.parametrize("fault", ["http:503", "api:InternalError", "api:RequestLimitExceeded"])
async def test_an_outage_is_waited_out_without_a_worker(
    worker: Worker, emulator: Emulator, fault: str
):
    emulator.add_fault(ACTION, fault, times=0)
    state = await worker.deliver()
    delays: list[float] = []
    for _ in range(8):
        assert state.is_completed()
        follow_up, due = next_run(state)
        delays.append((due - datetime.now(UTC)).total_seconds())
        state = await worker.work(follow_up)
    for delay, expected in zip(delays, [60, 120, 240, 480, 960, 1920, 3600, 3600], strict=True):
        assert 0.8 * expected - 2 <= delay <= 1.2 * expected

    emulator.clear_faults()
    follow_up, _ = next_run(state)
    state = await worker.work(follow_up)
    assert state.message == "verdict: passed, Success [emulator]"
    # All of this took one window and one upload of each file.
    result = worker.result(follow_up)
    assert result.windows == 1
    assert result.calls == (1 if fault.endswith("Exceeded") else calls_of(emulator))
    assert (calls_of(emulator, "CreateUploadUrl"), calls_of(emulator, "PutObject")) == (2, 2)
    async with get_client() as client:
        steps = await steps_of(await client.read_flow_run(UUID(follow_up)), 6)
    assert steps["upload ImageUrl"] == "Cached"


async def test_an_outage_that_outlasts_the_window_goes_on_in_the_next(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, "http:503", times=0)
    follow_up, _ = next_run(await worker.deliver())
    emulator.clear_faults()
    emulator.advance(WINDOW)
    state = await worker.work(follow_up)
    assert state.message == "verdict: passed, Success [emulator]"
    result = worker.result(follow_up)
    assert (result.windows, result.calls) == (2, 8)
    assert calls_of(emulator, "CreateUploadUrl") == 4


async def test_a_window_that_a_follow_up_opened_itself_is_left_to_another(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, "http:503", times=7)
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    emulator.advance(WINDOW)
    state = await worker.work(follow_up)
    last, _ = next_run(state)
    assert tag(worker.newest(), "window") == "3"
    assert (await worker.work(last)).message == "verdict: passed, Success [emulator]"
    assert worker.result(last).windows == 3
    record = await record_of(worker.request_id)
    assert [(run.window, run.outcome) for run in record.runs] == [
        (1, "rerequested"),
        (2, "rerequested"),
        (3, "verdict"),
    ]


async def test_what_cannot_be_delivered_in_time_is_given_up(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "90")
    emulator.add_fault(ACTION, "http:503", times=0)
    state = await worker.deliver()
    follow_up, first_due = next_run(state)
    record = await record_of(worker.request_id)
    assert record.backoff
    began = record.backoff.since
    state = await worker.work(follow_up)
    follow_up, last_due = next_run(state)
    # The last try is made when the time limit is reached, not later.
    assert first_due < last_due <= began + timedelta(seconds=91)
    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "0")  # as if the time limit had been reached
    state = await worker.work(follow_up)
    assert state.is_failed()
    assert (state.message or "").startswith("unavailable: HTTP 503")
    result = worker.result(follow_up)
    assert result.error is not None
    assert (result.status, result.error.kind) == ("failed", "unavailable")
    assert len(worker.chain()) == 3
    record = await record_of(worker.request_id)
    assert (record.outcome, record.follow_up, record.backoff) == ("unavailable", None, None)


async def test_windows_are_opened_as_often_as_was_said(worker: Worker, emulator: Emulator):
    emulator.add_fault("CreateUploadUrl", "expire-now", times=0)
    follow_up, _ = next_run(await worker.deliver(max_windows=2))
    state = await worker.work(follow_up)
    assert state.is_failed()
    assert (state.message or "").startswith("windows-used-up: ")
    assert worker.result(follow_up).windows == 2
    assert len(worker.chain()) == 2


async def test_a_second_trigger_does_not_make_a_second_chain(worker: Worker, emulator: Emulator):
    emulator.add_fault(ACTION, "http:503", times=0)
    first, _ = next_run(await worker.deliver())
    again, _ = next_run(await worker.deliver())
    assert first == again
    assert len(worker.chain()) == 3
    emulator.clear_faults()
    assert (await worker.work(first)).message == "verdict: passed, Success [emulator]"


async def test_a_second_trigger_may_bring_the_verdict_before(worker: Worker, emulator: Emulator):
    emulator.add_fault(ACTION, "http:503", times=0)
    follow_up, _ = next_run(await worker.deliver())
    emulator.clear_faults()
    await worker.deliver()
    calls = calls_of(emulator)
    assert (await worker.work(follow_up)).message == "verdict: passed, Success [emulator]"
    assert calls_of(emulator) == calls == worker.result(follow_up).calls


async def test_a_key_whose_run_has_ended_counts_as_not_scheduled(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await worker.deliver()
    emulator.add_fault(ACTION, "expire-now")
    first, _ = next_run(await worker.deliver())
    record = await record_of(worker.request_id)
    await worker.work(first)
    # Restore the record as it was before the follow-up, as from a backup.
    before: dict[str, Any] = {"follow_up": None, "attempt": 0, "window": 1}
    before |= {"fence": 100, "verdict": None, "reply": None}
    restored = record.model_copy(update=before)
    restored.takes_the_place_of(await record_of(worker.request_id))
    await records().save(restored)
    emulator.add_fault(ACTION, "expire-now")
    second, _ = next_run(await worker.deliver())
    assert second != first
    assert tag(worker.newest(), "attempt") == "2"
    assert (await worker.work(second)).message == "verdict: passed, Success [emulator]"


async def test_a_follow_up_is_not_for_another_service(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    monkeypatch.setenv("FACEID_ENDPOINT", "https://faceid.tencentcloudapi.com")
    state = await worker.work(follow_up)
    assert state.is_failed()
    assert (state.message or "").startswith("invalid-input: ")
    assert "for the emulator service" in (state.message or "")


async def test_without_a_deployment_the_same_call_continues(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "http:503", times=7)
    state, result, _ = await run_deliver()
    assert state.is_completed()
    assert result.status == "waiting"
    record = await record_of()
    assert (record.outcome, record.follow_up, record.is_open) == ("rerequested", None, False)
    state, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (1, 8)
    assert (await steps_of(run, 6))["upload ImageUrl"] == "Cached"


async def test_without_its_deployment_a_run_goes_on_by_itself(worker: Worker, emulator: Emulator):
    run = await worker.trigger()
    await worker.taken(run)
    await delete_deployment(worker)
    emulator.add_fault(ACTION, "expire-now")
    state = await worker.work(run)
    assert state.message == "verdict: passed, Success [emulator]"
    assert worker.result(run).windows == 2
