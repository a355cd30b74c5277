"""Repeated request IDs: with the same input, with another input, and at the same time."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import pytest

from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from tests.flows.deliveries import Deliver
from tests.flows.helpers import (
    ACTION,
    OTHER_INPUT,
    REFUSES_THE_ACCOUNT,
    REFUSES_THE_FILE,
    Start,
    called,
    calls_of,
    nobody_at_work,
    record_of,
    runs_at_work,
    start_deliver,
    steps_of,
)
from tests.sample_request import REQUEST

FILES = ("alder.jpg", "alder.mp4")


async def test_again_with_the_same_input_gives_the_stored_verdict(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    _, first, _ = await run_deliver()
    sent = emulator.requests()
    for name in FILES:
        (samples / name).unlink()

    state, second, run = await run_deliver()
    assert state.is_completed()
    assert state.message == "verdict: passed, Success [emulator]"
    assert second.verdict == first.verdict
    assert (second.windows, second.calls) == (first.windows, first.calls) == (1, 1)
    assert second.tencent_request_ids == first.tencent_request_ids
    assert second.flow_run_id != first.flow_run_id
    assert emulator.requests() == sent
    assert await steps_of(run, 1) == {"call VideoLivenessCompare": "Cached"}
    record = await record_of()
    assert [entry.flow_run_id for entry in record.runs] == [first.flow_run_id, second.flow_run_id]


async def test_a_negative_verdict_is_not_asked_for_again(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault(ACTION, "api:FailedOperation.CompareLowSimilarity")
    _, first, _ = await run_deliver()
    state, second, _ = await run_deliver()
    assert state.message == "verdict: not passed, FailedOperation.CompareLowSimilarity [emulator]"
    assert second.verdict == first.verdict
    assert calls_of(emulator) == second.calls == 1


async def test_the_verdict_of_an_old_window_is_still_the_verdict(
    run_deliver: Deliver, emulator: Emulator
):
    _, first, _ = await run_deliver()
    emulator.advance(30 * 86400)
    _, second, _ = await run_deliver()
    assert second.verdict == first.verdict
    assert (second.windows, second.calls, calls_of(emulator)) == (1, 1, 1)


async def test_the_same_bytes_elsewhere_are_the_same_input(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    _, first, _ = await run_deliver()
    sent = emulator.requests()
    (samples / "moved").mkdir()
    for name in FILES:
        (samples / name).rename(samples / "moved" / name)
    moved = {"ImageUrl": "moved/alder.jpg", "VideoUrl": "moved/alder.mp4"}
    _, second, run = await run_deliver(resources=moved)
    assert second.verdict == first.verdict
    assert emulator.requests() == sent
    assert (await steps_of(run, 1)).popitem()[1] == "Cached"


@pytest.mark.parametrize(
    "other",
    [
        OTHER_INPUT,
        {"region": "ap-hongkong"},
        {"action_parameters": {"LivenessType": "ACTION", "ValidateData": "1,2"}},
        {"target_action": "LivenessCompare"},
    ],
)
async def test_another_input_after_a_verdict_is_a_conflict(
    run_deliver: Deliver, emulator: Emulator, other: dict[str, Any]
):
    _, first, _ = await run_deliver()
    sent = emulator.requests()
    state, second, run = await run_deliver(**other)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("invalid-input: RequestIdConflict: request r-1 already")
    assert "it has its verdict" in state.message
    assert second.error is not None
    assert (second.error.kind, second.error.code) == ("conflict", "RequestIdConflict")
    assert second.verdict is None
    assert "outcome:invalid-input" in run.tags
    assert emulator.requests() == sent

    _, again, _ = await run_deliver()
    assert again.verdict == first.verdict
    assert calls_of(emulator) == 1


@pytest.mark.parametrize("other", [OTHER_INPUT, {"region": "ap-hongkong"}])
async def test_another_input_after_a_failure_is_taken_in_a_new_window(
    run_deliver: Deliver, emulator: Emulator, other: dict[str, Any]
):
    emulator.add_fault(ACTION, REFUSES_THE_FILE)
    _, failed, _ = await run_deliver()
    assert failed.error is not None
    assert failed.error.kind == "input"
    assert (failed.windows, failed.calls) == (1, 1)

    _, result, run = await run_deliver(**other)
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (2, 2)
    assert await steps_of(run, 6) == {
        "ticket ImageUrl, window 2": "Completed",
        "ticket VideoUrl, window 2": "Completed",
        "upload ImageUrl, window 2": "Completed",
        "upload VideoUrl, window 2": "Completed",
        "check expiry": "Completed",
        "call VideoLivenessCompare": "Completed",
    }
    assert calls_of(emulator) == 2

    # The request ID now stands for the new input, so the first one is a conflict.
    _, first_again, _ = await run_deliver()
    assert first_again.error is not None
    assert first_again.error.kind == "conflict"


async def test_other_bytes_in_the_same_place_are_another_input(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    emulator.add_fault(ACTION, REFUSES_THE_FILE)
    await run_deliver()
    (samples / "birch.jpg").rename(samples / "alder.jpg")
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (2, 2)


async def test_another_input_while_a_calls_outcome_is_unknown_is_a_conflict(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "commit-then-reset")
    await run_deliver(on_unknown_outcome="stop")
    sent = emulator.requests()
    state, result, _ = await run_deliver(**OTHER_INPUT)
    assert result.error is not None
    assert (result.error.kind, result.error.code) == ("conflict", "RequestIdConflict")
    assert state.message is not None
    assert "its call's outcome is unknown" in state.message
    assert emulator.requests() == sent

    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.calls == calls_of(emulator) == 2


async def test_an_unknown_outcome_that_is_to_stop_sends_nothing_more(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "commit-then-reset")
    await run_deliver(on_unknown_outcome="stop")
    emulator.advance(7200)
    sent = emulator.requests()
    state, result, run = await run_deliver(on_unknown_outcome="stop")
    assert state.message is not None
    assert state.message.startswith("outcome-unknown: OutcomeUnknown: the call of 20")
    assert (result.windows, result.calls) == (1, 1)
    assert emulator.requests() == sent
    assert await steps_of(run, 1) == {"call VideoLivenessCompare": "Failed"}


async def test_a_run_that_failed_at_the_call_is_continued_there(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    _, failed, _ = await run_deliver()
    assert failed.error is not None
    assert failed.error.kind == "account"

    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert await steps_of(run, 6) == {
        "ticket ImageUrl": "Cached",
        "ticket VideoUrl": "Cached",
        "upload ImageUrl": "Cached",
        "upload VideoUrl": "Cached",
        "check expiry": "Completed",
        "call VideoLivenessCompare": "Completed",
    }
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"], calls[ACTION]) == (2, 2, 2)
    assert (result.windows, result.calls) == (1, 2)


async def test_one_file_that_was_uploaded_is_not_uploaded_again(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault("PutObject", "http:503", times=7, match={"nth": 2})
    _, stopped, _ = await run_deliver()
    assert stopped.status == "waiting"
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    steps = await steps_of(run, 6)
    assert [steps[f"ticket {field}"] for field in REQUEST["resources"]] == ["Cached"] * 2
    uploads = sorted(steps[f"upload {field}"] for field in REQUEST["resources"])
    assert uploads == ["Cached", "Completed"]


async def test_the_same_request_id_of_another_account_is_another_request(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    await run_deliver()
    monkeypatch.setenv("FACEID_ACCOUNT", "other")
    _, result, _ = await run_deliver(**OTHER_INPUT)
    assert result.status == "verdict"
    assert result.calls == 1
    assert calls_of(emulator) == 2


async def test_two_at_once_make_one_set_of_calls(run_deliver: Deliver, emulator: Emulator):
    request_id = f"r-{uuid4()}"
    async with nobody_at_work(request_id):
        runs = asyncio.gather(*(run_deliver(request_id=request_id) for _ in range(2)))
        await runs_at_work(request_id, 2)
    both = await runs
    assert [one.result.status for one in both] == ["verdict", "verdict"]
    assert both[0].result.verdict == both[1].result.verdict
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"], calls[ACTION]) == (2, 2, 1)
    assert [one.result.calls for one in both] == [1, 1]


async def test_two_requests_at_once_do_not_wait_for_each_other(
    run_deliver: Deliver, emulator: Emulator
):
    async with nobody_at_work("r-1"):
        waiting = asyncio.create_task(run_deliver())
        _, other, _ = await run_deliver(request_id="r-2")
        assert other.status == "verdict"
        assert not waiting.done()
    assert (await waiting).result.status == "verdict"


async def test_another_input_while_a_run_is_at_work_is_refused_at_once(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "delay:3")
    at_work = asyncio.create_task(run_deliver())
    await called(emulator)
    state, refused, _ = await run_deliver(**OTHER_INPUT)
    assert not at_work.done()
    assert refused.error is not None
    assert (refused.error.kind, refused.error.code) == ("conflict", "RequestIdConflict")
    assert state.message is not None
    assert "a run is at work on it" in state.message
    assert (await at_work).result.status == "verdict"
    assert calls_of(emulator) == 1


@pytest.fixture
def start(prefect_api: str, emulator: Emulator) -> Iterator[Start]:
    """A function that starts ``faceid deliver`` as a separate process.

    The processes are killed when the test ends.
    """
    started: list[Popen[str]] = []

    def start_one(request_id: str, *more: str) -> Popen[str]:
        started.append(start_deliver(prefect_api, request_id, *more))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


async def ended(process: "Popen[str]") -> DeliveryResult:
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, err
    return DeliveryResult.model_validate_json(out)


@pytest.mark.long
async def test_two_processes_at_once_make_one_set_of_calls(start: Start, emulator: Emulator):
    request_id = f"r-{uuid4()}"
    async with nobody_at_work(request_id):
        both = [start(request_id), start(request_id)]
        await runs_at_work(request_id, 2)
        assert emulator.requests() == []
    results = await asyncio.gather(*map(ended, both))
    assert results[0].verdict == results[1].verdict
    assert [result.calls for result in results] == [1, 1]
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"], calls[ACTION]) == (2, 2, 1)


@pytest.mark.long
async def test_a_killed_run_delays_the_other_for_less_than_a_minute(
    start: Start, emulator: Emulator
):
    request_id = f"r-{uuid4()}"
    emulator.add_fault(ACTION, "stall:60")
    killed = start(request_id)
    await called(emulator)
    other = start(request_id)
    await runs_at_work(request_id, 2)
    killed.send_signal(signal.SIGKILL)
    async with asyncio.timeout(60):
        result = await ended(other)
    assert killed.wait() == -signal.SIGKILL
    assert result.status == "verdict"
    assert (result.windows, result.calls, calls_of(emulator)) == (1, 2, 2)
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"]) == (2, 2)
