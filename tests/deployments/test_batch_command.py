"""``faceid batch``: manifests are checked and delivered in this process."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from faceid.emulator import Emulator
from tests.deployments.command_line import Ended
from tests.sample_request import REQUEST

Faceid = Callable[..., Ended]


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
    code, out, err = faceid("batch", path, "--results", "out.jsonl", "--failures", "bad.jsonl")
    assert (code, out) == (1, "")
    assert "faceid: 1 failed with InvalidResource, such as p-2\n" in err
    results = [json.loads(line) for line in (samples / "out.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in results] == ["p-0", "p-1", "p-2", "p-3"]
    assert [line["status"] for line in results] == ["verdict", "verdict", "failed", "verdict"]
    failed = [json.loads(line) for line in (samples / "bad.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in failed] == ["p-2"]
    assert failed[0]["error"]["kind"] == "input"


def test_an_outage_is_told_once_for_the_whole_batch(
    faceid: Faceid,
    emulator: Emulator,
    prefect_api: str,
    manifest: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "1")
    emulator.add_fault("PutObject", "http:503", times=0)
    code, _, err = faceid("batch", manifest(3))
    assert code == 4
    assert err.count("; trying again for up to about 1 s (FACEID_WAIT_IN_RUN)\n") == 1
    assert err.count("trying again") == 1


def test_check_finds_a_request_whose_verdict_is_that_of_another_input(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str]
):
    assert faceid("batch", manifest(2)).code == 0
    other = {"resources": REQUEST["resources"] | {"ImageUrl": "birch.jpg"}}
    code, _, err = faceid("batch", manifest(2, p_1=other), "--check")
    assert code == 1
    assert "p-1: RequestIdConflict: request p-1 already has a different input" in err
    assert "0 requests can be sent, 1 cannot, 1 have their verdict" in err


def test_a_negative_verdict_can_be_asked_for(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str]
):
    emulator.add_fault("VideoLivenessCompare", "api:FailedOperation.CompareLowSimilarity")
    path = manifest(2)
    assert faceid("batch", path).code == 0
    assert faceid("batch", path, "--require-passed").code == 3


def test_check_opens_everything_and_sends_nothing(
    faceid: Faceid, emulator: Emulator, manifest: Callable[..., str], samples: Path
):
    code, out, err = faceid("batch", manifest(3), "--check")
    assert (code, out) == (0, "")
    assert "; less than a minute at the API's rates" in err
    assert "3 requests can be sent, 0 cannot" in err
    wrong = {"resources": REQUEST["resources"] | {"ImageUrl": "none.jpg"}}
    code, _, err = faceid("batch", manifest(3, p_1=wrong), "--check")
    assert code == 1
    missing = samples / "none.jpg"
    assert f"p-1: InvalidResource: resource ImageUrl: there is no such file: {missing}\n" in err
    assert emulator.requests() == []


def test_check_says_how_long_the_batch_will_take(
    faceid: Faceid,
    emulator: Emulator,
    manifest: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    path = manifest(3)
    monkeypatch.setenv("FACEID_RATES", '{"VideoLivenessCompare": 0.02}')
    assert "; 2.5 minutes at the API's rates" in faceid("batch", path, "--check").err


def test_what_a_limit_leaves_is_told_and_the_rest_waits(
    faceid: Faceid,
    emulator: Emulator,
    prefect_api: str,
    manifest: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_MAX_CALLS_PER_DAY", '{"VideoLivenessCompare": 2}')
    monkeypatch.setenv("FACEID_DAY", "Pacific/Pago_Pago")
    left = "VideoLivenessCompare: {} of 2 calls left today (Pacific/Pago_Pago)"
    code, _, err = faceid("batch", manifest(2), "--check")
    assert (code, err.splitlines()[-1]) == (0, left.format(2))
    path = manifest(3)
    code, _, err = faceid("batch", path)
    assert code == 4
    assert left.format(2) + "; of 3 requests, 1 wait for the next day" in err
    assert (
        "partial: 2 verdicts, 1 waiting of 3 requests [emulator]; VideoLivenessCompare has" in err
    )
    code, _, err = faceid("batch", path, "--check")
    assert err.splitlines()[-1] == left.format(0) + "; of 1 requests, 1 wait for the next day"
    monkeypatch.setenv("FACEID_DAY", "Pacific/Kiritimati")  # where it is another day
    assert faceid("batch", path).code == 0
    assert emulator.stats()["calls"]["VideoLivenessCompare"] == 3


def test_calls_without_an_answer_stop_a_batch(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str]
):
    emulator.add_fault("VideoLivenessCompare", "commit-then-reset")
    code, _, err = faceid("batch", manifest(3), "--concurrency", "1", "--max-unknown", "1")
    assert code == 1
    assert "TooManyUnknown: 1 calls were not answered, and max_unknown is 1" in err
    assert emulator.stats()["calls"]["VideoLivenessCompare"] == 1


def test_a_manifest_that_is_not_there_is_told_with_its_path(
    faceid: Faceid, emulator: Emulator, samples: Path
):
    code, _, err = faceid("batch", "none.jsonl")
    assert code == 2
    missing = samples / "none.jsonl"
    assert err == f"faceid: InvalidManifest: manifest: there is no such file: {missing}\n"


def test_check_opens_no_file_of_a_request_that_has_its_verdict(
    faceid: Faceid,
    emulator: Emulator,
    prefect_api: str,
    manifest: Callable[..., str],
    samples: Path,
):
    assert faceid("batch", manifest(2)).code == 0
    other = {"resources": REQUEST["resources"] | {"ImageUrl": "birch.jpg"}}
    path = manifest(3, p_2=other)
    (samples / "alder.jpg").unlink()
    code, _, err = faceid("batch", path, "--check")
    assert code == 0
    assert "1 requests can be sent, 0 cannot, 2 have their verdict" in err


def test_the_date_in_a_manifests_name_is_today(
    faceid: Faceid, emulator: Emulator, manifest: Callable[..., str], samples: Path
):
    Path(manifest(2)).rename(samples / f"people-{datetime.now(UTC):%Y-%m-%d}.jsonl")
    code, _, err = faceid("batch", "people-{date}.jsonl", "--check")
    assert code == 0
    assert "2 requests can be sent" in err


@pytest.mark.parametrize("flag", ["--results", "--failures"])
def test_files_that_cannot_be_written_are_told_before_anything_is_sent(
    faceid: Faceid, emulator: Emulator, prefect_api: str, manifest: Callable[..., str], flag: str
):
    for path in ("none/out.jsonl", "."):
        code, out, err = faceid("batch", manifest(1), flag, path)
        assert (code, out) == (2, "")
        assert f"{path}: cannot be written" in err
        assert "Traceback" not in err
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
        (["--max-unknown", "0"], "--max-unknown must be 1 or more"),
        (["--max-windows", "0"], "--max-windows must be 1 to 1000"),
        (["--max-windows", "1001"], "--max-windows must be 1 to 1000"),
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
