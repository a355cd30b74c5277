"""No second contains more starts than the rate, whoever requests them and whenever."""

import asyncio
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceid.errors import StorageError
from faceid.pacing import BUFFER_SIZE, LATE, RATE_MEMORY, Pacer, SharedPacer, Slots


class Clock:
    """A clock that only advances during ``sleep``, by ``late`` seconds more than requested."""

    def __init__(self, late: float = 0.0) -> None:
        self.time = 1000.0
        self.late = late

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds + self.late


def most_in_a_second(starts: Sequence[float]) -> int:
    return max(sum(1 for other in starts if 0 <= other - start < 1) for start in starts)


@given(
    rate=st.sampled_from([0.5, 1, 5, 20, 20.5, 100]),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=120),
    late=st.sampled_from([0, 0.001, 0.04]),
)
async def test_never_more_than_the_rate_in_any_second(
    rate: float, pauses: list[float], late: float
):
    clock = Clock(late)
    pacer = Pacer(rate, now=clock.now, sleep=clock.sleep)
    starts: list[float] = []
    for pause in pauses:
        await clock.sleep(pause)
        starts.append(await pacer.acquire())
    assert most_in_a_second(starts) <= max(rate, 1)
    if rate < 1:
        assert all(b - a >= 1 / rate for a, b in pairwise(starts))


@pytest.mark.parametrize("late", [0, 0.002])
async def test_a_crowd_gets_close_to_the_rate(late: float):
    clock = Clock(late)
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    for _ in range(400):
        await pacer.acquire()
    assert 0.96 < 400 / (clock.time - 1000) / 20 <= 1


async def test_starts_are_spread_over_the_second():
    clock = Clock()
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    starts = [await pacer.acquire() for _ in range(100)]
    gaps = [b - a for a, b in pairwise(starts[30:])]
    assert max(gaps) < 0.06


async def test_the_first_does_not_wait():
    clock = Clock()
    await Pacer(1, now=clock.now, sleep=clock.sleep).acquire()
    assert clock.time == 1000


async def test_after_a_throttled_start_all_wait_and_then_go_slower():
    clock = Clock()
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    await pacer.acquire()
    await pacer.throttled()
    assert await pacer.acquire() >= 1001
    for seconds in (5, 5):  # twice more, before the slowdown ends
        await clock.sleep(seconds)
        await pacer.throttled()
    slow = [await pacer.acquire() for _ in range(100)]
    assert 14 < 99 / (slow[-1] - slow[0]) < 18
    await clock.sleep(60)
    fast = [await pacer.acquire() for _ in range(100)]
    assert 99 / (fast[-1] - fast[0]) > 19


async def test_one_throttled_call_costs_a_batch_of_thousands_less_than_a_percent():
    seconds: list[float] = []
    for throttled in (False, True):
        clock = Clock()
        pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
        for number in range(5000):
            await pacer.acquire()
            if throttled and number == 1000:
                for _ in range(3):  # calls in flight are refused together
                    await pacer.throttled()
        seconds.append(clock.time)
    assert 1 < (seconds[1] - 1000) - (seconds[0] - 1000) < 0.01 * (seconds[0] - 1000)


async def test_throttled_again_and_again_it_still_goes_on():
    clock = Clock()
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    for _ in range(50):
        await pacer.throttled()
    slow = [await pacer.acquire() for _ in range(10)]
    assert 9 / (slow[-1] - slow[0]) > 4


def test_who_goes_first_waits_for_one_start_only():
    slots, now = Slots(20, bytearray(BUFFER_SIZE)), 1000.0
    waits: list[float] = []
    asked_at: float | None = None
    for step in range(4000):  # steps of 5 ms; a batch asks in each, a single run rarely
        now = 1000 + step * 0.005
        if asked_at is None and step % 130 == 0:
            asked_at = now
        if asked_at is not None and slots.wait(now, priority=True) == 0:
            waits.append(now - asked_at)
            asked_at = None
        slots.wait(now, priority=False)
    assert len(waits) == 31
    assert max(waits) < 0.26


@given(st.lists(st.sampled_from([0, 0, 0, 0.004, 0.03, 0.2, 0.9]), min_size=60, max_size=60))
def test_what_counts_is_when_a_call_leaves(lags: list[float]):
    slots, departed = Slots(20, bytearray(BUFFER_SIZE)), list[float]()
    to_leave: list[tuple[float, float]] = []
    now = 1000.0
    while len(departed) < len(lags):
        now += 0.005
        for leaving, start in [one for one in to_leave if one[0] <= now]:
            to_leave.remove((leaving, start))
            departed.append(leaving)
            if leaving - start > LATE:
                slots.move(start, leaving)
        begun = len(departed) + len(to_leave)
        if begun < len(lags) and slots.wait(now, priority=False) == 0:
            to_leave.append((now + lags[begun], now))
    assert most_in_a_second(departed) <= 20


async def test_a_call_that_left_at_once_moves_nothing(tmp_path: Path):
    pacer = SharedPacer(20, tmp_path / "pace")
    start = await pacer.acquire()
    before = pacer.path.read_bytes()
    await pacer.departed(start, LATE / 2)
    assert pacer.path.read_bytes() == before
    await pacer.departed(start, 0.5)
    assert pacer.path.read_bytes() != before


def test_a_clock_that_began_anew_hinders_nothing():
    slots = Slots(20, bytearray(BUFFER_SIZE))
    while slots.wait(500_000, priority=False) == 0:
        pass
    assert slots.wait(20, priority=False) == 0


PROCESS = """
import asyncio, sys
from pathlib import Path
from faceid.pacing import SharedPacer

async def main():
    pacer = SharedPacer(20, Path(sys.argv[1]))
    print(flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        print(await pacer.acquire(), flush=True)

asyncio.run(main())
"""


def start(path: Path, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROCESS, str(path), str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout
    assert process.stdout.readline() == "\n"
    return process


def test_processes_share_one_rate(tmp_path: Path):
    processes = [start(tmp_path / "pace", count) for count in (25, 25, 10_000)]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes[:2]]
    processes[2].kill()  # a killed process leaves nothing behind
    outputs.append(processes[2].communicate()[0])
    last = start(tmp_path / "pace", 20)
    outputs.append(last.communicate("\n")[0])
    by_process = [[float(line) for line in output.splitlines() if line] for output in outputs]
    starts = sorted(start for starts in by_process for start in starts)
    assert [len(by_process[n]) for n in (0, 1, 3)] == [25, 25, 20]
    assert len(by_process[2]) > 5
    assert most_in_a_second(starts) <= 20


@given(
    rates=st.lists(st.sampled_from([1, 2.5, 5, 19, 20, 25, 100]), min_size=2, max_size=4),
    seconds=st.integers(2, 8),
)
def test_of_different_rates_the_slowest_counts(rates: list[float], seconds: int):
    """Whatever rates the users of one state have, and however they take turns."""
    buffer = bytearray(BUFFER_SIZE)
    starts: list[float] = []
    for step in range(seconds * 400):
        now = 1000 + step * 0.0025
        slots = Slots(rates[step % len(rates)], buffer)
        if slots.wait(now, priority=False) == 0:
            starts.append(now)
        slots.release()
    # Until the slowest has asked for the first time, the others cannot know of it.
    starts = [start for start in starts if start >= 1000 + len(rates) * 0.0025]
    assert most_in_a_second(starts) <= max(1, min(rates)) + 1
    assert len(starts) >= 0.9 * (seconds - 2) * min(rates)


async def test_a_slower_user_is_told_of_and_forgotten_after_a_while(
    caplog: pytest.LogCaptureFixture,
):
    clock = Clock()
    fast, slow = (Pacer(rate, now=clock.now, sleep=clock.sleep) for rate in (20, 5))
    slow._buffer = fast._buffer  # pyright: ignore[reportPrivateUsage]  # as in one file
    await slow.acquire()
    for _ in range(10):
        await fast.acquire()
    assert 9 / (clock.time - 1000) == pytest.approx(5, rel=0.15)
    assert caplog.text.count("paced at 5 calls per second and not at 20") == 1
    await clock.sleep(RATE_MEMORY + 1)
    began = clock.time
    for _ in range(40):
        await fast.acquire()
    assert 39 / (clock.time - began) == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\0" * 200,
        b"\xff" * BUFFER_SIZE,
        struct.pack("9d", 2.0, 7.5, 0, 0, 1, 0, 20, 0, 0).ljust(BUFFER_SIZE, b"\0"),
        struct.pack("9d", 2.0, 0, float("nan"), 0, 1, 0, 20, 0, 0).ljust(BUFFER_SIZE, b"\0"),
        struct.pack("9d", 2.0, 0, 1e300, 0, 1, 0, 20, 0, 0).ljust(BUFFER_SIZE, b"\0"),
        struct.pack("9d", 2.0, 1, 0, 0, 1, 0, 20, 0, 1e300).ljust(BUFFER_SIZE, b"\0"),
    ],
)
async def test_a_file_of_garbage_is_begun_anew(tmp_path: Path, content: bytes):
    path = tmp_path / "pace"
    path.write_bytes(content)
    path.chmod(0o600)
    async with asyncio.timeout(5):
        starts = [await SharedPacer(20, path).acquire() for _ in range(5)]
    assert starts == sorted(starts)
    assert path.stat().st_size == BUFFER_SIZE
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_shared_is_told(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot pace"):
        await SharedPacer(20, tmp_path / "none" / "pace").acquire()
    with pytest.raises(StorageError, match="cannot pace"):
        await SharedPacer(20, Path("/dev/null")).throttled()


async def test_many_of_one_process_take_turns():
    clock = Clock()
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    starts = await asyncio.gather(*(pacer.acquire() for _ in range(50)))
    assert starts == sorted(starts)
