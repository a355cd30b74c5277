"""Result lines in local and remote folders: complete, and in order at the end; the picture."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4
from xml.etree import ElementTree

import fsspec
import pytest

from faceid.errors import InvalidInput, StorageError
from faceid.models import DeliveryResult, ResultError
from faceid.pacing import Pacer
from flows.batch.meter import MAX_SPANS, Meter
from flows.batch.picture import draw
from flows.batch.results import BatchResults, read_lines, results_location
from tasks.settings import DeliverySettings

Status = Literal["verdict", "failed", "waiting"]


def result(request_id: str, status: Status = "verdict") -> DeliveryResult:
    now = datetime.now(UTC)
    return DeliveryResult(
        request_id=request_id,
        service="emulator",
        status=status,
        target_action="VideoLivenessCompare",
        error=ResultError(code="X", message="x", kind="input") if status == "failed" else None,
        started_at=now,
        finished_at=now,
    )


def ids(location: str, name: str = "results.jsonl") -> list[str]:
    return [json.loads(line)["request_id"] for line in read_lines(location, name)]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of a folder on another file system."""
    yield f"memory://{uuid4().hex}/batch"
    fsspec.filesystem("memory").store.clear()


def test_lines_come_as_they_are_written_and_are_in_order_at_the_end(tmp_path: Path, spool: Path):
    location = str(tmp_path / "out")
    statuses: dict[int, Status] = {3: "failed", 0: "verdict", 4: "waiting", 1: "failed"}
    with BatchResults(location, spool) as results:
        for number, status in statuses.items():
            results.write(number, result(f"p-{number}", status))
        assert ids(location) == ["p-3", "p-0", "p-4", "p-1"]
        assert ids(location, "failures.jsonl") == ["p-3", "p-1"]
        results.finish(6)
    assert ids(location) == ["p-0", "p-1", "p-3", "p-4"]
    assert ids(location, "failures.jsonl") == ["p-1", "p-3"]
    assert sorted(path.name for path in Path(location).iterdir()) == [
        "failures.jsonl",
        "results.jsonl",
    ]

    # Another batch starts new files.
    (spool / "results.places").unlink()
    with BatchResults(location, spool) as results:
        assert ids(location) == []
        results.write(0, result("q-0"))
        results.finish(1)
    assert ids(location) == ["q-0"]
    assert ids(location, "failures.jsonl") == []


def test_half_a_line_is_none(tmp_path: Path):
    (tmp_path / "results.jsonl").write_bytes(b'{"request_id": "p-0"}\n{"request_id": "p')
    assert ids(str(tmp_path)) == ["p-0"]


def test_a_disk_that_is_full_takes_no_half_line(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
):
    write = os.write

    def a_part(handle: int, line: bytes) -> int:
        return write(handle, line[:10])

    location = str(tmp_path / "out")
    with BatchResults(location, spool) as results:
        results.write(0, result("p-0"))
        monkeypatch.setattr(os, "write", a_part)
        with pytest.raises(StorageError, match="No space left"):
            results.write(1, result("p-1"))
        monkeypatch.undo()
        results.write(2, result("p-2"))
        results.finish(3)
    assert ids(location) == ["p-0", "p-2"]


def test_two_batches_do_not_write_to_one_folder(tmp_path: Path, spool: Path):
    with BatchResults(str(tmp_path / "out"), spool) as results:
        results.write(0, result("p-0"))
        with (
            pytest.raises(InvalidInput, match="another batch writes to this folder"),
            BatchResults(str(tmp_path / "out"), tmp_path),
        ):
            pass
        assert ids(str(tmp_path / "out")) == ["p-0"]


def test_another_machine_gets_lines_while_it_runs_and_all_at_the_end(elsewhere: str, spool: Path):
    sent: list[int] = []
    with BatchResults(elsewhere, spool) as results:
        results.publish()
        with pytest.raises(FileNotFoundError):
            ids(elsewhere)
        for number in range(100):
            results.write(number, result(f"p-{number}"))
            results.publish()
            if not sent or sent[-1] != len(ids(elsewhere)):
                sent.append(len(ids(elsewhere)))
        assert 80 <= sent[-1] <= 100
        # The uploads add up to a small multiple of the final size.
        assert sum(sent) < 6 * 100
        results.write(100, result("p-100", "failed"))
        results.finish(101)
    assert ids(elsewhere) == [f"p-{n}" for n in range(101)]
    assert ids(elsewhere, "failures.jsonl") == ["p-100"]


def test_lines_go_to_the_storage_unless_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_STORAGE", "memory://storage")
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", f"{tmp_path},memory://results")
    settings = DeliverySettings.load()
    assert results_location("", settings, "run") == "memory://storage/batches/run"
    assert results_location(str(tmp_path / "a"), settings, "run") == str(tmp_path / "a")
    assert results_location("memory://results/a", settings, "run") == "memory://results/a"
    for outside in ("/", "memory://other/a"):
        with pytest.raises(InvalidInput, match="results: "):
            results_location(outside, settings, "run")


def metered(rates: dict[str, float], clock: list[float]) -> tuple[Meter, dict[str, Pacer]]:
    meter = Meter(now=lambda: clock[0])
    pacers = meter.paced(lambda action: Pacer(rates[action]), rates.get)
    found = {action: pacers(action) for action in rates}
    return meter, {action: pacer for action, pacer in found.items() if pacer}


async def test_calls_are_counted_by_action_and_second():
    clock = [100.0]
    meter, pacers = metered({"A": 1000, "B": 2000}, clock)
    assert meter.fastest() is None
    for second in (100.0, 100.9, 101.0, 103.5):
        clock[0] = second
        await pacers["A"].acquire()
        await pacers["B"].acquire()
    fastest = meter.fastest()
    assert fastest
    assert (fastest.action, fastest.limit) == ("A", 1000)
    assert (fastest.per_second, fastest.span) == ([2, 1, 0, 1], 1)


def test_a_long_batch_is_counted_in_longer_spans():
    clock = [0.0]
    meter, _ = metered({"A": 20}, clock)
    for second in range(10 * MAX_SPANS):
        clock[0] = float(second)
        meter.count("A")
        meter.count("A")
    fastest = meter.fastest()
    assert fastest
    assert len(fastest.per_second) <= MAX_SPANS
    assert fastest.span == 16
    assert set(fastest.per_second[:-1]) == {2.0}


@pytest.mark.parametrize("counts", [{"passed": 3, "failed": 1}, {"not begun": 0}])
async def test_the_picture_is_an_svg_that_says_the_counts(counts: dict[str, Any]):
    clock = [0.0]
    meter, pacers = metered({"A<b>": 20}, clock)
    await pacers["A<b>"].acquire()
    tree = ElementTree.fromstring(draw("4 of 4 & more", counts, meter.fastest()))
    said = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert said[0] == "4 of 4 & more"
    assert "A<b>, calls per second" in said
    assert ("passed" in said) == bool(counts.get("passed"))
    assert draw("none", {}, None).endswith("</svg>")
