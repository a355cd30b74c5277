"""A limit on spending: requests and batches wait for the next day, and a batch counts the unknown.

The day is changed as a person could change it, by ``FACEID_DAY``: the dates of the two time zones
here always differ.
"""

import asyncio
from collections import Counter
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from faceid.emulator import Emulator
from flows.delivery.follow_ups import TURN_SECONDS
from flows.server.events import NOBODY_LISTENS
from tasks.delivery import Delivery
from tasks.settings import DeliverySettings
from tasks.state.limits import DailyLimit, open_limit
from tasks.state.record_parts import Backoff
from tasks.state.storage import open_storage
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, next_run, swept
from tests.flows.deployed_batch import Deployed
from tests.flows.helpers import ACTION, calls_of, record_of, records, told_of

TODAY, TOMORROW = "Pacific/Pago_Pago", "Pacific/Kiritimati"


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> str:
    """An account that no other test uses, because all tests share the server's events."""
    name = f"a-{uuid4().hex[:8]}"
    monkeypatch.setenv("FACEID_ACCOUNT", name)
    monkeypatch.setenv("FACEID_DAY", TODAY)
    return name


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(2, monkeypatch)


def allow(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", f'{{"{ACTION}": {calls}}}')


def limit() -> DailyLimit:
    settings = DeliverySettings.load()
    found = open_limit(settings, open_storage(settings), ACTION)
    assert found
    return found


def turn() -> datetime:
    """Return when the day turns in the time zone of the account."""
    zone = ZoneInfo(TODAY)
    tomorrow = datetime.now(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), zone).astimezone(UTC)


async def test_a_request_waits_for_the_turn_of_the_day(
    worker: Worker,
    emulator: Emulator,
    prefect_api: str,
    account: str,
    monkeypatch: pytest.MonkeyPatch,
):
    allow(0, monkeypatch)
    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "0")  # what waits for the day is not given up
    state = await worker.deliver()
    assert state.is_completed()
    follow_up, due = next_run(state)
    assert timedelta(0) <= due - turn() <= timedelta(seconds=TURN_SECONDS)
    at = turn().astimezone(ZoneInfo(TODAY)).isoformat(timespec="minutes")
    said = f"; DailyLimit: {ACTION} has its 0 calls of this day; goes on at {at} [emulator]"
    assert (state.message or "").endswith(said)
    assert emulator.requests() == []  # no ticket and no upload in vain

    # The same day again: it waits on, and this is not told again.
    state = await worker.work(follow_up)
    following, _ = next_run(state)
    assert following != follow_up
    (event,) = await told_of(prefect_api, f"faceid.limit.emulator.{account}.{ACTION}", 1)
    assert event["event"] == "faceid.limit.reached"
    assert event["resource"]["faceid.account"] == account
    assert event["resource"]["faceid.target-action"] == ACTION
    assert event["payload"] == {
        "account": account,
        "target_action": ACTION,
        "calls_per_day": 0,
        "time_zone": TODAY,
        "until": turn().isoformat(timespec="seconds"),
    }
    assert "waiting for a long time" not in await swept()

    allow(1, monkeypatch)
    monkeypatch.setenv("FACEID_DAY", TOMORROW)
    state = await worker.work(following)
    assert (state.message or "").startswith("verdict: passed")
    assert await limit().left() == 0


async def test_the_wait_for_the_day_does_not_count_towards_giving_up(
    worker: Worker, emulator: Emulator, limited: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    emulator.add_fault(ACTION, "http:503", times=2)
    await worker.deliver()
    record = await record_of(worker.request_id)
    assert record.backoff
    allow(0, monkeypatch)
    since = datetime.now(UTC) - timedelta(hours=23)
    backoff = Backoff(since=since, count=record.backoff.count)
    await records().save(record.model_copy(update={"backoff": backoff}))
    state = await worker.work(worker.newest()["id"])
    record = await record_of(worker.request_id)
    assert record.backoff
    assert record.backoff.count == backoff.count
    _, due = next_run(state)
    waited = due - record.backoff.since
    # The turn of the day is told in whole seconds.
    assert timedelta(hours=23) <= waited + timedelta(seconds=1) < timedelta(hours=23, minutes=5)


async def test_what_nobody_hears_is_left_for_others_to_tell(run_deliver: Deliver, limited: None):
    context = copy_context()
    context.run(NOBODY_LISTENS.set, True)
    for number in range(3):
        await asyncio.create_task(run_deliver(request_id=f"r-{number}"), context=context)
    assert await limit().is_first_to_tell()


async def test_without_a_deployment_the_same_request_goes_on(
    run_deliver: Deliver, emulator: Emulator, limited: None, monkeypatch: pytest.MonkeyPatch
):
    for number in range(2):
        assert (await run_deliver(request_id=f"r-{number}")).result.status == "verdict"
    state, result, _ = await run_deliver(request_id="r-2")
    assert (result.status, result.calls, result.error) == ("waiting", 0, None)
    said = "rerequested: no run is scheduled; deliver the same request again; DailyLimit: "
    assert (state.message or "").startswith(said)
    # A stored verdict needs no call.
    assert (await run_deliver(request_id="r-1")).result.status == "verdict"
    monkeypatch.setenv("FACEID_DAY", TOMORROW)
    assert (await run_deliver(request_id="r-2")).result.calls == 1
    assert calls_of(emulator) == 3


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("api:RequestLimitExceeded", 1),  # throttled: the action was not reached
        ("api:FailedOperation.ImageDecodeFailed", 1),  # refused by the action, not tried again
        ("commit-then-reset", 0),  # not answered, and called again
    ],
)
async def test_what_left_is_counted(
    run_deliver: Deliver, emulator: Emulator, limited: None, fault: str, left: int
):
    emulator.add_fault(ACTION, fault)
    _, result, _ = await run_deliver()
    assert await limit().left() == left
    assert result.calls == 2 - left


async def test_a_call_whose_intent_cannot_be_stored_is_not_counted(
    run_deliver: Deliver, limited: None, monkeypatch: pytest.MonkeyPatch, samples: Path
):
    save = Delivery.save

    async def away_when_calling(delivery: Delivery) -> None:
        if delivery.record.intent is None:
            await save(delivery)
            return
        folder = samples / "storage" / "records"
        folder.rename(samples / "away")
        folder.write_text("a file where the folder should be")
        try:
            await save(delivery)
        finally:
            folder.unlink()
            (samples / "away").rename(folder)

    monkeypatch.setattr(Delivery, "save", away_when_calling)
    _, result, _ = await run_deliver()
    assert result.error
    assert result.error.kind == "storage"
    assert await limit().left() == 2


async def test_a_damaged_count_lets_nothing_leave(
    run_deliver: Deliver, emulator: Emulator, limited: None, samples: Path
):
    await run_deliver()
    (path,) = (samples / "storage" / "calls").iterdir()
    path.write_text("garbage")
    before = len(emulator.requests())
    state, result, _ = await run_deliver(request_id="r-2")
    assert state.is_failed()
    assert result.error
    assert (result.error.kind, result.error.code) == ("storage", "CountUnreadable")
    assert path.name in result.error.message
    assert len(emulator.requests()) == before


async def test_the_rest_of_a_batch_waits_for_one_later_batch(
    deployed: Deployed,
    emulator: Emulator,
    prefect_api: str,
    account: str,
    limited: None,
    monkeypatch: pytest.MonkeyPatch,
):
    run = await deployed.trigger()
    state = await deployed.work(run)
    assert (state.message or "").startswith(
        "partial: 2 verdicts, 4 waiting of 6 requests [emulator]; "
        f"{ACTION} has its 2 calls of this day; goes on at "
    )
    assert calls_of(emulator) == 2
    following = await deployed.next(run)
    assert following.expected_start_time
    late = following.expected_start_time - turn()
    assert timedelta(0) <= late <= timedelta(seconds=TURN_SECONDS + 1)
    await told_of(prefect_api, f"faceid.limit.emulator.{account}.{ACTION}", 1)

    monkeypatch.setenv("FACEID_DAY", TOMORROW)
    state = await deployed.work(following)
    assert (state.message or "").startswith("partial: 4 verdicts, 2 waiting of 6 requests")
    assert calls_of(emulator) == 4
    last = await deployed.next(following)
    assert not any(tag.startswith("attempt:") for tag in last.tags)
    allow(4, monkeypatch)
    state = await deployed.work(last)
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"
    assert calls_of(emulator) == 6


async def test_what_need_not_wait_is_delivered_and_the_rest_makes_no_noise(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None, limited: None
):
    await run_batch(write(samples / "done.jsonl", [entry("p-38"), entry("p-39")]))
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(40)])
    before = len(emulator.requests())
    state, _, lines, _ = await run_batch(manifest, concurrency=1)
    assert (state.message or "").startswith("partial: 2 verdicts, 38 waiting of 40 requests")
    assert Counter(line.status for line in lines) == {"verdict": 2, "waiting": 38}
    assert [line.request_id for line in lines if line.status == "verdict"] == ["p-38", "p-39"]
    assert len(emulator.requests()) == before
    # Only the first one was begun.
    assert await records().load("p-0") is not None
    assert await records().load("p-1") is None


async def test_a_batch_stops_after_so_many_calls_without_an_answer(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "commit-then-reset", times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(30)])
    state, run, lines, _ = await run_batch(manifest, concurrency=2, max_unknown=5)
    assert state.is_failed()
    said = "outcome-unknown: TooManyUnknown: "
    assert (state.message or "").startswith(said)
    assert "calls were not answered, and max_unknown is 5" in (state.message or "")
    assert "outcome:outcome-unknown" in run.tags
    # One more call may have been in flight.
    assert 5 <= calls_of(emulator) <= 6
    assert {line.status for line in lines} == {"waiting"}
    emulator.clear_faults()
    state, _, _, _ = await run_batch(manifest)
    assert state.message == "completed: 30 verdicts of 30 requests [emulator]"


async def test_calls_that_are_not_to_be_repeated_stop_a_batch_as_well(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "commit-then-reset", times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(30)])
    state, _, lines, failures = await run_batch(
        manifest, concurrency=1, max_unknown=3, on_unknown_outcome="stop"
    )
    assert state.is_failed()
    assert calls_of(emulator) == 3
    assert failures == ["p-0", "p-1", "p-2"]
    assert {line.error.kind for line in lines if line.error} == {"unknown"}


async def test_fewer_calls_without_an_answer_do_no_harm(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "commit-then-reset", times=4)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(6)])
    state, _, _, _ = await run_batch(manifest, max_unknown=5)
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"
    assert calls_of(emulator) == 10
