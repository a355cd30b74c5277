"""Parameters of a call that are missing or unknown, or have a wrong type or value."""

import base64
from typing import Any

import pytest
from emulator_calls import JPEG, MP4, Caller
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceid.actions import CREATE_UPLOAD_URL, TARGET_ACTIONS
from faceid.emulator import Emulator, EmulatorControl

MD5 = "0" * 32
VIDEO = {
    "ImageUrl": "http://nowhere.test/a",
    "ImageMd5": MD5,
    "VideoUrl": "http://nowhere.test/b",
    "VideoMd5": MD5,
    "LivenessType": "SILENT",
}
NOT_FETCHED = "FailedOperation.DownLoadError"


def changed(**changes: Any) -> dict[str, Any]:
    """Return ``VIDEO`` with changes; the value ``...`` removes a field."""
    return {name: value for name, value in {**VIDEO, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        (changed(), NOT_FETCHED),
        (changed(ImageUrl=...), "MissingParameter"),
        (changed(ImageUrl=None), "MissingParameter"),
        (changed(ImageMd5=...), "MissingParameter"),
        (changed(VideoMd5=...), "MissingParameter"),
        (changed(LivenessType=...), "MissingParameter"),
        (changed(Extra="1"), "UnknownParameter"),
        (changed(ImageBase64="aaaa"), "UnknownParameter"),
        (changed(ImageUrl=...) | {"Extra": "1"}, "MissingParameter"),
        (changed(ImageUrl=1), "InvalidParameter"),
        (changed(LivenessType=["LIP"]), "InvalidParameter"),
        (changed(ImageUrl=""), "InvalidParameterValue"),
        (changed(ImageMd5="5d41402abc4b2a76"), "InvalidParameterValue"),
        (changed(ImageMd5="XUFAKrxLKna5cZ2REBfFkg=="), "InvalidParameterValue"),
        (changed(LivenessType="SMILE"), "InvalidParameterValue"),
        (changed(ValidateData="1234"), "InvalidParameterValue"),
        (changed(ValidateData=""), NOT_FETCHED),
        (changed(LivenessType="LIP"), "MissingParameter"),
        (changed(LivenessType="LIP", ValidateData="1234"), NOT_FETCHED),
        (changed(LivenessType="LIP", ValidateData="123"), "InvalidParameterValue"),
        (changed(LivenessType="LIP", ValidateData="12345"), "InvalidParameterValue"),
        (changed(LivenessType="ACTION", ValidateData="1,2"), NOT_FETCHED),
        (changed(LivenessType="ACTION", ValidateData="2,1"), NOT_FETCHED),
        (changed(LivenessType="ACTION", ValidateData="1,3"), "InvalidParameterValue"),
    ],
)
def test_video_liveness_compare(caller: Caller, parameters: dict[str, Any], code: str) -> None:
    assert caller.code("VideoLivenessCompare", parameters) == code


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("CreateUploadUrl", {}, "MissingParameter"),
        ("CreateUploadUrl", {"TargetAction": None}, "MissingParameter"),
        ("CreateUploadUrl", {"TargetAction": 1}, "InvalidParameter"),
        ("CreateUploadUrl", {"TargetAction": "DoSomething"}, "InvalidParameterValue"),
        ("CreateUploadUrl", {"TargetAction": "LivenessCompare", "A": 1}, "UnknownParameter"),
        ("DetectReflectLivenessAndCompare", {}, "MissingParameter"),
        ("GenerateReflectSequence", {"DeviceDataUrl": "u"}, "MissingParameter"),
        (
            "GenerateReflectSequence",
            {"DeviceDataUrl": "u", "DeviceDataMd5": MD5, "SecurityLevel": "5"},
            "InvalidParameterValue",
        ),
        ("LivenessCompare", {"LivenessType": "SILENT"}, "MissingParameter"),
        ("LivenessCompare", {"LivenessType": "SILENT", "ImageUrl": "u"}, "MissingParameter"),
        ("CheckIdCardInformation", {}, "MissingParameter"),
        ("CheckIdCardInformation", {"ImageUrl": "u", "IsEncrypt": "yes"}, "InvalidParameter"),
        ("CheckIdCardInformation", {"ImageUrl": "u", "Config": "[]"}, "InvalidParameterValue"),
        (
            "CheckIdCardInformation",
            {"ImageUrl": "u", "Config": "[" * 9**5},
            "InvalidParameterValue",
        ),
        ("CheckIdCardInformation", {"ImageUrl": "u", "Config": "{"}, "InvalidParameterValue"),
        ("CheckIdCardInformation", {"ImageUrl": "u", "Encryption": "x"}, "InvalidParameter"),
        ("IdCardOCRVerification", {}, "MissingParameter"),
        ("IdCardOCRVerification", {"IdCard": "1"}, "MissingParameter"),
        ("IdCardOCRVerification", {"IdCard": "1", "Name": 2}, "InvalidParameter"),
        ("ApplyWebVerificationToken", {"RedirectUrl": "https://a.test"}, "MissingParameter"),
    ],
)
def test_other_actions(caller: Caller, action: str, parameters: dict[str, Any], code: str) -> None:
    assert caller.code(action, parameters) == code


def test_the_optional_json_of_liveness_compare(caller: Caller) -> None:
    inline = {
        "ImageBase64": base64.b64encode(JPEG).decode(),
        "VideoBase64": base64.b64encode(MP4).decode(),
        "LivenessType": "SILENT",
    }
    answer = caller.call("LivenessCompare", {**inline, "Optional": '{"BestFrameNum": 3}'})
    assert len(answer["BestFrameList"]) == 3
    for wrong in ('{"BestFrameNum": 11}', '{"BestFrameNum": "x"}', "[]"):
        code = caller.code("LivenessCompare", {**inline, "Optional": wrong})
        assert code == "InvalidParameterValue"


@pytest.mark.parametrize(
    "action", ["LivenessCompare", "IdCardOCRVerification", "CheckIdCardInformation"]
)
def test_where_no_region_is_needed(caller: Caller, action: str) -> None:
    assert caller.code(action, {}, region="") == "MissingParameter"
    assert caller.code(action, {}, region="ap-guangzhou") == "UnsupportedRegion"


def test_refused_calls_reach_no_action_and_cost_no_rate(caller: Caller) -> None:
    for _ in range(30):
        caller.code("CreateUploadUrl", {})
    assert caller.ticket()
    stats = EmulatorControl(caller.url).stats()
    assert stats["calls"] == {"CreateUploadUrl": 1}
    assert stats["errors"] == {"MissingParameter": 30}
    assert stats["throttled"] == {}


FIELDS = sorted(
    {
        name
        for action in TARGET_ACTIONS.values()
        for name in (
            *(field.name for field in action.resources),
            *(field.inline or "" for field in action.resources),
            *(parameter.name for parameter in action.parameters),
            *action.md5_fields,
            *action.personal_parameters,
        )
    }
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=30)
    | st.sampled_from([MD5, "LIP", "SILENT", "1234", "{}", "[]", "http://a.test/?q-ak=x", "AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    action=st.sampled_from([CREATE_UPLOAD_URL, *TARGET_ACTIONS]),
    parameters=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES)
    | st.fixed_dictionaries(dict.fromkeys(("ImageUrl", "LivenessType", "VideoUrl"), VALUES)),
)
def test_whatever_is_sent_there_is_an_envelope(
    emulator: Emulator, caller: Caller, action: str, parameters: dict[str, Any]
) -> None:
    emulator.reset()  # so that no rate limit is reached
    answer = caller.call(action, parameters)
    if "Error" in answer:
        assert answer["Error"]["Message"]
        assert emulator.stats()["errors"][answer["Error"]["Code"]] == 1
