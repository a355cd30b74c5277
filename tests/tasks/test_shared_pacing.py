"""Pacers share one rate per account and action, on one machine and on several."""

import asyncio
import os
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faceid.errors import InvalidInput, StorageError
from faceid.pacing import SharedPacer
from tasks.settings import DeliverySettings
from tasks.state.pacing import RedisPacer, open_pacers
from tasks.state.storage import open_storage

REDIS = os.environ.get("FACEID_TEST_REDIS", "redis://127.0.0.1:6379/9")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeliverySettings:
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("FACEID_RATES", '{"VideoLivenessCompare": 1}')
    return DeliverySettings.load()


async def test_a_rate_is_shared_by_account_and_action(settings: DeliverySettings):
    storage = open_storage(settings)
    ours = open_pacers(settings, storage, "default", priority=True)
    again = open_pacers(settings, storage, "default", priority=False)
    others = open_pacers(settings, storage, "other", priority=False)

    def paces(pacer: object) -> Path:
        assert isinstance(pacer, SharedPacer)
        return pacer.path

    action = "VideoLivenessCompare"
    assert paces(ours(action)) == paces(again(action))
    assert len({paces(ours(action)), paces(ours("CreateUploadUrl")), paces(others(action))}) == 3
    assert ours("Unheard") is None
    first, second = ours(action), again(action)
    assert first
    assert second
    # Starts are as far apart as the rate requires, though neither pacer knows the other.
    start = await first.acquire()
    assert await second.acquire() - start >= 1


async def test_a_storage_that_cannot_be_written_is_told(settings: DeliverySettings, tmp_path: Path):
    storage = open_storage(settings)
    (tmp_path / "storage" / "pace").touch()
    with pytest.raises(StorageError, match="cannot pace"):
        open_pacers(settings, storage, "default", priority=True)("CreateUploadUrl")


async def test_a_url_that_is_none_is_told(settings: DeliverySettings):
    wrong = settings.model_copy(update={"locks": "memcached://x"})
    with pytest.raises(InvalidInput, match="FACEID_LOCKS"):
        open_pacers(wrong, open_storage(settings), "default", priority=True)("CreateUploadUrl")


async def test_a_server_that_is_not_there_is_told():
    pacer = RedisPacer(20, "redis://127.0.0.1:1", "nobody")
    with pytest.raises(StorageError, match="FACEID_LOCKS cannot be reached"):
        await pacer.acquire()
    await pacer.close()


@pytest.fixture
async def name() -> str:
    async with Redis.from_url(REDIS) as redis:
        try:
            await redis.ping()
        except RedisError:
            if os.environ.get("FACEID_TEST_SERVICES") == "required":
                raise
            pytest.skip("no Redis on this machine")
    return f"tests/{uuid4().hex}"


def most_in_a_second(starts: list[float]) -> int:
    return max(sum(1 for other in starts if 0 <= other - start < 1) for start in starts)


@pytest.mark.services
async def test_machines_share_one_rate_through_redis(name: str):
    # Each pacer has its own connections, as if on a separate machine.
    pacers = [RedisPacer(20, REDIS, name) for _ in range(3)]

    async def starts_of(pacer: RedisPacer, count: int) -> list[float]:
        return [await pacer.acquire() for _ in range(count)]

    found = await asyncio.gather(*(starts_of(pacer, 20) for pacer in pacers))
    starts = sorted(start for starts in found for start in starts)
    assert most_in_a_second(starts) <= 20
    for pacer in pacers:
        await pacer.close()


@pytest.mark.services
async def test_throttled_all_wait_and_those_who_go_first_go_first(name: str):
    batch, single = RedisPacer(20, REDIS, name), RedisPacer(20, REDIS, name, priority=True)
    last = [await batch.acquire() for _ in range(20)][-1]
    crowd = [asyncio.create_task(batch.acquire()) for _ in range(10)]
    mine = await single.acquire()
    assert mine - last < 1.5
    others = await asyncio.gather(*crowd)
    assert sum(other < mine for other in others) <= 2

    await batch.throttled()
    after = await single.acquire()
    assert after - max(others) >= 1
    await batch.throttled()  # before the pause is over, so that all slow down by a tenth
    slow = [await batch.acquire() for _ in range(5)]
    assert slow[-1] - slow[0] > 4 * 0.0515 * 1.05
    await batch.close()
    await single.close()


@pytest.mark.services
async def test_a_call_that_left_late_is_counted_from_then(name: str):
    pacer = RedisPacer(1, REDIS, name)
    start = await pacer.acquire()
    await pacer.departed(start, 0.5)
    assert await pacer.acquire() - start >= 1.5
    await pacer.close()


@pytest.mark.services
async def test_what_redis_keeps_is_forgotten_by_itself(name: str):
    pacer = RedisPacer(20, REDIS, name)
    await pacer.acquire()
    await pacer.throttled()
    await pacer.close()
    async with Redis.from_url(REDIS) as redis:
        # The return values of redis-py are only partly typed.
        keys = cast("list[bytes]", [key async for key in redis.scan_iter(f"*{name}*")])  # pyright: ignore[reportUnknownVariableType]
        assert len(keys) == 2
        for key in keys:
            assert 0 < await redis.pttl(key) <= 130_000


@pytest.mark.services
async def test_of_machines_with_different_rates_the_slower_counts(
    name: str, caplog: pytest.LogCaptureFixture
):
    fast, slow = RedisPacer(20, REDIS, name), RedisPacer(5, REDIS, name)
    await slow.acquire()
    starts = [await fast.acquire() for _ in range(6)]
    assert 5 / (starts[-1] - starts[0]) == pytest.approx(5, rel=0.2)
    assert caplog.text.count("paced at 5 calls per second and not at 20") == 1
    for pacer in (fast, slow):
        await pacer.close()


@pytest.mark.services
async def test_a_server_whose_clock_was_set_back_keeps_nobody_waiting(name: str):
    pacer = RedisPacer(20, REDIS, name)
    now = await pacer.acquire()
    async with Redis.from_url(REDIS) as redis:
        # What it had kept an hour from now, before its clock was set back.
        state = f"{{{name}}}:state"
        for field in ("due", "slowed_at", "seen"):
            await redis.hset(state, field, str(now + 3600))
        await redis.lpush(f"{{{name}}}:starts", str(now + 3600))
    async with asyncio.timeout(5):
        starts = [await pacer.acquire() for _ in range(3)]
    assert starts == sorted(starts)
    await pacer.close()
