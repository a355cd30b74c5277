"""Old requests are erased unless they are still needed; their verdicts can be kept."""

from pathlib import Path
from uuid import UUID

import pytest

from faceid.emulator import Emulator
from flows.forget import Forgotten
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, next_run
from tests.flows.forgetting import age, age_run, forgotten, forgotten_of_old, is_there, one_run
from tests.flows.helpers import (
    ACTION,
    OTHER_INPUT,
    REFUSES_THE_FILE,
    calls_of,
    nobody_at_work,
    record_of,
    steps_of,
)
from tests.flows.traces import documents_with, rows_with

pytestmark = pytest.mark.usefixtures("settles_soon")


async def test_old_requests_are_forgotten_unless_somebody_wants_or_does_them(
    worker: Worker, emulator: Emulator
):
    old, fresh, at_work, wanted, still_open = (f"{worker.request_id}-{i}" for i in range(5))
    for request_id in (old, fresh, at_work, wanted):
        await worker.deliver(request_id=request_id)
    await worker.trigger(request_id=wanted)
    emulator.add_fault(ACTION, "expire-now")
    next_run(await worker.deliver(request_id=still_open))
    await age(old, at_work, wanted, still_open)
    async with nobody_at_work(at_work):
        assert await forgotten_of_old() == [one_run(old, steps=4)]
    assert documents_with(old) == []
    for request_id in (fresh, at_work, wanted, still_open):
        assert await record_of(request_id)
        assert "flow_run.parameters" in rows_with(request_id)


async def test_old_runs_of_requests_that_were_refused_are_forgotten(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    async def refuse(request_id: str) -> UUID:
        _, result, run = await run_deliver(
            request_id=request_id, resources={"ImageUrl": "nowhere.jpg"}
        )
        assert result.status == "failed"
        return run.id

    again = f"{request_id}-2"
    runs = [await refuse(one) for one in (request_id, request_id, again, again)]
    assert documents_with(request_id) == []
    for run_id in runs[:-1]:
        age_run(run_id)
    assert await forgotten_of_old() == [Forgotten(request_id, 2, 0, 0, verdict_kept=False)]
    assert [await is_there(run_id) for run_id in runs] == [False, False, True, True]


async def test_the_verdict_alone_can_be_kept(
    run_deliver: Deliver, emulator: Emulator, samples: Path, request_id: str
):
    for _ in range(2):
        await run_deliver(request_id=request_id, save_files_to="saved")
    before = await record_of(request_id)
    (done,) = await forgotten(request_id, keep_verdict=True)
    assert done == Forgotten(request_id, 2, 1, 4, verdict_kept=True)
    kept = await record_of(request_id)
    assert (kept.verdict, kept.window, kept.calls) == (before.verdict, 1, 1)
    assert kept.tencent_request_ids == before.tencent_request_ids
    assert (kept.outcome, kept.generation) == ("verdict", before.generation)
    assert set(kept.model_dump(exclude_defaults=True)) == {
        *("request_id", "target_action", "region", "verdict", "outcome", "window", "calls_before"),
        *("tencent_request_ids", "request_digest", "input_digest", "generation", "fence"),
        "updated_at",
    }
    assert rows_with(request_id) == set()
    assert documents_with("alder") == documents_with("BestFrame") == []
    assert list((samples / "saved").iterdir()) == []

    (samples / "alder.jpg").unlink()  # a stored verdict does not need it
    state, result, run = await run_deliver(request_id=request_id)
    assert state.message == "verdict: passed, Success [emulator]"
    assert (result.verdict, result.calls, result.windows) == (before.verdict, 1, 1)
    assert result.tencent_request_ids == list(before.tencent_request_ids)
    assert await steps_of(run, 1) == {"call VideoLivenessCompare": "Cached"}
    state, _, _ = await run_deliver(request_id=request_id, save_files_to="saved")
    assert state.message == (
        "verdict: passed, Success [emulator]; its files were not saved: AnswerForgotten: only the "
        "verdict was kept. The verdict remains valid, but the files of the answer are gone."
    )
    assert calls_of(emulator) == 1
    state, _, _ = await run_deliver(request_id=request_id, **OTHER_INPUT)
    assert state.message is not None
    assert "RequestIdConflict" in state.message


async def test_of_a_request_without_a_verdict_nothing_is_kept(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    emulator.add_fault(ACTION, REFUSES_THE_FILE)
    await run_deliver(request_id=request_id)
    assert await forgotten(request_id, keep_verdict=True) == [one_run(request_id, steps=4)]
    assert documents_with(request_id) == []


async def test_old_verdicts_are_reduced_once_until_they_are_asked_for_again(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    await run_deliver(request_id=request_id)
    await age(request_id)
    assert await forgotten_of_old(keep_verdict=True) == [one_run(request_id, steps=4, kept=True)]
    await age(request_id)
    assert await forgotten_of_old(keep_verdict=True) == []
    await run_deliver(request_id=request_id)
    await age(request_id)
    assert await forgotten_of_old(keep_verdict=True) == [one_run(request_id, kept=True)]
    await age(request_id)
    assert await forgotten_of_old() == [Forgotten(request_id, 0, 0, 0, verdict_kept=False)]
    assert documents_with(request_id) == []
