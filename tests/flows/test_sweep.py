"""The sweeper schedules one new run for each request whose run died."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.emulator import Emulator
from flows.delivery import follow_ups as rerequest
from tests.flows.deployed import Worker, next_run, swept, tag
from tests.flows.helpers import (
    ACTION,
    called,
    calls_of,
    record_of,
    records,
    told_of,
)
from tests.flows.sweeping import PASSED, REDIS, Gone, set_state, state_of
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_crashed_before")


async def test_a_request_whose_run_died_gets_another_once(
    worker: Worker, die: Callable[..., Awaitable[UUID]]
):
    dead = await die()
    assert await state_of(dead) == "Running"
    said = await swept()
    assert said.split(", ") == ["1 marked Crashed", "1 scheduled"]
    for _ in range(9):
        assert await swept() == "1 waiting"
    first, second = worker.chain()
    assert first["id"] == str(dead)
    assert first["state"]["name"] == "Crashed"
    assert tag(first, "next") == second["id"]
    assert tag(second, "previous") == first["id"]
    due = datetime.fromisoformat(second["expected_start_time"])
    assert due <= datetime.now(UTC)

    assert (await worker.work(second["id"])).message == PASSED
    assert worker.result(second["id"]).calls == 1
    assert await swept() == "nothing is open"
    record = await record_of(worker.request_id)
    assert [run.outcome for run in record.runs] == ["crashed", "verdict"]


async def test_a_run_that_died_after_somebody_cancelled_it_is_not_continued(
    worker: Worker, die: Callable[..., Awaitable[UUID]], silence: None
):
    dead = await die()
    await set_state(dead, Cancelling())
    said = (await swept()).split(", ")
    assert {"1 cancelled", "1 marked Cancelled"} <= set(said)
    assert await state_of(dead) == "Cancelled"
    assert "scheduled" not in await swept()
    assert len(worker.chain()) == 1


@asynccontextmanager
async def calling(worker: Worker, emulator: Emulator) -> AsyncGenerator[FlowRun]:
    """Start a run in a separate process, and yield it in the middle of its call; then kill it."""
    emulator.add_fault(ACTION, "stall:60")
    run = await worker.taken(await worker.trigger())
    process = subprocess.Popen(  # noqa: ASYNC220 - it does not block
        [sys.executable, "-m", "prefect.engine"],
        env=os.environ | {"PREFECT__FLOW_RUN_ID": str(run.id), "PREFECT_API_URL": worker.api_url},
    )
    try:
        await called(emulator)
        yield run
    finally:
        process.kill()
        process.wait()
        emulator.clear_faults()


async def test_a_process_that_was_killed_is_noticed_by_its_lock(worker: Worker, emulator: Emulator):
    async with calling(worker, emulator) as run:
        assert await swept() == "1 at work"
    assert await state_of(run.id) == "Running"
    assert await swept() == "1 marked Crashed, 1 scheduled"
    newest = worker.newest()
    assert (await worker.work(newest["id"])).message == PASSED
    # The call that was cut off is counted, because it may have been made.
    assert worker.result(newest["id"]).calls == 2


@pytest.mark.services
async def test_a_process_that_was_killed_is_noticed_when_its_lease_ends(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_LOCKS", REDIS)
    async with Redis.from_url(REDIS) as redis:
        try:
            await redis.ping()
        except RedisError:
            if os.environ.get("FACEID_TEST_SERVICES") == "required":
                raise
            pytest.skip("no Redis on this machine")
        async with calling(worker, emulator):
            assert await swept() == "1 at work"
        assert await swept() == "1 at work"
        # As if half a minute had passed.
        await redis.pexpire(f"faceid:lock:{records().name(worker.request_id)}", 1)

        async def noticed() -> bool:
            return await swept() == "1 marked Crashed, 1 scheduled"

        await wait_until(noticed, "the end of the lease")
    assert (await worker.work(worker.newest()["id"])).message == PASSED


async def test_runs_that_die_again_and_again_come_back_later_and_are_given_up(
    prefect_api: str,
    worker: Worker,
    die: Callable[..., Awaitable[UUID]],
    monkeypatch: pytest.MonkeyPatch,
):
    await die()
    delays: list[float] = []
    for _ in range(3):
        await swept()
        newest = worker.newest()
        due = datetime.fromisoformat(newest["expected_start_time"])
        delays.append((due - datetime.now(UTC)).total_seconds())
        await die(newest["id"])
    assert delays[0] <= 0
    assert 90 <= delays[1] <= 150
    assert 180 <= delays[2] <= 300
    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "0")
    assert await swept() == "1 given up, 1 marked Crashed"
    assert await swept() == "nothing is open"
    record = await record_of(worker.request_id)
    assert record.error is not None
    assert (record.outcome, record.error.kind) == ("unavailable", "unavailable")
    assert len(worker.chain()) == 4
    (event,) = await told_of(prefect_api, f"faceid.request.emulator.{worker.request_id}", 1)
    assert event["event"] == "faceid.delivery.failed"
    assert event["resource"]["faceid.error-code"] == "RunsDied"
    assert event["payload"]["flow_run_id"] == worker.newest()["id"]


async def test_a_run_that_was_never_begun_is_replaced_once(
    worker: Worker, silence: None, emulator: Emulator
):
    run = await worker.taken(await worker.trigger())
    # As if the worker had died before it began the run, which stays Pending.
    said = await swept()
    assert "scheduled" in said
    await swept()
    await swept()
    assert await state_of(run.id) == "Crashed"
    (newest,) = worker.chain()  # the dead run was never tagged
    assert tag(newest, "previous") == str(run.id)
    assert newest["parameters"] == run.parameters
    assert (await worker.work(newest["id"])).message == PASSED
    assert calls_of(emulator) == 1


async def test_runs_that_are_never_begun_come_to_an_end(worker: Worker, silence: None):
    await worker.taken(await worker.trigger())
    for _ in range(8):
        await swept()
        await worker.taken(worker.newest()["id"])
    await swept()
    await swept()
    assert len(worker.chain()) == 8


async def test_a_follow_up_that_died_before_it_began_is_scheduled_again(
    worker: Worker, silence: None, emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    await worker.taken(follow_up)
    said = await swept()
    assert "1 scheduled" in said
    assert "1 waiting" in await swept()
    _, dead, last = worker.chain()
    assert dead["state"]["name"] == "Crashed"
    assert (tag(dead, "next"), tag(last, "previous")) == (last["id"], dead["id"])
    assert tag(last, "attempt") == "2"
    assert (await worker.work(last["id"])).message == PASSED
    assert worker.result(last["id"]).windows == 2


async def test_a_follow_up_that_the_server_has_lost_is_scheduled_again(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    async with get_client() as client:
        await client.delete_flow_run(UUID(follow_up))
    assert await swept() == "1 scheduled"
    newest = worker.newest()
    assert newest["id"] != follow_up
    assert (await worker.work(newest["id"])).message == PASSED


@pytest.mark.parametrize("lost", ["before it was scheduled", "before its ID was stored"])
async def test_a_run_that_dies_while_it_schedules_has_its_follow_up_scheduled_once(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, lost: str
):
    create_run = rerequest.create_run

    async def cut_off(*args: object, **more: object) -> None:
        if lost == "before its ID was stored":
            await create_run(*args, **more)  # pyright: ignore[reportArgumentType]  # passed through
        raise Gone

    emulator.add_fault(ACTION, "expire-now")
    with monkeypatch.context() as patch:
        patch.setattr(rerequest, "create_run", cut_off)
        with pytest.raises(Gone):
            await worker.deliver()
    assert await swept() == "1 scheduled"
    assert await swept() == "1 waiting"
    _, follow_up = worker.chain()
    assert (await worker.work(follow_up["id"])).message == PASSED
    assert len(worker.chain()) == 2
