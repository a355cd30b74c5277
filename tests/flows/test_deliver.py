"""The flow ``deliver``: every outcome, and what users can see of it."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prefect import get_client

from faceid.emulator import Emulator
from faceid.models import DeliveryFailed, DeliveryResult
from flows.deliver import deliver
from tests.flows.deliveries import Deliver, artifact_of, task_runs_of
from tests.sample_request import REQUEST
from tests.waiting import wait_until


async def test_a_request_gets_its_verdict(run_deliver: Deliver, emulator: Emulator):
    state, result, run = await run_deliver()

    assert state.is_completed()
    assert state.message == "verdict: passed, Success [emulator]"
    assert result.status == "verdict"
    assert result.service == "emulator"
    assert result.verdict is not None
    assert result.verdict.passed is True
    assert result.verdict.similarity == 89.88
    assert result.error is None
    assert (result.windows, result.calls) == (1, 1)
    assert len(result.tencent_request_ids) == 3
    assert result.started_at < result.finished_at
    assert run.name == "deliver r-1"
    assert set(run.tags) == {
        "request:r-1",
        "service:emulator",
        "outcome:verdict",
        "verdict:passed",
    }
    calls = emulator.stats()["calls"]
    assert calls == {
        "CreateUploadUrl": 2,
        "PutObject": 2,
        "VideoLivenessCompare": 1,
        "GetObject": 2,
    }
    logged = {entry["tencent_request_id"] for entry in emulator.requests()}
    assert set(result.tencent_request_ids) <= logged


async def test_the_result_object_stands_in_the_artifact(run_deliver: Deliver):
    _, result, run = await run_deliver()
    artifact = await artifact_of(run)
    assert json.loads(artifact.data) == [result.model_dump(mode="json")]
    assert set(json.loads(artifact.data)[0]) == {
        "request_id",
        "service",
        "status",
        "target_action",
        "verdict",
        "error",
        "tencent_request_ids",
        "windows",
        "calls",
        "started_at",
        "finished_at",
        "flow_run_id",
    }


async def test_the_graph_is_the_way_of_the_data(run_deliver: Deliver, prefect_api: str):
    _, _, run = await run_deliver()

    async def graph() -> dict[str, set[str]] | None:
        async with httpx.AsyncClient() as http:
            reply = await http.get(f"{prefect_api}/flow_runs/{run.id}/graph-v2")
        nodes: dict[str, Any] = dict(reply.json()["nodes"])
        labels = {key: node["label"] for key, node in nodes.items()}
        if len(labels) < 6 or any(node["state_type"] != "COMPLETED" for node in nodes.values()):
            return None
        return {
            node["label"]: {labels[parent["id"]] for parent in node["parents"]}
            for node in nodes.values()
        }

    assert await wait_until(graph, "all task runs in the graph") == {
        "ticket ImageUrl": set(),
        "ticket VideoUrl": set(),
        "upload ImageUrl": {"ticket ImageUrl"},
        "upload VideoUrl": {"ticket VideoUrl"},
        "check expiry": {"upload ImageUrl", "upload VideoUrl"},
        "call VideoLivenessCompare": {"check expiry"},
    }


@pytest.mark.parametrize(
    "fault",
    ["api:FailedOperation.CompareLowSimilarity", "result:FailedOperation.CompareLowSimilarity"],
)
async def test_a_negative_verdict_is_a_success_of_the_delivery(
    run_deliver: Deliver, emulator: Emulator, fault: str
):
    emulator.add_fault("VideoLivenessCompare", fault)
    state, result, run = await run_deliver()
    assert state.is_completed()
    assert state.message == ("verdict: not passed, FailedOperation.CompareLowSimilarity [emulator]")
    assert result.verdict is not None
    assert result.verdict.passed is False
    assert result.verdict.result == "FailedOperation.CompareLowSimilarity"
    assert "verdict:refused" in run.tags
    assert result.calls == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_id": "r 1"}, "request_id: must be"),
        ({"request_id": "r-1\n"}, "request_id: must be"),
        ({"resources": {"ImageUrl": "alder.jpg"}}, "resource VideoUrl is missing"),
        (
            {"resources": {"ImageUrl": "none.jpg", "VideoUrl": "alder.mp4"}},
            "resource ImageUrl: there is no such file",
        ),
        ({"action_parameters": {"LivenessType": "WINK"}}, "LivenessType must be"),
        (
            {"credentials": "nobody"},
            "the block tencent-credentials/nobody does not exist; create it first",
        ),
    ],
)
async def test_wrong_input_fails_before_anything_is_sent(
    run_deliver: Deliver, emulator: Emulator, changes: dict[str, Any], message: str
):
    state, result, run = await run_deliver(**changes)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("invalid-input: ")
    assert message in state.message
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.kind == "input"
    assert (result.windows, result.calls) == (0, 0)
    assert {"outcome:invalid-input", "verdict:none"} <= set(run.tags)
    assert emulator.requests() == []


async def test_missing_credentials_are_told(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TENCENTCLOUD_SECRET_KEY")
    _, result, _ = await run_deliver()
    assert result.error is not None
    assert result.error.code == "MissingCredentials"
    assert emulator.requests() == []


async def test_a_wrong_key_is_told_with_its_code_and_not_retried(
    run_deliver: Deliver,
    emulator: Emulator,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", "EXAMPLE-not-the-key")
    state, result, _ = await run_deliver()
    assert result.error is not None
    assert result.error.kind == "account"
    assert result.error.code == "AuthFailure.SignatureFailure"
    assert state.message is not None
    assert "Check TENCENTCLOUD_SECRET_KEY" in state.message
    assert result.windows == 1
    assert result.calls == 0
    assert emulator.stats()["errors"] == {"AuthFailure.SignatureFailure": 1}
    assert "Failed to write result" not in caplog.text
    assert not (samples / "storage" / "cache").exists()


async def test_a_plain_call_returns_the_result_or_raises_it(
    run_deliver: Deliver, emulator: Emulator
):
    result = await cast("Any", deliver)(**REQUEST)
    assert isinstance(result, DeliveryResult)
    with pytest.raises(DeliveryFailed, match="LivenessType is missing") as raised:
        await cast("Any", deliver)(**REQUEST | {"action_parameters": {}})
    assert raised.value.result.status == "failed"


@pytest.mark.parametrize(
    ("op", "fault", "step"),
    [
        ("CreateUploadUrl", "api:RequestLimitExceeded", "ticket ImageUrl"),
        ("CreateUploadUrl", "http:502", "ticket ImageUrl"),
        ("PutObject", "http:503", "upload ImageUrl"),
        ("PutObject", "reset", "upload ImageUrl"),
        ("PutObject", "bad-etag", "upload ImageUrl"),
        ("PutObject", "api:RequestTimeout", "upload ImageUrl"),
        ("VideoLivenessCompare", "api:InternalError", "call VideoLivenessCompare"),
        ("VideoLivenessCompare", "api:RequestLimitExceeded", "call VideoLivenessCompare"),
        ("VideoLivenessCompare", "result:FailedOperation.LivessSystemError", "call VideoLi"),
    ],
)
async def test_what_time_can_mend_is_retried_in_the_dashboards_sight(
    run_deliver: Deliver, emulator: Emulator, op: str, fault: str, step: str
):
    emulator.add_fault(op, fault, times=2)
    _, result, run = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 1

    async def two_more() -> bool:
        counts = [task.run_count for task in await task_runs_of(run)]
        return len(counts) == 6 and sum(counts) == 8

    # The two faults cause two tries in addition to one for each step.
    await wait_until(two_more, "all tries of all task runs")


async def test_calls_count_what_was_sent_and_not_throttled(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault("VideoLivenessCompare", "api:RequestLimitExceeded", times=2)
    emulator.add_fault("VideoLivenessCompare", "api:InternalError", times=1)
    emulator.add_fault("VideoLivenessCompare", "commit-then-reset", times=1)
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.calls == emulator.stats()["calls"]["VideoLivenessCompare"] == 3


async def test_what_stays_down_waits_and_is_given_up_as_unavailable(
    run_deliver: Deliver, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    emulator.add_fault("CreateUploadUrl", "http:503", times=0)
    state, result, run = await run_deliver()
    assert state.is_completed()
    assert state.message is not None
    assert state.message.startswith("rerequested: no run is scheduled; deliver the same request")
    assert "HTTP 503" in state.message
    assert result.status == "waiting"
    assert (result.error, result.verdict, result.calls) == (None, None, 0)
    assert "outcome:rerequested" in run.tags
    assert "verdict:none" in run.tags

    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "0")
    state, result, run = await run_deliver()
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("unavailable: HTTP 503")
    assert result.error is not None
    assert result.error.kind == "unavailable"
    assert "outcome:unavailable" in run.tags
    assert result.calls == 0


@pytest.mark.parametrize(("seconds", "tries"), [("0", 1), ("2.9", 2), ("60", 7), ("100", 8)])
async def test_a_run_waits_as_long_as_it_is_told(
    run_deliver: Deliver,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    seconds: str,
    tries: int,
):
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", seconds)
    emulator.add_fault("VideoLivenessCompare", "http:503", times=0)
    _, result, _ = await run_deliver()
    assert result.status == "waiting"
    assert emulator.stats()["calls"]["VideoLivenessCompare"] == tries


async def test_what_the_service_says_of_the_input_is_not_retried(
    run_deliver: Deliver, emulator: Emulator
):
    emulator.add_fault("VideoLivenessCompare", "api:FailedOperation.VideoDecodeFailed")
    _, result, _ = await run_deliver()
    assert result.error is not None
    assert result.error.kind == "input"
    assert result.calls == 1
    assert emulator.stats()["calls"]["VideoLivenessCompare"] == 1


@pytest.mark.parametrize("op", ["CreateUploadUrl", "PutObject"])
async def test_a_window_that_is_over_is_opened_again(
    run_deliver: Deliver, emulator: Emulator, op: str
):
    """The ticket has expired when it arrives, or the store refuses the PUT as expired."""
    emulator.add_fault(op, "expire-now")
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert (result.windows, result.calls) == (2, 1)


async def test_a_refused_url_is_asked_for_afresh_once(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault(
        "PutObject", "api:SignatureDoesNotMatch", match={"target_action": "VideoLivenessCompare"}
    )
    _, result, _ = await run_deliver()
    assert result.status == "verdict"
    assert result.windows == 2

    emulator.add_fault("PutObject", "api:SignatureDoesNotMatch", times=0)
    _, result, _ = await run_deliver(request_id="r-2")
    assert result.error is not None
    assert result.error.kind == "unavailable"
    assert result.error.code == "SignatureDoesNotMatch"
    assert result.windows == 2


async def test_windows_are_bounded(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault("CreateUploadUrl", "expire-now", times=0)
    state, result, run = await run_deliver(max_windows=2)
    assert state.message is not None
    assert state.message.startswith("windows-used-up: WindowOver: resource ImageUrl: the upload")
    assert result.error is not None
    assert result.error.kind == "expired"
    assert result.windows == 2
    assert "outcome:windows-used-up" in run.tags
    assert "PutObject" not in emulator.stats()["calls"]


async def test_a_lost_answer_is_called_again_or_not(run_deliver: Deliver, emulator: Emulator):
    emulator.add_fault("VideoLivenessCompare", "commit-then-reset", times=2)

    state, result, run = await run_deliver(on_unknown_outcome="stop")
    assert state.message is not None
    assert state.message.startswith("outcome-unknown: ")
    assert result.error is not None
    assert result.error.kind == "unknown"
    assert result.calls == 1
    assert "outcome:outcome-unknown" in run.tags

    _, result, _ = await run_deliver(request_id="r-2", on_unknown_outcome="call_again")
    assert result.status == "verdict"
    assert result.calls == 2


PHOTO = {"ImageUrl": "alder.jpg"}


@pytest.mark.parametrize(
    ("action", "resources", "parameters", "passed"),
    [
        (
            "DetectReflectLivenessAndCompare",
            {"LiveDataUrl": "live.gz", "ImageUrl": "alder.jpg"},
            {},
            True,
        ),
        ("GenerateReflectSequence", {"DeviceDataUrl": "device.b64"}, {"SecurityLevel": "4"}, None),
        (
            "LivenessCompare",
            {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
            {"LivenessType": "LIP", "ValidateData": "0420"},
            True,
        ),
        ("CheckIdCardInformation", PHOTO, {"IsEncrypt": "false"}, True),
        ("IdCardOCRVerification", PHOTO, {}, True),
        (
            "ApplyWebVerificationToken",
            {"CompareImageUrl": "alder.jpg"},
            {"RedirectUrl": "https://shop.example/back"},
            None,
        ),
    ],
)
async def test_every_action_is_delivered(
    run_deliver: Deliver,
    emulator: Emulator,
    samples: Path,
    action: str,
    resources: dict[str, str],
    parameters: dict[str, str],
    passed: bool | None,
):
    (samples / "live.gz").write_bytes(gzip.compress(b"{}"))
    (samples / "device.b64").write_bytes(base64.b64encode(b'{"device": 1}'))
    state, result, run = await run_deliver(
        target_action=action, resources=resources, action_parameters=parameters
    )
    assert state.is_completed(), state
    assert result.verdict is not None
    assert result.verdict.passed is passed
    assert emulator.stats()["calls"][action] == 1
    assert f"verdict:{'passed' if passed else 'none'}" in run.tags


async def test_a_withdrawn_action_is_sent_with_a_warning_and_the_service_decides(
    run_deliver: Deliver, emulator: Emulator, caplog: pytest.LogCaptureFixture
):
    _, result, _ = await run_deliver(
        target_action="ApplyCardVerification",
        resources={"ImageUrlFront": "alder.jpg"},
        action_parameters={"Nationality": "HKG", "CardType": "ID_CARD"},
    )
    assert result.error is not None
    assert result.error.code == "ActionOffline"
    assert result.error.kind == "input"
    assert "The vendor has withdrawn this action" in result.error.message
    assert "withdrawn from the vendor's SDKs" in caplog.text


async def test_tags_that_stand_there_are_kept(run_deliver: Deliver):
    from prefect import tags

    with tags("tenant:blue"):
        _, _, run = await run_deliver()
    assert "tenant:blue" in run.tags


async def test_nothing_is_left_open_for_the_next(prefect_api: str):
    async with get_client() as client:
        assert (await client.api_healthcheck()) is None
