"""Reading replies: any bytes result in a reply or in exactly one error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceid.actions import TARGET_ACTIONS
from faceid.errors import (
    AccountError,
    FaceIdError,
    InvalidInput,
    NoAnswer,
    ResourceUnreadable,
    ServiceUnavailable,
    WindowOver,
)
from faceid.models import Reply, Verdict
from faceid.replies import field_of, read_reply, read_store_refusal, read_verdict

HOST = "faceid.example"


def _envelope(**response: Any) -> bytes:
    return json.dumps({"Response": {"RequestId": "r-1", **response}}).encode()


def test_an_answer_is_its_fields():
    reply = read_reply(200, _envelope(Result="Success", Sim=89.88), HOST)
    assert reply == Reply(tencent_request_id="r-1", fields={"Result": "Success", "Sim": 89.88})
    assert "89.88" not in repr(reply)


def test_a_verdict_in_the_error_channel_is_a_reply():
    body = _envelope(Error={"Code": "InternalError.CompareLowSimilarity", "Message": "too low"})
    reply = read_reply(200, body, HOST)
    assert reply.code == "InternalError.CompareLowSimilarity"
    assert read_verdict(TARGET_ACTIONS["VideoLivenessCompare"], reply) == Verdict(
        passed=False, result="InternalError.CompareLowSimilarity", description="too low"
    )


def test_an_error_carries_code_host_and_tencent_request_id():
    body = _envelope(Error={"Code": "AuthFailure.SecretIdNotFound", "Message": "no"})
    with pytest.raises(AccountError) as raised:
        read_reply(200, body, HOST)
    assert raised.value.code == "AuthFailure.SecretIdNotFound"
    assert raised.value.tencent_request_id == "r-1"
    assert raised.value.host == HOST


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, _envelope()),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"Response": null}'),
        (200, b'{"Response": []}'),
        (200, b'{"Response": {}}'),
        (200, b'{"Response": {"RequestId": 1}}'),
        (200, _envelope(Error="no")),
        (200, _envelope(Error={})),
        (200, _envelope()[:-4]),
    ],
)
def test_what_is_not_the_apis_envelope_is_no_answer(status: int, body: bytes):
    with pytest.raises(NoAnswer):
        read_reply(status, body, HOST)


_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_responses = st.fixed_dictionaries(
    {},
    optional={
        "RequestId": st.text(max_size=5) | _json,
        "Error": st.fixed_dictionaries(
            {}, optional={"Code": st.text(max_size=20) | _json, "Message": _json}
        )
        | _json,
        "Result": st.sampled_from(["Success", "0", "-4", "FailedOperation.DownLoadError"]) | _json,
        "Sim": _json,
        "Description": _json,
    },
)


@given(
    status=st.just(200) | st.integers(100, 599),
    body=st.binary(max_size=50)
    | _json.map(lambda value: json.dumps(value).encode())
    | _responses.map(lambda response: json.dumps({"Response": response}).encode()),
    action=st.sampled_from(sorted(TARGET_ACTIONS)),
)
def test_every_reply_is_a_verdict_or_exactly_one_error(status: int, body: bytes, action: str):
    try:
        verdict = read_verdict(TARGET_ACTIONS[action], read_reply(status, body, HOST))
    except FaceIdError:
        return
    assert verdict.passed in (True, False, None)


@pytest.mark.parametrize(
    ("action", "fields", "verdict"),
    [
        (
            "VideoLivenessCompare",
            {"Result": "Success", "Description": "Success", "Sim": 89.88},
            Verdict(passed=True, result="Success", description="Success", similarity=89.88),
        ),
        # The similarity does not matter, whether it is low with a success or high with a failure.
        (
            "VideoLivenessCompare",
            {"Result": "Success", "Sim": 3},
            Verdict(passed=True, result="Success", similarity=3),
        ),
        (
            "DetectReflectLivenessAndCompare",
            {"Result": "FailedOperation.SilentThreshold", "Sim": 99},
            Verdict(passed=False, result="FailedOperation.SilentThreshold", similarity=99),
        ),
        (
            "CheckIdCardInformation",
            {
                "Result": "FailedOperation.OcrWarningOccurred",
                "Description": "OCR alert occurred",
                "Sim": 0,
            },
            Verdict(
                passed=False,
                result="FailedOperation.OcrWarningOccurred",
                description="OCR alert occurred",
                similarity=0,
            ),
        ),
        # Unknown values of `Result` are negative verdicts.
        (
            "LivenessCompare",
            {"Result": "SomethingNew"},
            Verdict(passed=False, result="SomethingNew"),
        ),
        (
            "LivenessCompare",
            {"Result": "FailedOperation.SomethingNew"},
            Verdict(passed=False, result="FailedOperation.SomethingNew"),
        ),
        ("IdCardOCRVerification", {"Result": "0"}, Verdict(passed=True, result="0")),
        ("IdCardOCRVerification", {"Result": "-1"}, Verdict(passed=False, result="-1")),
        ("IdCardOCRVerification", {"Result": "-2"}, Verdict(passed=False, result="-2")),
        ("IdCardOCRVerification", {"Result": "-3"}, Verdict(passed=False, result="-3")),
        ("IdCardOCRVerification", {"Result": "-5"}, Verdict(passed=False, result="-5")),
        (
            "GenerateReflectSequence",
            {"ReflectSequenceUrl": "u", "ReflectSequenceMd5": "m"},
            Verdict(passed=None, result=None),
        ),
        (
            "ApplyWebVerificationToken",
            {"BizToken": "b", "VerificationUrl": "u"},
            Verdict(passed=None, result=None),
        ),
        (
            "ApplyCardVerification",
            {"CardVerificationToken": "t"},
            Verdict(passed=None, result=None),
        ),
    ],
)
def test_how_each_actions_answer_reads(action: str, fields: dict[str, Any], verdict: Verdict):
    reply = Reply(tencent_request_id="r-1", fields=fields)
    assert read_verdict(TARGET_ACTIONS[action], reply) == verdict


@pytest.mark.parametrize(
    ("action", "result", "expected"),
    [
        ("IdCardOCRVerification", "-4", ServiceUnavailable),
        ("IdCardOCRVerification", "-6", ServiceUnavailable),
        ("IdCardOCRVerification", "-7", AccountError),
        ("VideoLivenessCompare", "FailedOperation.DownLoadError", ResourceUnreadable),
        ("VideoLivenessCompare", "FailedOperation.LivessSystemError", ServiceUnavailable),
        ("VideoLivenessCompare", "FailedOperation.VideoDecodeFailed", InvalidInput),
        ("VideoLivenessCompare", "InternalError", ServiceUnavailable),
        ("VideoLivenessCompare", None, NoAnswer),
        ("VideoLivenessCompare", 7, NoAnswer),
    ],
)
def test_a_result_that_is_no_verdict_is_its_error(
    action: str, result: Any, expected: type[FaceIdError]
):
    reply = Reply(tencent_request_id="r-1", fields={"Result": result})
    with pytest.raises(expected) as raised:
        read_verdict(TARGET_ACTIONS[action], reply)
    assert type(raised.value) is expected
    assert raised.value.tencent_request_id == "r-1"


def test_a_store_refusal_is_read_from_its_xml():
    body = (
        b"<?xml version='1.0' encoding='utf-8' ?><Error><Code>AccessDenied</Code>"
        b"<Message>Request has expired</Message><Resource>b/k</Resource></Error>"
    )
    error = read_store_refusal(403, body, HOST)
    assert type(error) is WindowOver
    assert error.code == "AccessDenied"
    assert error.host == HOST


@given(status=st.integers(300, 599), body=st.binary(max_size=80))
def test_any_store_refusal_is_exactly_one_error(status: int, body: bytes):
    assert isinstance(read_store_refusal(status, body, HOST), FaceIdError)


def test_a_field_is_found_by_its_dotted_name():
    reply = Reply(tencent_request_id="r", fields={"BestFrame": {"Url": "u"}, "Sim": 1})
    assert field_of(reply, "BestFrame.Url") == "u"
    assert field_of(reply, "BestFrame.MD5") is None
    assert field_of(reply, "Sim.Url") is None
