"""A batch is accepted as a whole and stored as checked, or its bad lines are reported."""

import gzip
import json
import os
import stat
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest

from faceid.errors import InvalidInput, StorageError
from faceid.manifests.snapshot import BadManifest, ManifestSnapshot, take_snapshot
from faceid.settings import FaceIdSettings
from faceid.validation import RequestValidator
from tests.faceid.manifests import HEADER, LINE, REQUEST, ROW


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which contains a folder ``spool``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spool").mkdir(mode=0o700)
    return tmp_path


def take(location: str = "m.jsonl", *roots: str) -> ManifestSnapshot:
    settings = FaceIdSettings.load().model_copy(update={"resource_roots": roots})
    return take_snapshot(location, settings, Path("spool"))


def lines(*request_ids: str) -> str:
    return "".join(json.dumps(REQUEST | {"request_id": each}) + "\n" for each in request_ids)


def bad_lines(location: str = "m.jsonl") -> list[str]:
    with pytest.raises(BadManifest) as raised:
        take(location)
    assert not list(Path("spool").iterdir())
    return [str(line) for line in raised.value.lines]


def test_what_was_checked_is_kept(folder: Path):
    Path("m.jsonl").write_text(lines("r-1", "r-2", "r-3"))
    snapshot = take()
    # Later changes to the manifest have no effect on what is delivered.
    Path("m.jsonl").write_text("something else")
    assert snapshot.count == 3
    assert snapshot.per_action == {"VideoLivenessCompare": 3}
    assert snapshot.resources == 6
    (first, *_) = snapshot.entries()
    assert first.model_dump() == REQUEST | {
        "resources": {"ImageUrl": f"{folder}/a.jpg", "VideoUrl": f"{folder}/a.mp4"}
    }
    # A shard validates each entry again, before it checks the files.
    validated = RequestValidator.load(FaceIdSettings.load(), from_manifest=True).check(first)
    assert validated.locations == first.resources


def test_what_is_kept_is_private(folder: Path):
    Path("m.jsonl").write_text(LINE)
    old = os.umask(0)
    try:
        take()
    finally:
        os.umask(old)
    kept = list(Path("spool").iterdir())
    assert len(kept) == 3
    assert {stat.S_IMODE(each.stat().st_mode) for each in kept} == {0o600}


def test_slices_are_read_alone_and_by_others():
    ids = [f"r-{number}" for number in range(300)]
    Path("m.jsonl").write_text(lines(*ids))
    take()
    snapshot = ManifestSnapshot.load(Path("spool"))
    assert snapshot.count == 300
    # Damage entries around the slices. They are not read.
    kept = Path("spool/requests.jsonl")
    content = kept.read_bytes().splitlines(keepends=True)
    for number in (0, 99, 120, 299):
        content[number] = b"x" * (len(content[number]) - 1) + b"\n"
    kept.write_bytes(b"".join(content))
    assert [each.request_id for each in snapshot.entries(100, 20)] == ids[100:120]
    assert [each.request_id for each in snapshot.entries(290, 5)] == ids[290:295]
    assert list(snapshot.entries(300, 5)) == list(snapshot.entries(7, 0)) == []
    with pytest.raises(StorageError):
        list(snapshot.entries(119, 2))
    assert [each.request_id for each in islice(snapshot.entries(1), 2)] == ids[1:3]


def test_the_last_slice_ends_with_the_batch():
    Path("m.jsonl").write_text(lines("r-1", "r-2", "r-3"))
    snapshot = take()
    assert [each.request_id for each in snapshot.entries(2, 100)] == ["r-3"]
    assert [each.request_id for each in snapshot.entries(1)] == ["r-2", "r-3"]


def test_a_batch_may_be_of_several_manifests_and_actions():
    Path("a.csv").write_text(HEADER + ROW)
    Path("b.jsonl").write_text(lines("r-2"))
    other = (
        "request_id,target_action,region,DeviceDataUrl\nr-3,GenerateReflectSequence,ap-bangkok,d"
    )
    Path("c.csv.gz").write_bytes(gzip.compress(other.encode()))
    snapshot = take("[abc].*")
    assert [each.request_id for each in snapshot.entries()] == ["r-1", "r-2", "r-3"]
    assert snapshot.per_action == {"VideoLivenessCompare": 2, "GenerateReflectSequence": 1}
    assert snapshot.resources == 5


def test_a_glob_that_matches_nothing_is_an_empty_batch():
    snapshot = take("*.csv")
    assert snapshot.count == 0
    assert list(snapshot.entries()) == []


def test_an_empty_manifest_is_a_bad_one():
    Path("a.csv").write_text(HEADER)
    Path("b.jsonl").write_text(LINE)
    assert bad_lines("*.*") == ["a.csv, line 1: contains no request"]
    with pytest.raises(
        InvalidInput, match=r"^BadManifest: 1 bad line: a\.csv, line 1: contains no r"
    ):
        take("a.csv")


def test_all_bad_lines_are_said():
    Path("m.jsonl").write_text(f"x\n{lines('r-1')}\n{lines('r 2')}[]\n")
    with pytest.raises(BadManifest) as raised:
        take()
    assert [(line.line, line.request_id) for line in raised.value.lines] == [
        (1, ""),
        (4, ""),
        (5, ""),
    ]
    assert raised.value.total == 3
    assert str(raised.value) == (
        "BadManifest: 3 bad lines, the first: m.jsonl, line 1: is not JSON (column 1)"
    )
    assert raised.value.kind == "input"


def test_of_many_bad_lines_the_first_are_said():
    Path("m.jsonl").write_text("{\n" * 1234)
    with pytest.raises(BadManifest, match="1,234 bad lines, the first: ") as raised:
        take()
    assert [line.line for line in raised.value.lines] == list(range(1, 101))
    assert raised.value.total == 1234


def test_a_request_id_stands_once_in_a_batch():
    Path("a.jsonl").write_text(lines("r-1", "r-2", "r-1", "R-1", "r-1"))
    Path("b.jsonl").write_text(lines("r-3", "r-2"))
    assert bad_lines("*.jsonl") == [
        "a.jsonl, line 3: request ID r-1 is already used in line 1",
        "a.jsonl, line 5: request ID r-1 is already used in line 1",
        "b.jsonl, line 2: request ID r-2 is already used in a.jsonl, line 2",
    ]


def test_two_manifests_of_one_name_are_two():
    for name in ("x", "y"):
        Path(name).mkdir()
        Path(name, "m.jsonl").write_text(LINE)
    assert bad_lines("[xy]/m.jsonl") == [
        "m.jsonl, line 1: request ID r-1 is already used in m.jsonl, line 1"
    ]


def test_bad_lines_have_their_request_ids_too():
    wrong = json.dumps(REQUEST | {"region": "x"}) + "\n"
    Path("m.jsonl").write_text(wrong + LINE + wrong)
    assert [line.partition(": ")[2][:10] for line in bad_lines()] == [
        "region mus",
        "request ID",
        "region mus",
    ]


def test_a_name_with_other_signs_stays_on_its_line():
    Path("a\nb\x1b.jsonl").write_text("")
    assert bad_lines("a*.jsonl") == ["a?b?.jsonl, line 1: contains no request"]


@pytest.fixture
def remote() -> Iterator[Any]:
    files: Any = fsspec.filesystem("memory")
    yield files
    files.rm("/in", recursive=True)


def test_a_manifest_may_lie_elsewhere(remote: Any):
    remote.pipe("/in/m.jsonl.gz", gzip.compress(lines("r-1", "r-2").encode()))
    snapshot = take("memory://in/*.gz", "memory://in")
    assert [each.resources["ImageUrl"] for each in snapshot.entries()] == ["memory://in/a.jpg"] * 2


def test_links_and_peoples_data_come_back_as_they_were():
    fields = {
        "request_id": "r-1",
        "target_action": "IdCardOCRVerification",
        "region": "ap-singapore",
        "resources": {"ImageUrl": "https://host/a.jpg?q-signature=1&x=ü"},
        "action_parameters": {"IdCard": "1", "Name": "Jürgen 🙂\n\u2028"},
    }
    Path("m.jsonl").write_text(json.dumps(fields) + "\n" + lines("r-2"))
    first, _ = take().entries()
    assert first.model_dump() == fields


@pytest.mark.parametrize("content", [gzip.compress(LINE.encode() * 99)[:-9], b"no gzip"])
def test_nothing_is_left_of_a_manifest_that_cannot_be_read(content: bytes):
    Path("m.jsonl.gz").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"m\.jsonl\.gz cannot be read"):
        take("m.jsonl.gz")
    assert not list(Path("spool").iterdir())


def test_a_folder_that_cannot_be_written_is_a_storage_error():
    Path("m.jsonl").write_text(LINE)
    Path("spool").rmdir()
    with pytest.raises(StorageError, match=r"CannotSpool: .* \(No such file or directory\)"):
        take()
    with pytest.raises(StorageError, match=r"\(No such file or directory\)"):
        ManifestSnapshot.load(Path("spool"))


def test_what_was_left_by_another_is_replaced():
    Path("m.jsonl").write_text(lines("r-1", "r-2"))
    take()
    Path("m.jsonl").write_text(lines("r-3"))
    assert [each.request_id for each in take().entries()] == ["r-3"]


def test_a_file_that_was_cut_off_is_a_storage_error():
    Path("m.jsonl").write_text(lines("r-1", "r-2"))
    snapshot = take()
    kept = Path("spool/requests.jsonl")
    kept.write_bytes(kept.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StorageError, match="CannotSpool"):
        list(snapshot.entries())


def peak(count: int) -> int:
    """Return the peak of Python's memory, in bytes, during a snapshot of ``count`` lines."""
    with Path("m.csv").open("w") as file:
        file.write("request_id,target_action,region,DeviceDataUrl\n")
        for number in range(count):
            file.write(f"r-{number},GenerateReflectSequence,ap-singapore,memory://x/{number}\n")
    tracemalloc.start()
    try:
        assert take("m.csv").count == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_manifest():
    peak(10)  # allocates what is created once and kept
    # Tracing is slow, so the manifests are short. With 200,000 lines the peak is the same.
    assert peak(5_000) < peak(500) + 30_000
