"""The files that an answer points to: fetched after the verdict, before they expire, if asked."""

import hashlib
from pathlib import Path

import pytest

from faceid.emulator import Emulator
from tests.flows.deliveries import Deliver, task_runs_of
from tests.flows.helpers import calls_of, record_of, steps_of

BEST_FRAME = "*BestFrame*"
"""The key of the file in the store, as a glob."""


@pytest.fixture
def saved(samples: Path) -> Path:
    """Where the sample request's file is to be saved."""
    return samples / "saved" / "r-1.BestFrame.jpg"


async def fetched_md5() -> str:
    reply = (await record_of()).reply
    assert reply is not None
    return reply.fields["BestFrame"]["MD5"]


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


async def test_files_are_saved_privately_under_the_request_id_and_the_field(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    state, _, run = await run_deliver(save_files_to="saved")
    assert state.message == "verdict: passed, Success [emulator]"
    assert list(saved.parent.iterdir()) == [saved]
    assert md5_of(saved) == await fetched_md5()
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saved.parent.stat().st_mode & 0o777 == 0o700

    assert (await steps_of(run, 7))["save files"] == "Completed"
    steps = {task.name: task for task in await task_runs_of(run)}
    inputs = steps["save files"].task_inputs["verdict"]
    assert [getattr(one, "id", None) for one in inputs] == [steps["call VideoLivenessCompare"].id]


async def test_no_files_are_fetched_unless_asked(run_deliver: Deliver, emulator: Emulator):
    _, _, run = await run_deliver()
    assert "save files" not in await steps_of(run, 6)
    assert emulator.requests(op="GetObject", code=None)
    keys = {entry["key"] for entry in emulator.requests(op="GetObject")}
    assert not any("BestFrame" in key for key in keys)


async def test_files_can_be_asked_for_after_the_verdict(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    await run_deliver()
    assert not saved.exists()
    _, result, run = await run_deliver(save_files_to="saved")
    assert md5_of(saved) == await fetched_md5()
    assert result.calls == calls_of(emulator) == 1
    assert await steps_of(run, 2) == {
        "call VideoLivenessCompare": "Cached",
        "save files": "Completed",
    }


async def test_a_file_that_is_there_is_left_alone(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    await run_deliver(save_files_to="saved")
    saved.write_text("ours by now")
    sent = emulator.requests()
    state, _, _ = await run_deliver(save_files_to="saved")
    assert state.is_completed()
    assert saved.read_text() == "ours by now"
    assert emulator.requests() == sent


async def test_the_verdict_stands_when_the_files_have_expired(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    await run_deliver()
    emulator.advance(7200)
    state, result, run = await run_deliver(save_files_to="saved")
    assert state.is_completed()
    assert result.status == "verdict"
    assert state.message is not None
    host = emulator.url.removeprefix("http://")
    assert state.message == (
        "verdict: passed, Success [emulator]; its files were not saved: FilesExpired: "
        f"BestFrame.Url: the service no longer has the file ({host}). "
        "The files are kept for two hours; the verdict remains valid."
    )
    assert "outcome:verdict" in run.tags
    assert (await steps_of(run, 2))["save files"] == "Failed"
    assert result.windows == 1
    assert list(saved.parent.glob("*")) == []


async def test_a_download_that_breaks_off_is_tried_again(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    emulator.add_fault("GetObject", "truncate", times=2, match={"key": BEST_FRAME})
    emulator.add_fault("GetObject", "http:503", match={"key": BEST_FRAME})
    state, _, run = await run_deliver(save_files_to="saved")
    assert state.message == "verdict: passed, Success [emulator]"
    assert md5_of(saved) == await fetched_md5()
    assert list(saved.parent.iterdir()) == [saved]
    await steps_of(run, 7)
    (step,) = [task for task in await task_runs_of(run) if task.name == "save files"]
    assert step.run_count == 4


async def test_a_file_with_another_md5_than_the_answers_is_not_saved(
    run_deliver: Deliver, emulator: Emulator, saved: Path
):
    await run_deliver()
    md5 = await fetched_md5()
    # The store keeps an object's key behind its bytes.
    objects = [path for path in emulator.folder.rglob("*") if path.is_file()]
    (stored,) = [path for path in objects if b"BestFrame" in path.read_bytes()]
    whole = stored.read_bytes()
    stored.write_bytes(whole[:10] + b"damage" + whole[16:])

    state, result, run = await run_deliver(save_files_to="saved")
    assert state.is_completed()
    assert result.status == "verdict"
    assert state.message is not None
    assert "its files were not saved: DamagedFile" in state.message
    assert list(saved.parent.iterdir()) == []
    await steps_of(run, 2)
    (step,) = [task for task in await task_runs_of(run) if task.name == "save files"]
    assert step.run_count == 7

    stored.write_bytes(whole)
    await run_deliver(save_files_to="saved")
    assert md5_of(saved) == md5


@pytest.mark.parametrize("folder", ["/somewhere/else", "../outside", "memory://bucket/saved"])
async def test_a_folder_outside_the_roots_is_refused_before_anything_is_sent(
    run_deliver: Deliver, emulator: Emulator, folder: str
):
    state, result, _ = await run_deliver(save_files_to=folder)
    assert result.error is not None
    assert result.error.kind == "input"
    assert state.message is not None
    assert state.message.startswith("invalid-input: InvalidResource: resource save_files_to: ")
    assert emulator.requests() == []


async def test_roots_allow_another_folder(
    run_deliver: Deliver,
    emulator: Emulator,
    samples: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", f"{samples},{elsewhere}")
    await run_deliver(save_files_to=str(elsewhere / "faces"))
    assert md5_of(elsewhere / "faces" / "r-1.BestFrame.jpg") == await fetched_md5()


async def test_the_verdict_stands_when_the_folder_cannot_be_written(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    (samples / "saved").write_text("a file where the folder should be")
    state, result, run = await run_deliver(save_files_to="saved")
    assert state.is_completed()
    assert result.status == "verdict"
    assert state.message is not None
    assert state.message.startswith(
        "verdict: passed, Success [emulator]; its files were not saved: CannotSave: BestFrame.Url "
        "cannot be saved (File exists). Check the folder given as save_files_to."
    )
    assert (samples / "saved").read_text() == "a file where the folder should be"
    assert (await steps_of(run, 7))["save files"] == "Failed"


async def test_an_answer_without_files_saves_none(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    state, _, run = await run_deliver(
        target_action="CheckIdCardInformation",
        resources={"ImageUrl": "alder.jpg"},
        action_parameters={},
        save_files_to="saved",
    )
    assert state.message == "verdict: passed, Success [emulator]"
    assert (await steps_of(run, 5))["save files"] == "Completed"
    assert not (samples / "saved").exists()


async def test_a_verdict_that_came_as_an_error_has_no_files(
    run_deliver: Deliver, emulator: Emulator, samples: Path
):
    emulator.add_fault("VideoLivenessCompare", "api:FailedOperation.CompareLowSimilarity")
    state, _, _ = await run_deliver(save_files_to="saved")
    assert state.message == "verdict: not passed, FailedOperation.CompareLowSimilarity [emulator]"
    assert not (samples / "saved").exists()
