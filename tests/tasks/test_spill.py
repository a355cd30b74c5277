"""An answer in hand is spilled while the storage is away, and taken up once afterwards."""

import asyncio
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from faceid.errors import StorageError
from tasks.state.answers import keep_answer
from tasks.state.record_store import Overtaken
from tasks.state.spill import Spill, take_up
from tests.tasks.record_saves import PASSED, REPLY, claimed, loaded, new_record
from tests.tasks.spilled_answers import answered, away, bring_back, files, open_both, spilled
from tests.waiting import until, wait_until

# Gets an answer while the storage is away, and tries for so many seconds. If it is told to, no file
# can grow, as if the disk were full.
KEEP = """
import asyncio
import resource
import sys
from pathlib import Path
from faceid.errors import StorageError
from tasks.state.answers import keep_answer
from tests.tasks.spilled_answers import answered, away, open_both

async def main():
    store, spill = open_both()
    record = await answered(store)
    with away(Path(sys.argv[1])):
        if "full" in sys.argv:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            await keep_answer(store, spill, record, int(sys.argv[2]))
        except StorageError as error:
            print(error.code, error.message, flush=True)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage of an emulator, in a folder of the test's own, with a spill beside it."""
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("FACEID_SPILL", str(tmp_path / "spill"))
    return tmp_path / "storage"


async def test_an_answer_is_spilled_sealed_and_taken_up(storage: Path):
    store, spill = open_both()
    await spilled(store, spill, storage)
    (file,) = files(spill.folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in file.relative_to(spill.folder.parent).parents[:-1]:
        assert stat.S_IMODE((spill.folder.parent / folder).stat().st_mode) == 0o700
    for secret in (b"r-1", b"t-1", b"Success"):
        assert secret not in file.read_bytes()
        assert secret.decode() not in str(file.relative_to(spill.folder))

    stored = await loaded(store)
    assert (stored.state, stored.calls) == ("calling", 1)
    record = await take_up(spill, store, "r-1")
    assert record
    assert record == await loaded(store)
    assert (record.verdict, record.reply, record.calls) == (PASSED, REPLY, 1)
    assert [run.outcome for run in record.runs] == ["unavailable"]
    assert files(spill.folder) == []


async def test_an_answer_is_spilled_at_once_and_removed_when_the_storage_is_back(storage: Path):
    store, spill = open_both()
    record = await answered(store)
    with away(storage):
        at_work = asyncio.create_task(keep_answer(store, spill, record, 60))

        async def look() -> bool:
            return bool(files(spill.folder))

        await wait_until(look, "a spilled answer")
        assert not at_work.done()
    assert await at_work == await loaded(store)
    assert (await loaded(store)).verdict == PASSED
    assert files(spill.folder) == []


async def test_a_cancelled_run_has_spilled_its_answer(
    storage: Path, caplog: pytest.LogCaptureFixture
):
    store, spill = open_both()
    record = await answered(store)
    with away(storage):
        at_work = asyncio.create_task(keep_answer(store, spill, record, 0))
        await asyncio.sleep(0)  # it begins
        at_work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await at_work
    assert f"lies encrypted in {spill.folder}" in caplog.text
    stored = await take_up(spill, store, "r-1")
    assert stored
    assert (stored.verdict, stored.calls) == (PASSED, 1)


async def test_a_crash_between_save_and_removal_counts_nothing_twice(
    storage: Path, monkeypatch: pytest.MonkeyPatch
):
    class Gone(BaseException):
        pass

    def die(*_: object) -> None:
        raise Gone

    store, spill = open_both()
    await spilled(store, spill, storage)
    with monkeypatch.context() as patch:
        patch.setattr(Spill, "remove", die)
        with pytest.raises(Gone):
            await take_up(spill, store, "r-1")
    before = await loaded(store)
    assert before.verdict == PASSED
    assert files(spill.folder)
    after = await take_up(spill, store, "r-1")
    assert after
    assert (after.calls, after.runs, after.tencent_request_ids) == (1, before.runs, ("t-1",))
    assert files(spill.folder) == []


async def test_answers_of_two_runs_are_both_taken_up(storage: Path):
    store, spill = open_both()
    first = await spilled(store, spill, storage)
    second = await spilled(store, spill, storage, "run-2")
    assert second.runs[0].flow_run_id == first.runs[0].flow_run_id
    record = await take_up(spill, store, "r-1")
    assert record
    assert (record.verdict, record.calls) == (PASSED, 2)
    assert files(spill.folder) == []


async def test_a_request_that_was_forgotten_is_not_brought_back(storage: Path):
    store, spill = open_both()
    await spilled(store, spill, storage)
    await store.remove(await loaded(store))
    assert await take_up(spill, store, "r-1") is None
    assert await store.load("r-1") is None
    assert files(spill.folder) == []

    await spilled(store, spill, storage)
    await store.remove(await loaded(store))
    await store.save(another := claimed(new_record()))
    assert await take_up(spill, store, "r-1") == another
    assert (await loaded(store)).verdict is None
    assert files(spill.folder) == []


async def test_the_answer_to_a_request_that_is_forgotten_meanwhile_is_not_kept(storage: Path):
    store, spill = open_both()
    record = await answered(store)
    await store.remove(await loaded(store))
    with pytest.raises(Overtaken):
        await keep_answer(store, spill, record, 0)
    assert files(spill.folder) == []


async def test_an_answer_stays_while_its_storage_is_missing(storage: Path):
    store, spill = open_both()
    await spilled(store, spill, storage)
    with away(storage):
        with pytest.raises(StorageError, match="its folder is missing"):
            await take_up(spill, store, "r-1")
        assert files(spill.folder)
    assert await take_up(spill, store, "r-1")


async def test_another_storage_does_not_take_the_answer_up(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    store, spill = open_both()
    await spilled(store, spill, storage)
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "other"))
    other, its_spill = open_both()
    await other.save(claimed(new_record()))
    assert (its_spill.folder, its_spill.all()) == (spill.folder, [])
    record = await take_up(its_spill, other, "r-1")
    assert record
    assert record.verdict is None
    assert files(spill.folder)


async def test_keys_can_be_rotated_while_an_answer_is_spilled(
    storage: Path, monkeypatch: pytest.MonkeyPatch
):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    monkeypatch.setenv("FACEID_DATA_KEY", old)
    store, spill = open_both()
    await spilled(store, spill, storage)
    (file,) = files(spill.folder)
    content = file.read_bytes()

    monkeypatch.setenv("FACEID_DATA_KEY", new)
    _, spill = open_both()
    (name,) = spill.all()
    with pytest.raises(StorageError) as raised:
        spill.read(name)
    assert raised.value.code == "CannotDecrypt"
    assert str(spill.folder) in raised.value.message
    assert name in raised.value.message
    assert file.read_bytes() == content

    monkeypatch.setenv("FACEID_DATA_KEY", f"{new},{old}")
    store, spill = open_both()
    record = await take_up(spill, store, "r-1")
    assert record
    assert record.verdict == PASSED


async def test_an_answer_that_cannot_be_read_holds_up_its_request_alone(storage: Path):
    store, spill = open_both()
    await spilled(store, spill, storage)
    (file,) = files(spill.folder)
    file.write_bytes(b"{}")
    with pytest.raises(StorageError, match="DamagedDocument"):
        await take_up(spill, store, "r-1")
    assert file.read_bytes() == b"{}"
    assert await take_up(spill, store, "r-2") is None


async def test_a_spill_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path: Path):
    store, spill = open_both()
    spill.folder.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot list the spilled answers"):
        await take_up(spill, store, "r-1")


def test_a_run_that_can_keep_its_answer_nowhere_says_so(
    storage: Path, tmp_path: Path, script: Callable[..., "subprocess.Popen[str]"]
):
    process = script(KEEP, storage, "0", "full")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.startswith("AnswerLost ")
    assert f"nor can the answer be written to {tmp_path / 'spill'}: cannot write" in out
    assert "(File too large)" in out
    store, spill = open_both()
    assert files(spill.folder) == []
    assert asyncio.run(loaded(store)).state == "calling"


def test_a_killed_process_leaves_its_answer_behind(
    storage: Path, tmp_path: Path, script: Callable[..., "subprocess.Popen[str]"]
):
    process = script(KEEP, storage, "600")
    until(lambda: list((tmp_path / "spill").rglob("*.json")), "a spilled answer")
    process.kill()
    process.wait()
    shutil.rmtree(storage)  # may hold the lock of the save that was killed
    bring_back(storage)
    store, spill = open_both()
    record = asyncio.run(take_up(spill, store, "r-1"))
    assert record
    assert (record.verdict, record.calls) == (PASSED, 1)
