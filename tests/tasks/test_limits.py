"""The limit on calls in a day: counted once for all processes, and never exceeded."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from faceid.errors import InvalidInput, StorageError
from tasks.settings import DeliverySettings
from tasks.state.limits import DailyLimit, Day, LimitReached, open_limit
from tasks.state.storage import open_storage
from tests.redis_server import redis_server
from tests.tasks.script_processes import close_input, next_line

ACTION = "VideoLivenessCompare"
EAST, WEST = "Pacific/Kiritimati", "Pacific/Pago_Pago"
"""Two time zones whose dates always differ: when it is today in the east, it is not in the west."""

TAKER = """
import asyncio, sys
from tests.tasks.test_limits import limit_of_environment
from tasks.state.limits import LimitReached

async def take() -> None:
    limit, taken = limit_of_environment(), 0
    print("ready", flush=True)
    sys.stdin.read()
    try:
        while True:
            await limit.take()
            taken += 1
    except LimitReached:
        print(taken, flush=True)

asyncio.run(take())
"""
DIES = """
import asyncio, os, signal
from tests.tasks.test_limits import limit_of_environment

asyncio.run(limit_of_environment().take())
os.kill(os.getpid(), signal.SIGKILL)
"""

Open = Callable[..., DailyLimit]


def limit_of_environment() -> DailyLimit:
    settings = DeliverySettings.load()
    limit = open_limit(settings, open_storage(settings), ACTION)
    assert limit
    return limit


@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.services)])
def limit_of(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Open:
    """A function that opens the limit anew, as another process would, with a number of calls."""
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    if request.param == "redis":
        request.getfixturevalue("own_redis")

    def open_with(calls: int, **more: str) -> DailyLimit:
        monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", f'{{"{ACTION}": {calls}}}')
        for name, value in more.items():
            monkeypatch.setenv(f"FACEID_{name.upper()}", value)
        return limit_of_environment()

    return open_with


async def test_no_call_is_left_when_the_limit_is_reached(limit_of: Open):
    limit = limit_of(2)
    assert await limit.describe() == f"{ACTION}: 2 of 2 calls left today (UTC)"
    await limit.require()
    day = await limit.take()
    assert await limit_of(2).left() == 1  # another process sees it
    await limit_of(2).take()
    for refused in (limit.take, limit.require):
        with pytest.raises(LimitReached) as caught:
            await refused()
        assert caught.value.until == day.end
        assert caught.value.message.endswith(day.end.isoformat(timespec="minutes"))
    await limit.give_back(day)
    await limit_of(2).take()
    assert await limit.left() == 0


async def test_a_limit_of_none_lets_no_call_through(limit_of: Open):
    with pytest.raises(LimitReached):
        await limit_of(0).take()


async def test_an_account_and_each_action_has_a_limit_of_its_own(limit_of: Open):
    await limit_of(1).take()
    assert await limit_of(1, account="other").left() == 1
    settings = DeliverySettings.load()
    assert open_limit(settings, open_storage(settings), "LivenessCompare") is None


async def test_each_day_has_a_count_of_its_own(limit_of: Open):
    await limit_of(1, day=WEST).take()
    assert await limit_of(1, day=EAST).left() == 1
    await limit_of(1, day=EAST).take()
    # As if the clock had been set back.
    assert await limit_of(1, day=WEST).left() == 0


async def test_it_is_told_once_a_day_and_again_for_a_higher_limit(limit_of: Open):
    assert await limit_of(2, day=EAST).is_first_to_tell()
    assert not await limit_of(2).is_first_to_tell()
    assert not await limit_of(1).is_first_to_tell()
    assert await limit_of(3).is_first_to_tell()
    assert await limit_of(3, day=WEST).is_first_to_tell()


def start(script: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


async def test_processes_that_call_at_once_do_not_exceed_it(limit_of: Open):
    limit = limit_of(50)
    takers = [start(TAKER) for _ in range(3)]
    for taker in takers:
        assert next_line(taker) == "ready"
    for taker in takers:
        close_input(taker)
    counts = [int(next_line(taker)) for taker in takers]
    for taker in takers:
        with taker:
            assert taker.wait() == 0
    assert sum(counts) == 50
    assert await limit.left() == 0


async def test_a_call_whose_process_died_stays_counted(limit_of: Open):
    limit = limit_of(5)
    with start(DIES) as dying:
        assert dying.wait() == -signal.SIGKILL
    assert await limit.left() == 4


async def test_calls_of_one_process_at_the_same_time_do_not_exceed_it(limit_of: Open):
    limit = limit_of(10)
    ended = await asyncio.gather(*(limit.take() for _ in range(30)), return_exceptions=True)
    assert sum(isinstance(end, Day) for end in ended) == 10
    assert sum(isinstance(end, LimitReached) for end in ended) == 20


@pytest.mark.parametrize("limit_of", ["file"], indirect=True)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"days": {"2026-11-30": {"calls": -1}}}'])
async def test_a_file_that_says_nothing_lets_no_call_through(
    limit_of: Open, tmp_path: Path, content: str
):
    limit = limit_of(5)
    day = await limit.take()
    (path,) = (tmp_path / "storage" / "calls").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(content)
    for refused in (limit.take, limit.require, limit.left, limit.is_first_to_tell):
        with pytest.raises(StorageError, match=f"the file calls/{path.name} of FACEID_STORAGE"):
            await refused()
    await limit.give_back(day)
    assert path.read_text() == content
    path.unlink()
    assert await limit.left() == 5


async def test_old_days_are_dropped(limit_of: Open, tmp_path: Path):
    limit = limit_of(5)
    await limit.take()
    if "FACEID_LOCKS" in os.environ:
        async with Redis.from_url(os.environ["FACEID_LOCKS"]) as redis:
            (key,) = await redis.keys("faceid:calls:*")
            assert 86400 < await redis.ttl(key) <= 2 * 86400
        return
    (path,) = (tmp_path / "storage" / "calls").iterdir()
    days = ", ".join(f'"2026-01-{day:02}": {{"calls": 1, "told": -1}}' for day in range(1, 20))
    path.write_text(f'{{"days": {{{days}}}}}')
    await limit.take()
    text = path.read_text()
    assert text.count("calls") == 7
    assert "2026-01-19" in text
    assert str(Day.today(limit.zone).date) in text


@pytest.mark.parametrize("limit_of", ["file"], indirect=True)
async def test_a_count_that_cannot_be_written_lets_no_call_through(limit_of: Open, tmp_path: Path):
    limit = limit_of(5, locks="")
    (tmp_path / "storage").mkdir(exist_ok=True)
    (tmp_path / "storage" / "calls").touch()
    with pytest.raises(StorageError, match="cannot count calls"):
        await limit.take()


@pytest.mark.parametrize("limit_of", ["file"], indirect=True)
async def test_a_server_that_is_not_there_lets_no_call_through(limit_of: Open):
    limit = limit_of(5, locks="redis://127.0.0.1:1")
    with pytest.raises(StorageError, match="FACEID_LOCKS cannot be reached"):
        await limit.take()
    await limit.give_back(Day.today(limit.zone))
    with pytest.raises(InvalidInput, match="FACEID_LOCKS"):
        limit_of(5, locks="memcached://x")


@pytest.mark.services
@pytest.mark.parametrize("limit_of", ["file"], indirect=True)
async def test_the_count_survives_a_restart_of_a_server_that_keeps_its_data(
    limit_of: Open, tmp_path: Path
):
    for left in (4, 3):
        with redis_server(tmp_path, "--appendonly", "yes") as (_, url):
            limit = limit_of(5, locks=url)
            await limit.take()
            assert await limit.left() == left


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("nonsense", "must be a JSON object of whole numbers from 0"),
        ("[1]", "must be a JSON object of whole numbers from 0"),
        ('{"VideoLivenessCompare": -1}', "must be a JSON object of whole numbers from 0"),
        ('{"VideoLivenessCompare": 1.5}', "must be a JSON object of whole numbers from 0"),
        ('{"VideoLivenessCompare": true}', "must be a JSON object of whole numbers from 0"),
        ('{"VideoLivenesCompare": 1}', "not a target action: VideoLivenesCompare"),
        ('{"CreateUploadUrl": 1}', "not a target action: CreateUploadUrl"),
    ],
)
def test_a_wrong_limit_is_told(limits: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", limits)
    with pytest.raises(InvalidInput, match=f"FACEID_MAX_CALLS_PER_DAY: .*{said}"):
        DeliverySettings.load()


@pytest.mark.parametrize("zone", ["", "Nowhere", "Europe", "../UTC", "/etc/localtime"])
def test_a_wrong_zone_is_told(zone: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FACEID_DAY", zone)
    with pytest.raises(InvalidInput, match=r"FACEID_DAY: .*must be a time zone"):
        DeliverySettings.load()
