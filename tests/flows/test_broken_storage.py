"""A damaged record stops the delivery, whereas a damaged cached step is repeated."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from faceid.emulator import Emulator
from tests.flows.deliveries import Deliver
from tests.flows.helpers import (
    ACTION,
    OTHER_INPUT,
    REFUSES_THE_ACCOUNT,
    called,
    calls_of,
    no_folder,
    record_file,
    record_of,
    steps_of,
)


@pytest.fixture
def storage(samples: Path) -> Path:
    return samples / "storage"


def _poisoned(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sealed_with_another_key(path: Path) -> None:
    (path.parents[4] / "data.key").write_bytes(Fernet.generate_key())


@pytest.mark.parametrize(
    ("damage", "has_verdict", "said"),
    [
        (_poisoned, True, "CannotDecrypt: "),
        (_poisoned, False, "CannotDecrypt: "),
        (_truncated, True, "DamagedDocument: "),
        (_emptied, False, "DamagedDocument: "),
        (_replaced_by_a_folder, True, "StorageUnavailable: cannot read records/"),
        (_sealed_with_another_key, True, "CannotDecrypt: "),
    ],
)
async def test_a_record_that_cannot_be_read_stops_the_delivery(
    run_deliver: Deliver,
    emulator: Emulator,
    storage: Path,
    damage: Callable[[Path], None],
    has_verdict: bool,
    said: str,
):
    if not has_verdict:
        emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    sent, stats = emulator.requests(), emulator.stats()
    record = record_file(storage)
    damage(record)
    _as_in_a_new_process()
    left = record.read_bytes() if record.is_file() else None

    state, result, run = await run_deliver()
    assert state.is_failed()
    assert result.error is not None
    assert result.error.kind == "storage"
    assert (result.windows, result.calls) == (0, 0)
    assert state.message is not None
    assert state.message.startswith("unavailable: ")
    assert said in state.message
    assert "Check FACEID_STORAGE and FACEID_DATA_KEY" in state.message
    assert "outcome:unavailable" in run.tags
    assert emulator.requests() == sent
    assert emulator.stats() == stats
    assert (record.read_bytes() if record.is_file() else None) == left


def _as_in_a_new_process() -> None:
    from tasks.state import storage

    # This process caches the open storage; a new process would open it again.
    storage._open_storage.cache_clear()  # pyright: ignore[reportPrivateUsage]  # see above


async def test_a_record_in_the_place_of_anothers_stops_the_delivery(
    run_deliver: Deliver, emulator: Emulator, storage: Path
):
    await run_deliver()
    first = record_file(storage)
    await run_deliver(request_id="r-2", **OTHER_INPUT)
    (second,) = set((storage / "records").rglob("*.json")) - {first}
    second.replace(first)
    sent = emulator.requests()
    _, result, _ = await run_deliver()
    assert result.error is not None
    assert (result.error.kind, result.error.code) == ("storage", "MisplacedDocument")
    assert emulator.requests() == sent


async def test_keys_can_be_rotated_between_two_runs(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    monkeypatch.setenv("FACEID_DATA_KEY", old)
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()

    monkeypatch.setenv("FACEID_DATA_KEY", f"{new},{old}")
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (await steps_of(run, 6))["ticket ImageUrl"] == "Cached"

    monkeypatch.setenv("FACEID_DATA_KEY", new)
    _, again, _ = await run_deliver()
    assert again.verdict == result.verdict
    assert calls_of(emulator) == again.calls == 2


async def test_storage_that_is_gone_from_the_start_means_no_call(
    run_deliver: Deliver, emulator: Emulator, storage: Path
):
    storage.mkdir()
    (storage / "records").write_text("a file where the folder should be")
    _, result, _ = await run_deliver()
    assert result.error is not None
    assert result.error.kind == "storage"
    assert emulator.requests() == []


async def test_storage_that_breaks_before_the_call_means_no_call(
    run_deliver: Deliver, emulator: Emulator, storage: Path
):
    emulator.add_fault("PutObject", "delay:2")
    at_work = asyncio.create_task(run_deliver(on_unknown_outcome="stop"))
    await called(emulator, op="PutObject")
    async with no_folder(storage / "records"):
        _, result, _ = await at_work
    assert result.error is not None
    assert result.error.kind == "storage"
    assert result.calls == calls_of(emulator) == 0

    _, result, run = await run_deliver(on_unknown_outcome="stop")
    assert result.status == "verdict"
    assert result.calls == calls_of(emulator) == 1
    assert (await steps_of(run, 6))["upload ImageUrl"] == "Cached"


def _steps_in(storage: Path) -> list[Path]:
    return sorted(path for path in (storage / "cache").rglob("*") if path.is_file())


def _all_damaged_by(damage: Callable[[Path], None]) -> Callable[[list[Path]], None]:
    def damage_all(paths: list[Path]) -> None:
        for path in paths:
            damage(path)

    return damage_all


def _all_exchanged(paths: list[Path]) -> None:
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _all_damaged_by(_poisoned),
        _all_damaged_by(_truncated),
        _all_damaged_by(_emptied),
        _all_damaged_by(_replaced_by_a_folder),
        _all_damaged_by(Path.unlink),
        _all_exchanged,
    ],
)
async def test_a_damaged_cache_costs_a_ticket_and_never_gives_a_wrong_one(
    run_deliver: Deliver,
    emulator: Emulator,
    storage: Path,
    damage: Callable[[list[Path]], None],
):
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    steps = _steps_in(storage)
    assert len(steps) == 4
    damage(steps)

    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (1, 2)
    assert set((await steps_of(run, 6)).values()) == {"Completed"}
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"], calls[ACTION]) == (4, 4, 2)
    assert emulator.stats()["errors"] == {"ResourceUnavailable.InArrears": 1}


async def test_a_cache_that_cannot_be_written_costs_nothing_now(
    run_deliver: Deliver, emulator: Emulator, storage: Path, caplog: pytest.LogCaptureFixture
):
    storage.mkdir()
    (storage / "cache").write_text("a file where the folder should be")
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver()
    assert "a step could not be cached" in caplog.text
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    calls = emulator.stats()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"], calls[ACTION]) == (4, 4, 2)
    assert (storage / "cache").read_text() == "a file where the folder should be"


async def test_steps_are_cached_encrypted(run_deliver: Deliver, emulator: Emulator, storage: Path):
    await run_deliver()
    assert len(_steps_in(storage)) == 4
    for path in [*_steps_in(storage), record_file(storage)]:
        content = path.read_bytes()
        assert set(content.split(b'"')[1::2]) >= {b"format", b"sealed"}
        # None of these can occur in base64 text by chance.
        for secret in (b"http:", b"q-sign", b'"r-1"', b"Success", b"ImageUrl"):
            assert secret not in content, path
    assert (await record_of()).reply is not None
