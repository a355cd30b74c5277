"""A system that an earlier version has left behind is carried on by this one.

The fixtures are made by ``make_fixture.py``, and stay: whoever changes what is stored adds one.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from faceid.emulator.remote import EmulatorControl
from faceid.errors import StorageError
from tasks.settings import DeliverySettings
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import GUARDED_FORMAT, Storage, open_storage
from tests.deployments.stack_processes import running_up
from tests.waiting import until

HERE = Path(__file__).parent
FIXTURES = sorted(path.stem for path in HERE.glob("*.json"))
WITHOUT_ANSWER = {"failed-unavailable", "failed-unknown", "killed-in-call-stop"}
"""Requests whose call has no answer, and that are not to be called again."""

Request = dict[str, Any]


class Left:
    """What an earlier version has left behind, unpacked into a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        with tarfile.open(HERE / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        home = folder / "prefect"
        with closing(sqlite3.connect(home / "prefect.db")) as database:
            database.executescript((home / "prefect.sql").read_text())
        about = json.loads((HERE / f"{name}.json").read_text())
        self.requests: dict[str, Request] = about["requests"]
        """The requests by their IDs, as ``make_fixture.py`` describes them."""
        self.batches: list[dict[str, str]] = about["batches"]
        """The runs of batches that are not complete."""
        self.storage: Storage = open_storage(DeliverySettings.load())

    def store(self, request_id: str) -> RecordStore:
        """Return the store with the record of a request, whose block is named as its account."""
        block = self.requests[request_id]["parameters"].get("credentials")
        return RecordStore(self.storage, "emulator", block or "default")

    def file(self, request_id: str) -> Path:
        """Return the file with the record of a request."""
        assert self.storage.folder
        return self.storage.folder / self.store(request_id).name(request_id)

    def record(self, request_id: str) -> Record | None:
        content = self.storage.read(self.store(request_id).name(request_id))
        return None if content is None else Record.model_validate(content)

    def finished(self) -> set[str]:
        """Return the IDs of the requests for which nothing is to be done."""
        return {name for name, one in self.requests.items() if not one["open"]}

    def contents(self) -> dict[str, bytes | None]:
        """Return the contents of the files of the finished requests, by request ID."""
        files = {name: self.file(name) for name in self.finished()}
        return {name: file.read_bytes() if file.exists() else None for name, file in files.items()}

    def stands(self, request_id: str) -> bool:
        """Return whether a request has become what it is to become."""
        record = self.record(request_id)
        state = record.outcome if record else "new"
        return state == self.requests[request_id]["becomes"]


@pytest.fixture(params=FIXTURES)
def left(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "prefect" / "faceid"))
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:8600")  # an emulator's records
    return Left(request.param, tmp_path)


@pytest.mark.services
@pytest.mark.timeout(900)
def test_every_request_comes_to_its_end_and_no_call_is_repeated(left: Left, tmp_path: Path):
    finished = left.contents()
    with running_up(tmp_path, FACEID_WAIT_IN_RUN="5") as ready:
        emulator = EmulatorControl(ready["endpoint"])
        with httpx.Client(base_url=ready["api_url"], timeout=60) as api:
            for name in left.requests:
                until(lambda name=name: left.stands(name), f"the end of {name}", 300)
            for batch in left.batches:
                until(lambda batch=batch: _is_complete(api, batch["flow_run_id"]), "the batches")
            for name in set(left.requests) - left.finished():
                _assert_carried_on(left, name, api)
        assert left.contents() == finished
        assert _calls(emulator) == sum(one["more"] for one in left.requests.values())

        results = _deliver_all_again(left, tmp_path, ready)
        assert set(results) == _in_manifest(left)
        for name, result in results.items():
            if name in WITHOUT_ANSWER:
                assert result["error"]["kind"] == "unknown", result
            else:
                assert result["status"] == "verdict", result
        # Only what had no verdict has been called.
        tried_again = {
            name
            for name in set(results) - WITHOUT_ANSWER
            if left.requests[name]["becomes"] != "verdict"
        }
        assert tried_again
        for name, result in results.items():
            request = left.requests[name]
            assert result["calls"] == request["calls"] + request["more"] + (name in tried_again)
        more = sum(one["more"] for one in left.requests.values())
        assert _calls(emulator) == more + len(tried_again)


def _assert_carried_on(left: Left, name: str, api: httpx.Client) -> None:
    request, record = left.requests[name], left.record(name)
    assert record is not None
    assert record.calls == request["calls"] + request["more"], name
    runs = [run.flow_run_id for run in record.runs]
    assert runs[: len(request["flow_run_ids"])] == request["flow_run_ids"], name
    assert orjson.loads(left.file(name).read_bytes())["format"] == GUARDED_FORMAT, name
    # The run that carried a single request on names the run that it follows.
    if request["flow_run_ids"] and record.origin and record.outcome != "cancelled":
        tags = api.get(f"/flow_runs/{runs[-1]}").raise_for_status().json()["tags"]
        assert f"previous:{runs[-2]}" in tags, (name, tags)


def _is_complete(api: httpx.Client, run_id: str) -> bool:
    """Return whether a batch has been carried on by a later run, and is complete."""
    run = api.get(f"/flow_runs/{run_id}").raise_for_status().json()
    following = [tag.partition(":")[2] for tag in run["tags"] if tag.startswith("next:")]
    if following:
        return _is_complete(api, following[0])
    state = run["state"]
    return "previous:" in str(run["tags"]) and (state["message"] or "").startswith("completed: ")


def _calls(emulator: EmulatorControl) -> int:
    """Return how many calls of target actions the emulator has received."""
    others = {"CreateUploadUrl", "PutObject", "GetObject", "HeadObject"}
    return sum(n for op, n in emulator.stats()["calls"].items() if op not in others)


def _in_manifest(left: Left) -> set[str]:
    """Return the IDs of the requests that need no block."""
    return {name for name, one in left.requests.items() if "credentials" not in one["parameters"]}


def _deliver_all_again(left: Left, folder: Path, ready: dict[str, str]) -> dict[str, Any]:
    """Deliver all requests in one batch, and return the result lines by request ID."""
    (folder / "missing.jpg").write_bytes((folder / "alder.jpg").read_bytes())
    fields = ("request_id", "target_action", "region", "resources", "action_parameters")
    lines = [
        json.dumps({field: left.requests[name]["parameters"][field] for field in fields})
        for name in sorted(_in_manifest(left))
    ]
    (folder / "again.jsonl").write_text("\n".join(lines))
    ended = subprocess.run(
        [sys.executable, "-m", "faceid", "batch", "again.jsonl", "--on-unknown-outcome", "stop"],
        cwd=folder,
        env={
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": ready["api_url"],
            "FACEID_ENDPOINT": ready["endpoint"],
            "TENCENTCLOUD_SECRET_ID": ready["secret_id"],
            "TENCENTCLOUD_SECRET_KEY": ready["secret_key"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr  # the calls without an answer
    return {one["request_id"]: one for one in map(json.loads, ended.stdout.splitlines())}


async def test_a_record_of_an_earlier_version_is_read_and_then_written_in_the_new_format(
    left: Left,
):
    path = left.file("verdict-passed")
    before = orjson.loads(path.read_bytes())["format"]
    assert before <= GUARDED_FORMAT
    store = left.store("verdict-passed")
    record = await store.load("verdict-passed")
    assert record is not None
    assert record.verdict is not None
    assert record.verdict.passed

    await store.save(record)

    assert orjson.loads(path.read_bytes())["format"] == GUARDED_FORMAT
    assert await store.load("verdict-passed") == record


async def test_a_record_of_a_later_version_is_refused_and_stays_as_it_is(left: Left):
    path = left.file("verdict-passed")
    later = orjson.loads(path.read_bytes()) | {"format": GUARDED_FORMAT + 1}
    path.write_bytes(orjson.dumps(later))

    with pytest.raises(StorageError, match="this version reads formats 1 and 2") as refused:
        await left.store("verdict-passed").load("verdict-passed")

    assert refused.value.code == "UnknownFormat"
    assert orjson.loads(path.read_bytes()) == later
