"""The sweeper: requests whose run died get another, once; what a person cancelled is left alone."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.states import Cancelled, Cancelling, Crashed, Running
from prefect.types.entrypoint import EntrypointType
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.emulator import Emulator
from flows.deliver_batch import deliver_batch
from flows.delivery import follow_ups as rerequest
from flows.parameters import strict_schema
from flows.sweep import sweep
from flows.upkeep import dead_runs
from tasks.state.claims import fail_if_locked
from tasks.state.locks import acquire_lock
from tasks.state.storage import Storage
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, delete_deployment, next_run, swept, tag
from tests.flows.helpers import (
    ACTION,
    called,
    calls_of,
    nobody_at_work,
    record_file,
    record_of,
    records,
    told_of,
)
from tests.sample_request import REQUEST
from tests.waiting import wait_until

REDIS = os.environ.get("FACEID_TEST_REDIS", "redis://127.0.0.1:6379/9")
PASSED = "verdict: passed, Success [emulator]"


class Gone(BaseException):
    """The process is gone."""


@pytest.fixture
def die(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[UUID]]:
    """Lets a run of the request die after it took the request on; gives its ID."""

    async def run_and_die(flow_run_id: UUID | str | None = None) -> UUID:
        flow_run_id = UUID(str(flow_run_id or await worker.trigger()))

        async def dead(*_: object) -> None:
            raise Gone

        with monkeypatch.context() as patch:
            patch.setattr("flows.delivery.run.to_verdict", dead)
            with pytest.raises(Gone):
                await worker.work(flow_run_id)
        # One that was killed tells nobody: for Prefect it is at work.
        async with get_client() as client:
            await client.set_flow_run_state(flow_run_id, Running(), force=True)
        return flow_run_id

    return run_and_die


@pytest.fixture(autouse=True)
async def nothing_crashed_before(prefect_api: str) -> None:
    """The server is all tests': what others left crashed is none of a sweep's here."""
    since = datetime.now(UTC) - timedelta(days=1)
    async with get_client() as client:
        for flow in ("deliver", "deliver-batch"):
            for run in await dead_runs.crashed_runs(client, flow, since):
                await client.delete_flow_run(run.id)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time after which a run that is not heard of is taken for dead has passed for all."""
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(0))


def never(_: object) -> bool:
    return False


async def state_of(flow_run_id: UUID | str) -> str | None:
    async with get_client() as client:
        return (await client.read_flow_run(UUID(str(flow_run_id)))).state_name


async def set_state(flow_run_id: UUID | str, state: object) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(UUID(str(flow_run_id)), state, force=True)  # pyright: ignore[reportArgumentType]


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


@asynccontextmanager
async def calling(worker: Worker, emulator: Emulator) -> AsyncGenerator[FlowRun]:
    """A run in a process of its own, in the middle of its call; killed at the end."""
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
    # The call that was cut off may have been made.
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
        # Half a minute passes.
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
    # The worker died with it: it is Pending for ever.
    said = await swept()
    assert "scheduled" in said
    await swept()
    await swept()
    assert await state_of(run.id) == "Crashed"
    (newest,) = worker.chain()  # the dead one had no time for a tag
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
            await create_run(*args, **more)  # pyright: ignore[reportArgumentType]
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


async def test_a_cancelled_follow_up_is_left_alone(worker: Worker, emulator: Emulator):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    await set_state(follow_up, Cancelled())
    assert await swept() == "1 cancelled"
    assert await swept() == "nothing is open"
    assert len(worker.chain()) == 2
    record = await record_of(worker.request_id)
    assert (record.outcome, record.follow_up) == ("cancelled", None)
    # Who wants it after all triggers it again.
    assert (await worker.deliver()).message == PASSED


async def test_a_cancelled_run_is_left_alone(worker: Worker, die: Callable[..., Awaitable[UUID]]):
    dead = await die()
    await set_state(dead, Cancelling())
    assert await swept() == "1 at work"
    await set_state(dead, Cancelled())
    assert await swept() == "1 cancelled"
    assert len(worker.chain()) == 1
    assert (await record_of(worker.request_id)).outcome == "cancelled"


async def test_a_run_that_is_heard_of_is_not_taken_for_dead(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    run = await worker.taken(await worker.trigger())
    await set_state(run.id, Running())
    # An hour ago it began; what was heard of it since is what counts.
    monkeypatch.setattr(dead_runs, "_is_young", never)
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(hours=1))
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run.id}"})

    async def heard() -> bool:
        query = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        reply = await asyncio.to_thread(
            httpx.post, f"{worker.api_url}/events/filter", json=query, timeout=30
        )
        return str(run.id) in reply.text

    await wait_until(heard, "the heartbeat in the database")
    await swept()
    assert await state_of(run.id) == "Running"
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(0))
    await swept()
    assert await state_of(run.id) == "Crashed"


async def test_a_run_that_holds_its_lock_lives_though_nothing_is_heard(
    worker: Worker, die: Callable[..., Awaitable[UUID]], silence: None
):
    run = await die()
    async with nobody_at_work(worker.request_id):  # the test holds the lock in its place
        assert "1 at work" in await swept()
        assert await state_of(run) == "Running"
    assert "1 scheduled" in await swept()


async def test_a_second_run_that_died_leaves_the_first_ones_follow_up(
    worker: Worker, die: Callable[..., Awaitable[UUID]], emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    await die()
    assert await swept() == "1 marked Crashed, 1 waiting"
    assert len(worker.chain()) == 3
    assert (await worker.work(follow_up)).message == PASSED


async def test_a_record_that_cannot_be_read_does_not_hinder_the_others(
    worker: Worker, die: Callable[..., Awaitable[UUID]], samples: Path
):
    await die()
    damaged = record_file(samples / "storage")
    content = damaged.read_bytes()
    other = Worker(worker.api_url, worker.deployment_id, worker.request_id + "-2")
    await worker.taken(run := await other.trigger())
    await set_state(run, Crashed())
    damaged.write_bytes(b"{}")
    assert await swept() == "1 not looked after, 1 scheduled"
    assert damaged.read_bytes() == b"{}"
    damaged.write_bytes(content)
    assert await swept() == "1 marked Crashed, 1 scheduled"


async def test_a_run_that_could_not_even_begin_does_not_hinder_the_others(
    worker: Worker, die: Callable[..., Awaitable[UUID]]
):
    batch = await deliver_batch.ato_deployment(
        worker.request_id, entrypoint_type=EntrypointType.MODULE_PATH
    )
    batch_id = await batch.aapply()
    async with get_client() as client:
        for deployment_id in (worker.deployment_id, batch_id):
            schema = (await client.read_deployment(deployment_id)).parameter_openapi_schema
            update = DeploymentUpdate(parameter_openapi_schema=strict_schema(schema or {}))
            await client.update_deployment(deployment_id, update)
        # As schedules make them, whose parameters nobody checks.
        for deployment_id in (worker.deployment_id, batch_id):
            for parameters in ({}, REQUEST | {"manifest": "people.csv", "guess": 1}):
                run = await client.request(
                    "POST",
                    "/deployments/{id}/create_flow_run",
                    path_params={"id": str(deployment_id)},
                    json={"parameters": parameters, "enforce_parameter_schema": False},
                )
                await client.set_flow_run_state(run.json()["id"], Crashed())
        await die()
        assert await swept() == "1 marked Crashed, 1 scheduled"
        await Worker(worker.api_url, batch_id, "").leave_nothing()
        await client.delete_deployment(batch_id)


async def test_requests_wait_for_a_deployment_that_is_gone(
    worker: Worker, die: Callable[..., Awaitable[UUID]]
):
    await die()
    await delete_deployment(worker)
    await swept()
    assert len(worker.chain()) == 1
    again = await Worker.of_a_deployment(worker.api_url)
    record = await record_of(worker.request_id)
    assert record.origin
    # The same name, registered anew, has another ID.
    async with get_client() as client:
        name = (await client.read_deployment(again.deployment_id)).name
    origin = record.origin.model_copy(update={"deployment": f"deliver/{name}"})
    await records().save(record.model_copy(update={"origin": origin}))
    assert await swept() == "1 scheduled"
    assert (await worker.work(worker.newest()["id"])).message == PASSED


async def test_what_a_caller_took_over_is_for_the_caller_to_continue(
    worker: Worker,
    die: Callable[..., Awaitable[UUID]],
    run_deliver: Deliver,
    emulator: Emulator,
):
    await die()
    emulator.add_fault(ACTION, "http:503", times=7)
    state, result, _ = await run_deliver(request_id=worker.request_id)
    assert result.status == "waiting"
    assert "no run is scheduled" in (state.message or "")
    assert await swept() == "nothing is open"
    _, result, _ = await run_deliver(request_id=worker.request_id)
    assert result.status == "verdict"


async def test_late_sweeps_do_the_work_of_one(
    worker: Worker, die: Callable[..., Awaitable[UUID]], prefect_api: str
):
    deployment = await sweep.ato_deployment(
        "late", interval=60, entrypoint_type=EntrypointType.MODULE_PATH
    )
    deployment_id = await deployment.aapply()
    now = datetime.now(UTC)
    span = {"start_time": str(now - timedelta(minutes=10)), "end_time": str(now), "max_runs": 10}
    async with httpx.AsyncClient(base_url=prefect_api, timeout=30) as api:
        made = await api.post(f"/deployments/{deployment_id}/schedule", json=span)
        made.raise_for_status()
        query = {"flow_runs": {"deployment_id": {"any_": [str(deployment_id)]}}}
        late = (await api.post("/flow_runs/filter", json=query)).json()
        overdue = [r for r in late if datetime.fromisoformat(r["expected_start_time"]) < now]
        assert len(overdue) >= 9
        await die()
        assert "1 scheduled" in await swept()
        left = (await api.post("/flow_runs/filter", json=query)).json()
        assert not {run["id"] for run in overdue} & {run["id"] for run in left}
        (await api.delete(f"/deployments/{deployment_id}")).raise_for_status()
    assert len(worker.chain()) == 2


async def test_one_sweep_at_a_time(worker: Worker, die: Callable[..., Awaitable[UUID]]):
    await die()
    folder = records().storage.folder
    assert folder
    async with acquire_lock("", folder / "locks", "sweep/emulator", fail_if_locked):
        assert await swept() == "another sweep is at work"
    await asyncio.gather(*(swept() for _ in range(3)))
    assert len(worker.chain()) == 2


async def test_a_name_that_a_crash_left_among_the_open_ones_is_put_away(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, samples: Path
):
    def left(storage: Storage, name: str) -> None:
        raise Gone

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", left)
        with pytest.raises(Gone):
            await worker.deliver()
    assert list((samples / "storage" / "open").rglob("*.json"))
    await swept()
    assert not list((samples / "storage" / "open").rglob("*.json"))
    assert (await record_of(worker.request_id)).outcome == "verdict"
    assert len(worker.chain()) == 1
