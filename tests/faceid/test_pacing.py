"""No second holds more starts than the rate, whenever they are asked for."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from faceid.pacing import Pacer


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def most_in_a_second(starts: Sequence[float]) -> int:
    return max(sum(1 for other in starts if 0 <= other - start < 1) for start in starts)


@given(
    rate=st.sampled_from([1, 5, 20, 100]),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=120),
)
async def test_never_more_than_the_rate_in_any_second(rate: int, pauses: list[float]):
    clock = Clock()
    pacer = Pacer(rate, now=clock.now, sleep=clock.sleep)
    starts: list[float] = []
    for pause in pauses:
        await clock.sleep(pause)
        await pacer.slot()
        starts.append(clock.time)
    assert most_in_a_second(starts) <= rate


async def test_a_crowd_gets_close_to_the_rate():
    clock = Clock()
    pacer = Pacer(20, now=clock.now, sleep=clock.sleep)
    for _ in range(200):
        await pacer.slot()
    assert 10 < clock.time - 1000 < 10.5


async def test_the_first_does_not_wait():
    clock = Clock()
    await Pacer(1, now=clock.now, sleep=clock.sleep).slot()
    assert clock.time == 1000
