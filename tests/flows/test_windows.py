"""Windows that run out, as noticed by our check, the store or the action; limits and clocks."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from faceid.emulator import Emulator, EmulatorOptions
from tests.flows.deliveries import Deliver, task_runs_of
from tests.flows.helpers import ACTION, REFUSES_THE_ACCOUNT, called, calls_of, steps_of

WINDOW = 7200

FRESH_WINDOW = {
    "ticket ImageUrl, window 2": "Completed",
    "ticket VideoUrl, window 2": "Completed",
    "upload ImageUrl, window 2": "Completed",
    "upload VideoUrl, window 2": "Completed",
}
CACHED_WINDOW = {
    "ticket ImageUrl": "Cached",
    "ticket VideoUrl": "Cached",
    "upload ImageUrl": "Cached",
    "upload VideoUrl": "Cached",
}


def uploads(emulator: Emulator) -> tuple[int, int]:
    return calls_of(emulator, "CreateUploadUrl"), calls_of(emulator, "PutObject")


@pytest.fixture
def emulator_with(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Emulator]]:
    """A function that starts an emulator with these options, and returns it.

    The environment points to the new emulator.
    """
    with ExitStack() as running:

        def start(**options: object) -> Emulator:
            own = running.enter_context(Emulator(EmulatorOptions.read(port=0, **options)))
            monkeypatch.setenv("FACEID_ENDPOINT", own.url)
            return own

        yield start


async def test_a_window_that_is_over_is_opened_afresh_in_the_same_run(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    emulator.advance(WINDOW)

    state, result, run = await run_deliver()
    assert state.is_completed()
    assert (result.windows, result.calls) == (2, 2)
    assert uploads(emulator) == (4, 4)
    assert await steps_of(run, 11) == {
        **CACHED_WINDOW,
        **FRESH_WINDOW,
        "check expiry": "Failed, Completed",
        "call VideoLivenessCompare": "Completed",
    }
    assert "AccessDenied" not in emulator.stats()["errors"]


async def test_a_window_with_time_to_spare_is_used(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    emulator.advance(WINDOW - 100)
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 1
    assert uploads(emulator) == (2, 2)
    assert CACHED_WINDOW.items() <= (await steps_of(run, 6)).items()


@pytest.mark.parametrize(("margin", "left"), [("60", 59), ("500", 499)])
async def test_a_window_within_the_margin_counts_as_over(
    run_deliver: Deliver,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    margin: str,
    left: int,
):
    monkeypatch.setenv("FACEID_EXPIRY_MARGIN", margin)
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    emulator.advance(WINDOW - left)
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 2


async def test_the_margin_is_never_more_than_a_tenth_of_the_tickets_life(
    run_deliver: Deliver, emulator_with: Callable[..., Emulator]
):
    emulator = emulator_with(window=200)
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT, times=2)
    await run_deliver()
    emulator.advance(150)  # 50 seconds are left: fewer than 60, but more than 20
    _, result, _ = await run_deliver()
    assert result.windows == 1
    assert uploads(emulator) == (2, 2)
    emulator.advance(31)
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 2


async def test_a_margin_beyond_all_measure_hinders_nothing(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_EXPIRY_MARGIN", "100000")
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 1


async def test_a_cached_ticket_that_ran_out_is_not_put_to(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault("PutObject", "http:503", times=0)
    await run_deliver()
    emulator.clear_faults()
    tried = calls_of(emulator, "PutObject")
    emulator.advance(WINDOW - 30)

    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 2
    assert calls_of(emulator, "PutObject") == tried + 2
    assert await steps_of(run, 10) == {
        "ticket ImageUrl": "Cached",
        "ticket VideoUrl": "Cached",
        "upload ImageUrl": "Failed",
        "upload VideoUrl": "Failed",
        **FRESH_WINDOW,
        "check expiry": "Completed",
        "call VideoLivenessCompare": "Completed",
    }


@pytest.mark.parametrize("fault", ["expire-now", "api:NoSuchKey"])
async def test_the_store_may_say_that_it_is_over(
    run_deliver: Deliver, emulator: Emulator, samples: Path, fault: str
):
    md5 = hashlib.md5((samples / "alder.jpg").read_bytes(), usedforsecurity=False).hexdigest()
    emulator.add_fault("PutObject", fault, match={"md5": md5})
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (2, 1)
    steps = await steps_of(run, 10)
    assert steps["upload ImageUrl"] == "Failed"
    assert FRESH_WINDOW.items() <= steps.items()


async def test_the_action_may_find_that_the_upload_is_gone(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 2
    assert result.calls == calls_of(emulator) == 2
    assert emulator.stats()["errors"]["FailedOperation.DownLoadError"] == 1
    steps = await steps_of(run, 12)
    assert FRESH_WINDOW.items() <= steps.items()
    assert steps["call VideoLivenessCompare"] == "Failed, Completed"


async def test_an_upload_that_the_store_has_no_more_is_uploaded_afresh(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    md5 = hashlib.md5((samples / "alder.mp4").read_bytes(), usedforsecurity=False).hexdigest()
    # Once for the action, and once for our own check.
    emulator.add_fault("GetObject", "api:NoSuchKey", times=2, match={"md5": md5})
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls, calls_of(emulator)) == (2, 2, 2)


async def test_a_window_may_end_while_the_action_is_at_work(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "delay:1")
    at_work = asyncio.create_task(run_deliver())
    await called(emulator)
    emulator.advance(WINDOW)
    _, result, _ = await at_work
    assert result.status == "verdict"
    assert (result.windows, result.calls, calls_of(emulator)) == (2, 2, 2)


async def test_a_download_that_failed_with_the_upload_there_is_tried_again(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault(ACTION, "api:FailedOperation.DownLoadError")
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls, calls_of(emulator)) == (1, 2, 2)
    assert uploads(emulator) == (2, 2)
    await steps_of(run, 6)


async def test_windows_are_counted_over_the_requests_life(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault("CreateUploadUrl", "expire-now", times=0)
    state, result, _ = await run_deliver(max_windows=2)
    assert state.message is not None
    assert state.message.startswith("windows-used-up: ")
    assert result.windows == 2
    assert uploads(emulator) == (4, 0)

    emulator.clear_faults()
    _, result, _ = await run_deliver(max_windows=2)
    assert result.error is not None
    assert result.error.kind == "expired"
    assert result.windows == 2
    assert uploads(emulator) == (4, 0)

    _, result, _ = await run_deliver(max_windows=3)
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (3, 1)
    assert uploads(emulator) == (6, 2)


@pytest.mark.parametrize("skew", [3600, -3600])
async def test_a_local_clock_that_is_wrong_by_an_hour_changes_nothing(
    run_deliver: Deliver, emulator_with: Callable[..., Emulator], skew: int
):
    emulator = emulator_with(window=200, skew=skew)
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT, times=2)
    _, result, _ = await run_deliver()
    assert result.error is not None
    assert (result.error.kind, result.windows, result.calls) == ("account", 1, 1)
    assert uploads(emulator) == (2, 2)

    _, result, run = await run_deliver()
    assert (result.windows, result.calls) == (1, 2)
    assert uploads(emulator) == (2, 2)
    assert CACHED_WINDOW.items() <= (await steps_of(run, 6)).items()

    emulator.advance(200)
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (2, 3)
    assert uploads(emulator) == (4, 4)
    assert FRESH_WINDOW.items() <= (await steps_of(run, 11)).items()


async def test_a_server_that_does_not_tell_its_time_is_asked_again(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    sent = emulator.requests()
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    _, result, run = await run_deliver()
    assert result.status == "waiting"
    assert (result.windows, result.calls) == (1, 1)
    assert emulator.requests() == sent
    assert await steps_of(run, 5) == {**CACHED_WINDOW, "check expiry": "Failed"}
    check = next(task for task in await task_runs_of(run) if task.name == "check expiry")
    assert check.run_count == 7
