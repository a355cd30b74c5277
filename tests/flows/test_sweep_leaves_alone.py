"""What the sweeper leaves alone: living runs, cancelled runs, and unreadable records."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.events import emit_event
from prefect.states import Cancelled, Cancelling, Crashed, Running
from prefect.types.entrypoint import EntrypointType

from faceid.emulator import Emulator
from flows.deliver_batch import deliver_batch
from flows.parameters import strict_schema
from flows.sweep import sweep
from flows.upkeep import dead_runs
from tasks.state.claims import fail_if_locked
from tasks.state.locks import acquire_lock
from tasks.state.storage import Storage
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, delete_deployment, next_run, swept
from tests.flows.helpers import (
    ACTION,
    nobody_at_work,
    record_file,
    record_of,
    records,
)
from tests.flows.sweeping import PASSED, Gone, never, set_state, state_of
from tests.sample_request import REQUEST
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_crashed_before")


async def test_a_cancelled_follow_up_is_left_alone(worker: Worker, emulator: Emulator):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    await set_state(follow_up, Cancelled())
    assert await swept() == "1 cancelled"
    assert await swept() == "nothing is open"
    assert len(worker.chain()) == 2
    record = await record_of(worker.request_id)
    assert (record.outcome, record.follow_up) == ("cancelled", None)
    # A new trigger delivers the request after all.
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
    # As if the run had begun long ago: what counts is the last heartbeat.
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
    async with nobody_at_work(worker.request_id):  # the test holds the lock in the run's place
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
    assert await swept() == "1 not checked, 1 scheduled"
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
        # Runs as schedules create them, without validation of their parameters.
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
    # A deployment that is registered again under the same name has a new ID.
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
