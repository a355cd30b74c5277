"""Storage that is away when the answer comes costs no second call."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet

from faceid.emulator import Emulator
from flows.forget import Left
from tasks.state.answers import keep_answer
from tasks.state.records import Record
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, swept
from tests.flows.forgetting import forgotten, forgotten_of_old
from tests.flows.helpers import (
    ACTION,
    OTHER_INPUT,
    calls_of,
    no_folder,
    record_of,
    records,
    steps_of,
)
from tests.flows.sweeping import PASSED

Spilling = Callable[..., Coroutine[Any, Any, Any]]
Away = Callable[[Path], AbstractAsyncContextManager[None]]

pytestmark = pytest.mark.usefixtures("settles_soon", "nothing_crashed_before")


@pytest.fixture
def spill(samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACEID_SPILL", str(samples / "spill"))
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    return samples / "spill"


@asynccontextmanager
async def missing_folder(folder: Path) -> AsyncGenerator[None]:
    """Let the folder be missing, as a disk that is not mounted is."""
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


@pytest.fixture
def spilling(samples: Path, spill: Path, monkeypatch: pytest.MonkeyPatch) -> Spilling:
    """A function that awaits a delivery whose answer comes while the storage is away."""

    async def run(delivery: Coroutine[Any, Any, Any], away: Away = no_folder) -> Any:
        before = len(files(spill))
        async with AsyncExitStack() as stack:

            async def keep(*args: Any) -> Record:
                await stack.enter_async_context(away(samples / "storage" / "records"))
                return await keep_answer(*args)

            with monkeypatch.context() as patch:
                patch.setattr("tasks.call_target_action.keep_answer", keep)
                ended = await delivery
        assert len(files(spill)) == before + 1
        return ended

    return run


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("away", [no_folder, missing_folder])
@pytest.mark.parametrize("policy", ["call_again", "stop"])
async def test_the_next_run_takes_the_answer_up(
    run_deliver: Deliver,
    emulator: Emulator,
    spill: Path,
    spilling: Spilling,
    policy: str,
    away: Away,
):
    state, result, run = await spilling(run_deliver(), away)
    assert state.is_failed()
    assert state.message.startswith("unavailable: AnswerSpilled: ")
    assert f"the answer lies encrypted in {spill}" in state.message
    assert "outcome:unavailable" in run.tags
    assert result.error.kind == "storage"
    assert (result.status, result.verdict, result.calls) == ("failed", None, 1)

    state, result, run = await run_deliver(on_unknown_outcome=policy)
    assert state.message == PASSED
    assert (await steps_of(run, 1)) == {f"call {ACTION}": "Cached"}
    assert result.calls == calls_of(emulator) == 1
    assert files(spill) == []
    # Only the second run has ended with the verdict, so it is not one that found it done.
    assert [run.outcome for run in (await record_of()).runs] == ["unavailable", "verdict"]


async def test_the_files_of_a_spilled_answer_are_saved_by_the_next_run(
    run_deliver: Deliver, emulator: Emulator, spilling: Spilling, samples: Path
):
    await spilling(run_deliver(save_files_to="saved"))
    assert files(samples / "saved") == []
    await run_deliver(save_files_to="saved")
    assert len(files(samples / "saved")) > 0
    assert calls_of(emulator) == 1


async def test_a_spilled_answer_keeps_another_input_away(
    run_deliver: Deliver, emulator: Emulator, spilling: Spilling
):
    await spilling(run_deliver())
    _, result, _ = await run_deliver(**OTHER_INPUT)
    assert result.error
    assert (result.error.kind, calls_of(emulator)) == ("conflict", 1)
    assert (await record_of()).verdict


async def test_the_sweep_takes_it_up_and_a_follow_up_reports_the_verdict(
    worker: Worker, emulator: Emulator, spill: Path, spilling: Spilling
):
    state = await spilling(worker.deliver())
    assert state.is_failed()
    assert await swept() == "1 scheduled, 1 spilled answers stored"
    assert files(spill) == []
    assert await swept() == "1 waiting"
    state = await worker.work(UUID(worker.newest()["id"]))
    assert state.message == PASSED
    assert calls_of(emulator) == worker.result(worker.newest()["id"]).calls == 1
    assert await swept() == "nothing is open"


async def test_the_sweep_takes_up_what_a_command_left(
    run_deliver: Deliver, emulator: Emulator, spill: Path, spilling: Spilling
):
    await spilling(run_deliver())
    assert await swept() == "1 spilled answers stored"
    record = await record_of()
    assert (record.outcome, record.calls, files(spill)) == ("verdict", 1, [])
    assert await swept() == "nothing is open"


async def test_an_answer_whose_key_is_gone_stops_no_sweep_and_no_other_request(
    run_deliver: Deliver,
    emulator: Emulator,
    spill: Path,
    spilling: Spilling,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    old, new, third = (Fernet.generate_key().decode() for _ in range(3))
    monkeypatch.setenv("FACEID_DATA_KEY", old)
    await spilling(run_deliver(request_id="r-1"))
    monkeypatch.setenv("FACEID_DATA_KEY", f"{new},{old}")
    await spilling(run_deliver(request_id="r-2", **OTHER_INPUT))
    first, second = sorted(files(spill), key=lambda path: path.stat().st_mtime)

    # Without the old key, the record of r-1 cannot be read either; so it is written anew before.
    monkeypatch.setenv("FACEID_DATA_KEY", f"{third},{new},{old}")
    record = await record_of("r-1")
    await records().save(record)
    monkeypatch.setenv("FACEID_DATA_KEY", f"{third},{new}")
    assert await swept() == "1 not checked, 1 spilled answers stored"
    assert str(spill) in caplog.text
    assert files(spill) == [first]
    assert not second.exists()
    calls = calls_of(emulator)
    _, result, _ = await run_deliver(request_id="r-1")
    assert result.error
    assert (result.error.kind, result.error.code) == ("storage", "CannotDecrypt")
    _, result, _ = await run_deliver(request_id="r-2", **OTHER_INPUT)
    assert result.status == "verdict"
    assert calls_of(emulator) == calls == 2

    monkeypatch.setenv("FACEID_DATA_KEY", f"{third},{new},{old}")
    _, result, _ = await run_deliver(request_id="r-1")
    assert (result.status, result.calls, calls_of(emulator)) == ("verdict", 1, 2)


async def test_forget_erases_a_spilled_answer(
    run_deliver: Deliver, emulator: Emulator, spill: Path, spilling: Spilling
):
    await spilling(run_deliver())
    (one,) = await forgotten("r-1")
    assert not isinstance(one, Left)
    assert await records().load("r-1") is None
    assert files(spill) == []
    assert isinstance((await forgotten("r-1"))[0], Left)
    _, result, _ = await run_deliver()
    assert (result.status, result.calls, calls_of(emulator)) == ("verdict", 1, 2)


async def test_forget_can_keep_the_verdict_of_a_spilled_answer(
    run_deliver: Deliver, emulator: Emulator, spill: Path, spilling: Spilling
):
    await spilling(run_deliver())
    (one,) = await forgotten("r-1", keep_verdict=True)
    assert not isinstance(one, Left)
    assert one.verdict_kept
    record = await record_of()
    assert (record.verdict is not None, record.reply, files(spill)) == (True, None, [])


async def test_what_was_forgotten_on_another_machine_is_not_brought_back(
    run_deliver: Deliver, emulator: Emulator, spill: Path, spilling: Spilling
):
    for clean in (swept, forgotten_of_old):
        await spilling(run_deliver())
        await records().remove(await record_of())
        await clean()
        assert await records().load("r-1") is None
        assert files(spill) == []


async def test_a_batch_goes_on_with_spilled_answers(
    run_batch: RunBatch, emulator: Emulator, samples: Path, spill: Path, spilling: Spilling
):
    manifest = write(samples / "people.jsonl", [entry("r-1")])
    first = await spilling(run_batch(manifest))
    again = await run_batch(manifest)
    assert [line.status for line in (*first.lines, *again.lines)] == ["failed", "verdict"]
    assert calls_of(emulator) == again.lines[0].calls == 1
    assert files(spill) == []
