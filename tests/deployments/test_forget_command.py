"""``faceid forget`` erases what is stored about requests, and says what it cannot reach."""

import asyncio
import fcntl
import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from faceid.emulator import Emulator
from flows.upkeep import request_runs
from tests.deployments.command_line import Ended, deliver_tokens
from tests.flows.helpers import aged, record_file, record_of, records
from tests.flows.traces import documents_with, rows_with

Faceid = Callable[..., Ended]
OUT_OF_REACH = """\
What cannot be reached from here:
  - Prefect's events, which hold request IDs and verdicts: nobody can delete them, and the server \
drops them after PREFECT_SERVER_EVENTS_RETENTION_PERIOD, 7 days by default
  - what automations have sent: notifications, and results to a webhook
  - logs of batches' runs, and their summaries, which name some requests that failed: delete \
those runs in the dashboard
  - free pages in the file of Prefect's database, until they are used again
  - answers that were spilled on other machines, which remove them in their next sweep
  - log files of Prefect's server and workers, backups, results in folders that you named
  - uploads at Tencent, which live up to two hours, and what Tencent itself keeps
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the settling time, because the tests' server writes task runs every second."""
    monkeypatch.setattr(request_runs, "SETTLING_SECONDS", 3.0)


@pytest.fixture
def delivered(
    faceid: Faceid, emulator: Emulator, prefect_api: str
) -> Callable[..., dict[str, Any]]:
    """A function that delivers a request with a unique ID, and returns its result object."""

    def deliver(**changes: Any) -> dict[str, Any]:
        given = {"request_id": f"r-{uuid4().hex[:12]}"} | changes
        return json.loads(faceid(*deliver_tokens(**given)).out)

    return deliver


Delivered = Callable[..., dict[str, Any]]


def line(request_id: str, **changes: Any) -> str:
    """Return the line that is printed for a request with one run and four cached steps."""
    counts = {"flow_runs": 1, "saved_files": 0, "cached_steps": 4, "verdict_kept": False}
    return json.dumps({"request_id": request_id} | counts | changes, separators=(",", ":")) + "\n"


@contextmanager
def at_work(request_id: str) -> Generator[None]:
    """Hold the request's lock, as a run does."""
    store = records()
    assert store.storage.folder
    name = hashlib.sha256(store.name(request_id).encode()).hexdigest()
    with (store.storage.folder / "locks" / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_requests_are_forgotten_and_what_is_out_of_reach_is_named(
    faceid: Faceid, delivered: Delivered, samples: Path
):
    first = delivered(save_files_to="saved")["request_id"]
    second = delivered()["request_id"]
    assert faceid("forget", first, second, first) == Ended(
        0, line(first, saved_files=1) + line(second), f"2 forgotten\n{OUT_OF_REACH}"
    )
    assert rows_with(first) == rows_with(second) == set()
    assert documents_with(first) == documents_with(second) == []
    assert list((samples / "saved").iterdir()) == []
    assert faceid("status", first) == Ended(1, "", f"faceid: nothing is known about {first}\n")
    again = faceid("forget", first)
    assert again == Ended(1, "", f"faceid: nothing is known about {first}\n0 forgotten\n")


def test_what_is_left_is_told_and_the_others_are_forgotten(
    faceid: Faceid, delivered: Delivered, samples: Path
):
    request_id = delivered()["request_id"]
    record_file(samples / "storage").write_text("damaged")
    locked, done = (delivered()["request_id"] for _ in range(2))
    with at_work(locked):
        code, out, err = faceid("forget", request_id, locked, done)
    assert (code, out) == (1, line(done))
    name = records().name(request_id)
    assert err == (
        f"faceid: {request_id} is not forgotten: DamagedDocument: {name} is not a document of "
        "faceid-flows. Check FACEID_STORAGE and FACEID_DATA_KEY.\n"
        f"faceid: a run is at work on {locked}: wait for its end, or cancel it\n"
        f"1 forgotten\n{OUT_OF_REACH}"
    )


def test_runs_of_another_server_and_files_of_another_machine_are_named(
    faceid: Faceid, delivered: Delivered, samples: Path
):
    request_id = delivered(save_files_to="saved")["request_id"]
    (samples / "saved" / f"{request_id}.BestFrame.jpg").rename(samples / "moved.jpg")
    store, record = records(), asyncio.run(record_of(request_id))
    (run, *others) = record.runs
    runs = (run.model_copy(update={"flow_run_id": str(uuid4())}), *others)
    record = record.model_copy(update={"runs": runs})
    store.storage.write(store.name(request_id), record.model_dump(mode="json"))
    code, out, err = faceid("forget", request_id)
    assert (code, out) == (0, line(request_id))
    assert err.splitlines()[2] == (
        "  - flow runs that are not on this Prefect server (1): already deleted, or on another"
    )
    assert (
        "  - files that are not where they were saved (1): already gone, or on another machine"
    ) in err.splitlines()


def test_logs_that_the_server_has_not_deleted_yet_are_named(
    faceid: Faceid, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(request_runs, "LOGS_SECONDS", 0)
    request_id = delivered()["request_id"]
    code, out, err = faceid("forget", request_id)
    assert (code, out) == (0, line(request_id))
    assert "  - logs of deleted flow runs (1): the server is slow to delete them\n" in err


def test_old_requests_are_forgotten(faceid: Faceid, delivered: Delivered, samples: Path):
    old, fresh = (delivered()["request_id"] for _ in range(2))
    store, record = records(), asyncio.run(record_of(old))
    record = aged(record, hours=2)
    store.storage.write(store.name(old), record.model_dump(mode="json"))
    assert faceid("forget", "--older-than", "3h") == Ended(0, "", "0 forgotten\n")
    assert faceid("forget", "--older-than", "1h") == Ended(
        0, line(old), f"1 forgotten\n{OUT_OF_REACH}"
    )
    assert asyncio.run(record_of(fresh)).reply
    record_file(samples / "storage").write_text("damaged")
    code, out, err = faceid("forget", "--older-than", "1h")
    assert (code, out) == (1, "")
    assert err.startswith(
        f"faceid: a record cannot be forgotten: DamagedDocument: {records().name(fresh)} is "
    )


def test_the_result_line_can_be_kept(faceid: Faceid, delivered: Delivered):
    result = delivered()
    request_id = result["request_id"]
    code, out, _ = faceid("forget", request_id, "--keep-verdict")
    assert (code, out) == (0, line(request_id, verdict_kept=True))
    assert faceid("answer", request_id) == Ended(
        1, "", f"faceid: no answer is stored for {request_id}\n"
    )
    shown = json.loads(faceid("status", request_id).out)
    assert (shown["state"], shown["verdict"], shown["flow_runs"]) == (
        "verdict",
        result["verdict"],
        [],
    )
    again = delivered(request_id=request_id)
    for name in ("verdict", "windows", "calls", "tencent_request_ids", "status"):
        assert again[name] == result[name]


def test_without_a_server_runs_are_named_as_left(faceid: Faceid, delivered: Delivered):
    request_id = delivered()["request_id"]
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, out, err = faceid("forget", request_id)
    assert (code, out) == (0, line(request_id, flow_runs=0))
    assert err.splitlines()[2] == (
        "  - flow runs: PREFECT_API_URL is not set, so no Prefect server was asked"
    )
    assert "events" not in err


def test_nothing_is_removed_when_the_server_does_not_answer(faceid: Faceid, delivered: Delivered):
    request_id = delivered()["request_id"]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        ended = faceid("forget", request_id)
    assert ended == Ended(
        1,
        "",
        "faceid: PrefectUnavailable: a call to the Prefect server failed (ConnectError). "
        "Check PREFECT_API_URL and PREFECT_API_AUTH_STRING, and that the server is running.\n",
    )
    assert asyncio.run(record_of(request_id)).reply


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "InvalidRequest: give either request IDs or --older-than, not both"),
        (
            ["r-1", "--older-than", "30d"],
            "InvalidRequest: give either request IDs or --older-than",
        ),
        (
            ["--older-than", "soon"],
            "InvalidRequest: 'soon' is not an age such as 30d, 12h, 90m or 45s",
        ),
    ],
)
def test_wrong_input_is_told_in_one_line(
    faceid: Faceid, emulator: Emulator, tokens: list[str], message: str
):
    code, out, err = faceid("forget", *tokens)
    assert (code, out) == (2, "")
    assert err.startswith(f"faceid: {message}")
    assert err.count("\n") == 1
