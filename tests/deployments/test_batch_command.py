"""``faceid batch``: a manifest, checked and delivered in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faceid.emulator import Emulator
from tests.deployments.conftest import REQUEST, Ended

Faceid = Callable[..., Ended]


@pytest.fixture
def manifest(samples: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a manifest of as many requests, with what the test changes of each."""
    rates = '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}'
    monkeypatch.setenv("FACEID_RATES", rates)

    def write(count: int, **changes: dict[str, Any]) -> str:
        path = samples / "people.jsonl"
        entries = [
            REQUEST | {"request_id": f"p-{n}"} | changes.get(f"p_{n}", {}) for n in range(count)
        ]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return str(path)

    return write


def test_lines_are_printed_as_they_come(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str]
):
    code, out, err = faceid("batch", manifest(3))
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["request_id"] for line in lines) == ["p-0", "p-1", "p-2"]
    assert {line["status"] for line in lines} == {"verdict"}
    assert "3 requests: 6 CreateUploadUrl, 3 VideoLivenessCompare" in err
    assert "completed: 3 verdicts of 3 requests [emulator]" in err


def test_files_hold_the_lines_in_the_manifests_order(
    faceid: Faceid,
    emulator: Emulator,
    prefect_api: str,
    manifest: Callable[..., str],
    samples: Path,
):
    wrong = {"resources": REQUEST["resources"] | {"ImageUrl": "none.jpg"}}
    path = manifest(4, p_2=wrong)
    code, out, _ = faceid("batch", path, "--results", "out.jsonl", "--failures", "bad.jsonl")
    assert (code, out) == (1, "")
    results = [json.loads(line) for line in (samples / "out.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in results] == ["p-0", "p-1", "p-2", "p-3"]
    assert [line["status"] for line in results] == ["verdict", "verdict", "failed", "verdict"]
    failed = [json.loads(line) for line in (samples / "bad.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in failed] == ["p-2"]
    assert failed[0]["error"]["kind"] == "input"


def test_a_negative_verdict_can_be_asked_for(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str]
):
    emulator.add_fault("VideoLivenessCompare", "api:FailedOperation.CompareLowSimilarity")
    path = manifest(2)
    assert faceid("batch", path).code == 0
    assert faceid("batch", path, "--require-passed").code == 3


def test_check_opens_everything_and_sends_nothing(
    faceid: Faceid, emulator: Emulator, manifest: Callable[..., str]
):
    code, out, err = faceid("batch", manifest(3), "--check")
    assert (code, out) == (0, "")
    assert "minutes at the API's rates" in err
    assert "3 requests can be sent, 0 cannot" in err
    wrong = {"resources": REQUEST["resources"] | {"ImageUrl": "none.jpg"}}
    code, _, err = faceid("batch", manifest(3, p_1=wrong), "--check")
    assert code == 1
    assert "p-1: InvalidResource: resource ImageUrl: there is no such file" in err
    assert emulator.requests() == []


def test_every_bad_line_is_said_and_nothing_is_sent(
    faceid: Faceid, emulator: Emulator, manifest: Callable[..., str]
):
    path = manifest(4, p_1={"region": "ap-tokyo"}, p_3={"request_id": "p-0"})
    code, out, err = faceid("batch", path)
    assert (code, out) == (2, "")
    assert "people.jsonl, line 2: " in err
    assert "people.jsonl, line 4: " in err
    assert "Traceback" not in err
    assert emulator.requests() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--concurrency", "0"], "--concurrency must be 1 to 256"),
        (["--max-failed-percent", "101"], "--max-failed-percent must be 0 to 100"),
        (["--max-windows", "0"], "--max-windows must be 1 or more"),
    ],
)
def test_wrong_flags_are_told(
    faceid: Faceid,
    emulator: Emulator,
    manifest: Callable[..., str],
    flags: list[str],
    said: str,
):
    code, _, err = faceid("batch", manifest(1), *flags)
    assert code == 2
    assert said in err
    assert emulator.requests() == []


def test_a_manifest_that_is_not_there_is_told(faceid: Faceid, emulator: Emulator, samples: Path):
    code, _, err = faceid("batch", "none.jsonl")
    assert code == 2
    assert len(err.splitlines()) == 1
