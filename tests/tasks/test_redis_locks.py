"""Locks that several machines share, on a real Redis server."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.errors import InvalidInput, StorageError
from tasks.state import locks
from tasks.state.locks import acquire_lock
from tests.stepping import Stepped, watch_runs
from tests.tasks.script_processes import next_line
from tests.waiting import wait_until

pytestmark = pytest.mark.services

URL = os.environ.get("FACEID_TEST_REDIS", "redis://127.0.0.1:6379/9")

NO_FOLDER = Path("/nowhere")


@pytest.fixture
async def redis() -> AsyncIterator[Any]:
    async with Redis.from_url(URL) as server:
        try:
            await server.ping()
        except RedisError:
            if os.environ.get("FACEID_TEST_SERVICES") == "required":
                raise
            pytest.skip("no Redis on this machine")
        yield server


@pytest.fixture
async def name(redis: Any) -> AsyncIterator[str]:
    """The name of a lock that nobody else uses."""
    name = f"tests/{uuid4().hex}"
    yield name
    assert await redis.exists(f"faceid:lock:{name}") == 0


async def wait_for_it() -> None:
    """Allow waiting for a lock that is not free, by raising no error."""


async def refuse() -> None:
    raise InvalidInput("Refused", "not while another is at work")


HOLDS = """
import asyncio, sys
from pathlib import Path
from tasks.state.locks import acquire_lock

async def waiting():
    print("waiting", flush=True)

async def main():
    async with acquire_lock(sys.argv[1], Path("/nowhere"), sys.argv[2], waiting):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_one_at_a_time(name: str):
    inside: list[int] = []

    async def work(number: int) -> int:
        async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
            inside.append(number)
            await asyncio.sleep(0)
            assert inside == [number]
            inside.remove(number)
        return number

    assert await asyncio.gather(*map(work, range(4))) == list(range(4))


async def test_who_finds_it_held_may_refuse_to_wait(name: str):
    async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
        with pytest.raises(InvalidInput, match="another is at work"):
            async with acquire_lock(URL, NO_FOLDER, name, refuse):
                pass
    async with acquire_lock(URL, NO_FOLDER, name, refuse):
        pass


async def test_a_killed_holder_delays_the_next_for_less_than_a_minute(
    redis: Any, name: str, script: Callable[..., "Popen[str]"]
):
    holder = script(HOLDS, URL, name)
    assert await asyncio.to_thread(next_line, holder) == "held"
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    key = f"faceid:lock:{name}"
    assert 0 < await redis.pttl(key) <= 30_000

    async def half_a_minute_later() -> None:
        await redis.pexpire(key, 1)

    async with asyncio.timeout(10), acquire_lock(URL, NO_FOLDER, name, half_a_minute_later):
        pass


async def test_a_living_holder_renews_its_lease(
    redis: Any, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    key = f"faceid:lock:{name}"
    async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
        renewals = 0
        before = await redis.pttl(key)

        async def renewed() -> bool:
            nonlocal renewals, before
            left = await redis.pttl(key)
            renewals += left > before
            before = left
            return renewals == 3

        await wait_until(renewed, "three renewals")
        with pytest.raises(InvalidInput, match="another is at work"):
            async with acquire_lock(URL, NO_FOLDER, name, refuse):
                pass


async def test_a_holder_that_lost_its_lease_does_not_go_on(
    redis: Any, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    went_on = False

    async def work() -> None:
        nonlocal went_on
        async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
            await redis.delete(f"faceid:lock:{name}")
            await asyncio.sleep(30)
            went_on = True

    with pytest.raises(StorageError, match="lock expired") as raised:
        await work()
    assert raised.value.code == "LockLost"
    assert not went_on
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@pytest.mark.parametrize("await_number", range(1, 5))
@pytest.mark.parametrize(
    ("lasts", "away"),
    [
        (20.0, 20.0),  # it has run out meanwhile
        (30.0, 8.0),  # it would still last, and has vanished with the server's memory
    ],
)
async def test_a_lease_that_ends_while_it_is_asked_for_is_not_confirmed(
    redis: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    await_number: int,
    lasts: float,
    away: float,
):
    key, awaits, stopped_for = f"faceid:lock:{name}", 0, 0.0

    def wake_up_later() -> None:
        """Stop the holder at one of its awaits, until another one has the lock."""
        nonlocal awaits, stopped_for
        awaits += 1
        if awaits == await_number:
            with SyncRedis.from_url(URL) as server:
                server.set(key, "another's", px=30_000)
            stopped_for += away

    monkeypatch.setattr(locks, "_clock", lambda: time.monotonic() + stopped_for)
    async with acquire_lock(URL, NO_FOLDER, name, wait_for_it) as lease:
        await redis.pexpire(key, int(lasts * 1000))
        watch_runs(asyncio.get_running_loop())
        asking = Stepped(wake_up_later).start(lease.confirm())
        failed = (await asyncio.gather(asking, return_exceptions=True))[0]
        asyncio.get_running_loop().set_task_factory(None)
        if awaits >= await_number:
            assert isinstance(failed, StorageError)
            assert failed.code == "LockLost"
        else:
            assert failed is None
    await redis.delete(key)


async def test_a_holder_that_is_cancelled_is_cancelled(name: str):
    started = asyncio.Event()

    async def work() -> None:
        async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
            started.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_is_done_stays_done_when_the_lock_cannot_be_given_back(
    redis: Any, name: str
):
    key = f"faceid:lock:{name}"
    async with acquire_lock(URL, NO_FOLDER, name, wait_for_it):
        await redis.delete(key)
        await redis.lpush(key, "what Redis cannot compare with a lock's token")
    assert await redis.delete(key) == 1
