"""``faceid status`` and ``faceid answer`` print what is stored about requests."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from prefect.settings import PREFECT_API_URL, temporary_settings

from faceid.emulator import Emulator
from tasks.credentials import TencentCredentials
from tasks.state.spill import take_up
from tests.deployments.command_line import Ended, deliver_tokens
from tests.flows.deployed import Worker, next_run
from tests.flows.helpers import start_deliver
from tests.tasks.spilled_answers import open_both, spilled
from tests.waiting import until

Faceid = Callable[..., Ended]
ACTION = "VideoLivenessCompare"


@pytest.fixture
def delivered(
    faceid: Faceid, emulator: Emulator, prefect_api: str
) -> Callable[..., dict[str, Any]]:
    """A function that runs ``faceid deliver``, and returns the result object."""

    def deliver(**changes: Any) -> dict[str, Any]:
        return json.loads(faceid(*deliver_tokens(**changes)).out)

    return deliver


def test_status_tells_a_verdict(faceid: Faceid, delivered: Callable[..., dict[str, Any]]):
    result = delivered()
    code, out, err = faceid("status", "r-1")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown.pop("updated_at")
    assert shown == {
        "request_id": "r-1",
        "state": "verdict",
        "target_action": ACTION,
        "region": "ap-singapore",
        "windows": 1,
        "calls": 1,
        "verdict": result["verdict"],
        "error": None,
        "tencent_request_ids": result["tencent_request_ids"],
        "flow_runs": [{"flow_run_id": result["flow_run_id"], "window": 1, "outcome": "verdict"}],
        "next": None,
    }


def test_status_tells_of_an_answer_that_waits_for_the_storage(
    faceid: Faceid, emulator: Emulator, samples: Path
):
    store, spill = open_both()
    asyncio.run(spilled(store, spill, samples / "storage"))
    code, out, err = faceid("status", "r-1")
    assert (code, json.loads(out)["state"]) == (0, "outcome-unknown")
    assert err == (
        f"faceid: an answer to r-1 lies encrypted in {spill.folder}; the next run of the request "
        "or the next sweep on this machine stores it\n"
    )
    asyncio.run(take_up(spill, store, "r-1"))
    code, out, err = faceid("status", "r-1")
    assert (code, err) == (0, "")
    assert json.loads(out)["verdict"]["passed"] is True


def test_status_knows_a_request_by_its_tencent_request_ids(
    faceid: Faceid, delivered: Callable[..., dict[str, Any]]
):
    delivered()
    second = delivered(request_id="r-2")
    for tencent_request_id in second["tencent_request_ids"]:
        code, out, _ = faceid("status", tencent_request_id)
        assert code == 0
        assert json.loads(out)["request_id"] == "r-2"


def test_status_tells_a_failure_and_its_runs(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]]
):
    emulator.add_fault(ACTION, "api:FailedOperation.ImageDecodeFailed", times=2)
    runs = [delivered()["flow_run_id"], delivered()["flow_run_id"]]
    code, out, _ = faceid("status", "r-1")
    assert code == 0
    shown = json.loads(out)
    assert shown["state"] == "invalid-input"
    assert shown["verdict"] is None
    assert shown["error"]["code"] == "FailedOperation.ImageDecodeFailed"
    assert (shown["windows"], shown["calls"]) == (1, 2)
    assert [run["flow_run_id"] for run in shown["flow_runs"]] == runs
    assert [run["outcome"] for run in shown["flow_runs"]] == ["invalid-input"] * 2


def test_status_tells_who_is_at_work_and_who_was(
    faceid: Faceid, emulator: Emulator, prefect_api: str
):
    emulator.add_fault(ACTION, "stall:60")
    process = start_deliver(prefect_api, "r-1")
    try:
        until(lambda: emulator.stats()["calls"].get(ACTION), "the call")
        _, out, _ = faceid("status", "r-1")
        assert json.loads(out)["state"] == "at work"
    finally:
        process.kill()
        process.communicate()
    _, out, _ = faceid("status", "r-1")
    assert json.loads(out)["state"] == "outcome-unknown"

    emulator.clear_faults()
    # Not `stall`: it sends the headers first, which complete an answer without a body.
    emulator.add_fault("PutObject", "delay:60")
    process = start_deliver(prefect_api, "r-2")
    try:
        until(lambda: emulator.stats()["calls"]["PutObject"] > 2, "an upload")
    finally:
        process.kill()
        process.communicate()
    _, out, _ = faceid("status", "r-2")
    assert json.loads(out)["state"] == "interrupted"


def test_status_tells_what_comes_next(
    faceid: Faceid,
    emulator: Emulator,
    samples: Path,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", str(samples))
    emulator.add_fault(ACTION, "expire-now")

    async def deliver() -> tuple[str, str]:
        worker = await Worker.of_a_deployment(prefect_api)
        state = await worker.deliver()
        await worker.leave_nothing()
        return worker.request_id, next_run(state)[0]

    request_id, follow_up = asyncio.run(deliver())
    _, out, _ = faceid("status", request_id)
    shown = json.loads(out)
    assert (shown["state"], shown["windows"]) == ("rerequested", 2)
    assert shown["next"]["flow_run_id"] == follow_up
    assert shown["next"]["due"]
    assert [run["outcome"] for run in shown["flow_runs"]] == ["rerequested"]


def test_status_tells_an_unknown_outcome(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]]
):
    emulator.add_fault(ACTION, "commit-then-reset")
    delivered(on_unknown_outcome="stop")
    code, out, _ = faceid("status", "r-1")
    assert code == 0
    assert json.loads(out)["state"] == "outcome-unknown"
    assert json.loads(out)["error"]["kind"] == "unknown"


def test_status_says_what_is_not_known_and_tells_the_rest(
    faceid: Faceid, delivered: Callable[..., dict[str, Any]]
):
    delivered()
    code, out, err = faceid("status", "r-9", "r-1")
    assert code == 1
    assert err == "faceid: nothing is known about r-9\n"
    assert json.loads(out)["request_id"] == "r-1"


def test_nothing_secret_is_in_a_status(faceid: Faceid, delivered: Callable[..., dict[str, Any]]):
    delivered()
    _, out, _ = faceid("status", "r-1")
    for secret in ("http", "q-sign", "BestFrame", "alder"):
        assert secret not in out


def test_answer_prints_the_whole_answer(faceid: Faceid, delivered: Callable[..., dict[str, Any]]):
    result = delivered()
    code, out, err = faceid("answer", "r-1")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert set(answer) == {"Result", "Description", "BestFrame", "Sim", "RequestId"}
    assert answer["BestFrame"]["Url"].startswith("http")
    assert answer["Sim"] == result["verdict"]["similarity"]
    assert answer["RequestId"] in result["tencent_request_ids"]


def test_answer_prints_a_verdict_that_came_as_an_error(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]]
):
    emulator.add_fault(ACTION, "api:FailedOperation.CompareLowSimilarity")
    result = delivered()
    code, out, _ = faceid("answer", "r-1")
    assert code == 0
    answer = json.loads(out)
    assert answer["Error"]["Code"] == "FailedOperation.CompareLowSimilarity"
    assert set(answer["Error"]) == {"Code", "Message"}
    assert answer["RequestId"] in result["tencent_request_ids"]


def test_answer_says_when_there_is_none(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]]
):
    emulator.add_fault(ACTION, "api:FailedOperation.ImageDecodeFailed")
    delivered()
    for request_id in ("r-1", "r-9"):
        assert faceid("answer", request_id) == Ended(
            1, "", f"faceid: no answer is stored for {request_id}\n"
        )


@pytest.mark.parametrize("command", ["status", "answer"])
def test_a_wrong_key_gets_one_line(
    faceid: Faceid,
    delivered: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
):
    delivered()
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    code, out, err = faceid(command, "r-1")
    assert (code, out) == (1, "")
    assert err.startswith("faceid: CannotDecrypt: records/emulator/default/")
    assert "encrypted with a key that is not configured" in err
    assert "FACEID_DATA_KEY" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "answer"])
def test_live_without_a_key_gets_one_line(
    faceid: Faceid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
):
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    code, out, err = faceid(command, "r-1")
    assert (code, out) == (2, "")
    assert "FACEID_DATA_KEY is not set" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "storage").exists()


def test_deliver_needs_no_files_once_there_is_a_verdict(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]], samples: Path
):
    first = delivered()
    sent = emulator.requests()
    (samples / "alder.jpg").unlink()
    (samples / "alder.mp4").unlink()
    code, out, _ = faceid(*deliver_tokens())
    assert code == 0
    assert json.loads(out)["verdict"] == first["verdict"]
    assert emulator.requests() == sent


def test_deliver_tells_a_conflict_with_exit_code_2(
    faceid: Faceid, emulator: Emulator, delivered: Callable[..., dict[str, Any]]
):
    delivered()
    sent = emulator.requests()
    other = ["ImageUrl=birch.jpg", "VideoUrl=alder.mp4"]
    code, out, err = faceid(*deliver_tokens(resource=other))
    assert (code, out) == (2, "")
    assert "RequestIdConflict: " in err
    assert "Use a different request ID for each input." in err
    assert emulator.requests() == sent


def test_requests_that_a_block_delivered_are_found_by_its_name(
    faceid: Faceid, emulator: Emulator, prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    name = f"kiosk-{uuid4().hex[:8]}"  # other tests use the same server
    key = {"secret_id": emulator.secret_id, "secret_key": emulator.secret_key}
    own = {"endpoint": emulator.url, "account": "kiosk", "region": "ap-hongkong"}
    TencentCredentials.model_validate(key | own).save("of-records", overwrite=True)
    for variable in ("FACEID_ENDPOINT", "TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    block = ("--credentials", "of-records")
    code, out, err = faceid(*deliver_tokens(request_id=name, credentials="of-records", region=None))
    assert (code, json.loads(out)["service"]) == (0, "emulator"), err
    assert "emulator service" in err

    assert faceid("status", name).code == 1  # the live service has no such request
    code, out, _ = faceid("status", name, *block)
    assert (code, json.loads(out)["state"], json.loads(out)["region"]) == (
        0,
        "verdict",
        "ap-hongkong",
    )
    assert faceid("answer", name).code == 1
    assert json.loads(faceid("answer", name, *block).out)["Result"] == "Success"
    assert faceid("forget", name).code == 1
    code, out, _ = faceid("forget", name, *block)
    assert (code, json.loads(out)["flow_runs"]) == (0, 1)
    assert faceid("status", name, *block).code == 1


@pytest.mark.parametrize(
    "tokens",
    [
        deliver_tokens(credentials="nobody"),
        ("batch", "people.jsonl", "--credentials", "nobody"),
        ("status", "r-1", "--credentials", "nobody"),
        ("answer", "r-1", "--credentials", "nobody"),
        ("forget", "r-1", "--credentials", "nobody"),
    ],
)
def test_a_block_that_is_not_there_is_told_at_once(
    faceid: Faceid, emulator: Emulator, prefect_api: str, tokens: tuple[str, ...]
):
    code, out, err = faceid(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith(
        "faceid: MissingCredentials: the block tencent-credentials/nobody does not exist"
    )
    assert len(err.splitlines()) == 1
    with temporary_settings({PREFECT_API_URL: None}):
        assert "set PREFECT_API_URL to its API" in faceid(*tokens).err
    assert emulator.requests() == []
