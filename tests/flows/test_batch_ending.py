"""A batch that is told to end, or dies: its requests in flight, and the run that continues."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from prefect import get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Crashed

from faceid.emulator import Emulator
from flows import deliver_batch
from flows.batch import chain as batch_chain
from flows.batch import summary
from flows.server.runs import tag_of
from tests.flows.batches import Ended, RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import swept
from tests.flows.deployed_batch import Deployed
from tests.flows.helpers import ACTION, REFUSES_THE_FILE, called, calls_of, record_of


class Told(BaseException):
    """Raised by the signal handlers that were installed before those of the batch."""


@pytest.fixture(autouse=True)
def listener() -> Iterator[None]:
    """Install signal handlers before the batch does, as Prefect's engine and the command do."""

    def tell(*_: object) -> None:
        raise Told

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is tell
        signal.signal(number, handler)


async def told_in_flight(
    emulator: Emulator, batch: "asyncio.Task[Ended]", *signals: signal.Signals, calls: int = 3
) -> Ended:
    """Send the signals when ``calls`` calls are in flight, and return how the batch ended."""
    await called(emulator, calls)
    for number in signals:
        signal.raise_signal(number)
        await asyncio.sleep(0)
    return await batch


async def test_what_is_in_flight_comes_to_its_end(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "delay:1", times=0)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(40)])
    batch = asyncio.create_task(run_batch(manifest, concurrency=4))
    state, run, lines, _ = await told_in_flight(emulator, batch, signal.SIGINT)
    assert state.is_cancelled()
    calls = calls_of(emulator)
    assert calls < 40
    # Each call that was sent has its answer. Requests whose turn had not come wait.
    assert [line.status for line in lines].count("verdict") == calls
    assert {line.status for line in lines} <= {"verdict", "waiting"}
    assert (state.message or "").startswith(f"cancelled: {calls} verdicts")
    assert (state.message or "").endswith("[emulator]; the same manifest goes on from here")
    assert "outcome:completed" not in run.tags

    emulator.clear_faults()
    state, _, lines, _ = await run_batch(manifest)
    assert state.message == "completed: 40 verdicts of 40 requests [emulator]"
    assert calls_of(emulator) == 40


async def test_what_is_told_twice_is_cut_off_and_goes_on_later(
    run_batch: RunBatch, emulator: Emulator, samples: Path, fast: None
):
    emulator.add_fault(ACTION, "delay:120", times=3)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(10)])
    batch = asyncio.create_task(run_batch(manifest, concurrency=3))
    state, _, lines, failures = await told_in_flight(emulator, batch, signal.SIGINT, signal.SIGINT)
    assert state.is_cancelled()
    assert [(line.request_id, line.status, line.windows, line.calls) for line in lines] == [
        (f"p-{n}", "waiting", 1, 1) for n in range(3)
    ]
    assert failures == []
    assert (await record_of("p-0")).intent is not None
    state, _, lines, _ = await run_batch(manifest)
    assert state.message == "completed: 10 verdicts of 10 requests [emulator]"
    assert [line.calls for line in lines] == [2] * 3 + [1] * 7


async def told(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0)


async def test_a_signal_while_a_run_ends_does_not_take_its_end_away(
    run_batch: RunBatch,
    run_deliver: Deliver,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(summary, "acreate_markdown_artifact", told)
    state, *_ = await run_batch(write(samples / "people.jsonl", [entry("p-1")]))
    assert state.message == "completed: 1 verdicts of 1 requests [emulator]"
    monkeypatch.setattr(Artifact, "acreate", told)
    delivered = await run_deliver()
    assert delivered.state.message == "verdict: passed, Success [emulator]"


async def test_what_takes_too_long_is_cut_off(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_DRAIN_SECONDS", "0.1")
    emulator.add_fault(ACTION, "delay:120", times=3)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(5)])
    batch = asyncio.create_task(run_batch(manifest, concurrency=3))
    state, _, lines, _ = await told_in_flight(emulator, batch, signal.SIGINT)
    assert state.is_cancelled()
    assert [line.status for line in lines] == ["waiting"] * 3


async def nothing() -> None:
    pass


async def refused_by_prefect() -> None:
    async with get_client() as client:
        await client._client.get("/there-is-no-such-path")  # pyright: ignore[reportPrivateUsage]


async def broken() -> None:
    raise RuntimeError("something nobody has thought of")


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (
            refused_by_prefect,
            "unavailable: PrefectUnavailable: a call to the Prefect server failed (404 Not Found). "
            "Check PREFECT_API_URL and PREFECT_API_AUTH_STRING, and that the server is running.; "
            "3 verdicts of 6 requests, 3 not begun [emulator]",
        ),
        (broken, "Flow run encountered an exception: ExceptionGroup"),
    ],
)
async def test_calls_in_flight_come_home_when_another_shard_fails(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
    failing: Callable[[], Awaitable[None]],
    message: str,
):
    shards = iter([nothing, failing, nothing, nothing])

    async def tag_shard() -> None:
        shard = next(shards)
        if shard is failing:
            await called(emulator, 3)
        await shard()

    monkeypatch.setattr(deliver_batch, "SHARD", 3)
    monkeypatch.setattr(deliver_batch, "tag_shard", tag_shard)
    emulator.add_fault(ACTION, "delay:1", times=3)
    manifest = write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(6)])
    state, *_ = await run_batch(manifest)
    assert state.is_failed()
    assert (state.message or "").startswith(message)
    for number in range(3):
        assert (await record_of(f"p-{number}")).state == "done"
    state, *_ = await run_batch(manifest)
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"
    assert calls_of(emulator) == 6


async def test_a_worker_that_stops_leaves_the_batch_to_the_sweeper(
    deployed: Deployed, emulator: Emulator
):
    emulator.add_fault(ACTION, "delay:1", times=0)
    run = await deployed.trigger()
    work = asyncio.create_task(deployed.work(run))
    await called(emulator, 3)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Told):
        await work
    run = await deployed.read(run)
    assert run.state
    assert run.state.is_crashed()
    calls = calls_of(emulator)
    emulator.clear_faults()

    assert "1 scheduled" in await swept()
    following = await deployed.next(run)
    assert tag_of(following, "previous") == tag_of(following, "chain") == str(run.id)
    assert tag_of(following, "batch") == "people"
    assert following.name == run.name
    assert "scheduled" not in await swept()
    state = await deployed.work(following)
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"
    assert calls < 6
    assert calls_of(emulator) == 6


async def test_a_batch_that_a_person_cancels_is_left_alone(deployed: Deployed, emulator: Emulator):
    emulator.add_fault(ACTION, "delay:1", times=0)
    run = await deployed.trigger()
    work = asyncio.create_task(deployed.work(run))
    await called(emulator, 3)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling())
    signal.raise_signal(signal.SIGTERM)
    assert (await work).is_cancelled()
    run = await deployed.read(run)
    assert run.state
    assert run.state.is_cancelled()
    assert "scheduled" not in await swept()


async def test_a_batch_that_dies_again_and_again_is_given_up(deployed: Deployed):
    run = await deployed.trigger()
    for death in range(batch_chain.MAX_DEATHS):
        assert death == int(tag_of(run, "deaths") or 0)
        assert "1 scheduled" in await died(run)
        run = await deployed.next(run)
    assert "scheduled" not in await died(run)
    assert tag_of(await deployed.read(run), "next") is None


async def died(run: FlowRun) -> str:
    """Mark the run as crashed, sweep, and return the message of the sweep."""
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Crashed(), force=True)
    return await swept()


async def test_a_follow_up_that_a_person_cancelled_is_not_made_again(deployed: Deployed):
    run = await deployed.trigger()
    await died(run)
    following = await deployed.next(run)
    async with get_client() as client:
        await client.set_flow_run_state(following.id, Cancelled(), force=True)
    assert "scheduled" not in await swept()


async def test_what_failed_is_not_tried_again_by_a_follow_up(
    deployed: Deployed, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    emulator.add_fault(ACTION, REFUSES_THE_FILE, times=2)
    emulator.add_fault(ACTION, "http:503", times=1)
    run = await deployed.trigger()
    state = await deployed.work(run)
    assert state.message == "partial: 3 verdicts, 2 failed, 1 waiting of 6 requests [emulator]"
    calls = calls_of(emulator)
    following = await deployed.next(run)
    assert tag_of(following, "attempt") == "1"
    state = await deployed.work(following)
    assert state.message == "partial: 4 verdicts, 2 failed of 6 requests [emulator]"
    assert calls_of(emulator) == calls + 1
    # A new run of the manifest tries them again.
    state = await deployed.work(await deployed.trigger())
    assert state.message == "completed: 6 verdicts of 6 requests [emulator]"


async def test_a_batch_of_another_service_is_refused(deployed: Deployed, emulator: Emulator):
    run = await deployed.trigger()
    async with get_client() as client:
        await client.update_flow_run(run.id, tags=["service:live"])
    state = await deployed.work(run)
    assert state.is_failed()
    assert "the run was scheduled for the live service" in (state.message or "")
    assert emulator.requests() == []
