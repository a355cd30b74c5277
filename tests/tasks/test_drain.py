"""What happens to a delivery, and to its call in flight, when it is cancelled or told to end."""

import asyncio

import pytest

from faceid.errors import NoAnswer, OutcomeUnknown
from tasks.drain import Drain

REQUEST_ID = "r-1"


class Calling:
    """A delivery whose call is under way, and goes on when it is told."""

    def __init__(self, *, in_flight: bool = True) -> None:
        self.drain = Drain()
        self.is_under_way = asyncio.Event()
        self.answer = asyncio.get_running_loop().create_future()
        self._in_flight = in_flight
        self.delivery = asyncio.create_task(self._deliver())
        self.drain.add(self.delivery, REQUEST_ID)

    async def _deliver(self) -> str:
        try:
            return await self.drain.bring_home(self._call())
        except NoAnswer:
            await asyncio.sleep(3600)  # the delay before a retry
            raise

    async def _call(self) -> str:
        if self._in_flight:
            self.drain.begin_call()
        self.is_under_way.set()
        return await self.answer


async def under_way(*, in_flight: bool = True) -> Calling:
    calling = Calling(in_flight=in_flight)
    await calling.is_under_way.wait()
    return calling


async def turns() -> None:
    """Let everything happen that can happen by now."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_in_flight_ends_before_a_cancellation_takes_effect():
    calling = await under_way()
    for _ in range(3):
        calling.delivery.cancel()
        await turns()
    assert not calling.delivery.done()
    assert calling.drain.in_flight == [REQUEST_ID]
    calling.answer.set_result("answer")
    with pytest.raises(asyncio.CancelledError):
        await calling.delivery
    assert calling.drain.in_flight == []


async def test_what_is_not_in_flight_is_cancelled_at_once():
    calling = await under_way(in_flight=False)
    calling.delivery.cancel()
    await turns()
    assert calling.delivery.cancelled()
    assert calling.answer.cancelled()


async def test_a_run_that_is_told_to_end_gets_the_answer():
    calling = await under_way()
    calling.drain.tell_to_end()
    await turns()
    calling.answer.set_result("answer")
    assert await calling.delivery == "answer"


async def test_a_run_that_is_told_to_end_does_not_call_again():
    calling = await under_way()
    calling.drain.tell_to_end()
    calling.answer.set_exception(NoAnswer("NoAnswer", "none came"))
    with pytest.raises(asyncio.CancelledError):
        await calling.delivery


async def test_an_outcome_that_is_unknown_for_good_is_told_even_then():
    calling = await under_way()
    calling.drain.tell_to_end()
    calling.answer.set_exception(OutcomeUnknown("OutcomeUnknown", "no answer came"))
    with pytest.raises(OutcomeUnknown):
        await calling.delivery


async def test_no_call_begins_in_a_run_that_has_been_told_to_end():
    drain = Drain()
    drain.told_to_end = True

    async def call() -> None:
        drain.begin_call()

    with pytest.raises(asyncio.CancelledError):
        await drain.bring_home(call())


@pytest.mark.parametrize("is_cancelled_first", [False, True])
async def test_a_run_that_is_cut_off_waits_no_longer(is_cancelled_first: bool):
    calling = await under_way()
    if is_cancelled_first:
        calling.delivery.cancel()
        await turns()
    calling.drain.cut_off()
    await turns()
    assert calling.delivery.cancelled()
    assert calling.answer.cancelled()


async def test_nobody_asks_for_an_error_that_comes_after_a_cancellation():
    calling = await under_way()
    calling.delivery.cancel()
    await turns()
    calling.answer.set_exception(NoAnswer("NoAnswer", "none came"))
    with pytest.raises(asyncio.CancelledError):
        await calling.delivery
