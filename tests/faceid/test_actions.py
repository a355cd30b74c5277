"""The table of target actions, and the validation of parameters against it."""

import json
from pathlib import Path

import pytest

from faceid.actions import (
    MB,
    TARGET_ACTIONS,
    UPLOAD_REGIONS,
    check_parameters,
    find_action,
    load_actions,
)
from faceid.errors import InvalidInput

VIDEO = TARGET_ACTIONS["VideoLivenessCompare"]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"LivenessType": "SILENT"}, {"LivenessType": "SILENT"}),
        ({"LivenessType": "SILENT", "ValidateData": ""}, {"LivenessType": "SILENT"}),
        (
            {"LivenessType": "LIP", "ValidateData": "0420"},
            {"LivenessType": "LIP", "ValidateData": "0420"},
        ),
        (
            {"LivenessType": "ACTION", "ValidateData": "2,1"},
            {"LivenessType": "ACTION", "ValidateData": "2,1"},
        ),
    ],
)
def test_right_parameters_are_sent_as_given(given: dict[str, str], sent: dict[str, str]):
    assert check_parameters(VIDEO, given) == sent


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "LivenessType is missing; it must be LIP or ACTION or SILENT"),
        ({"LivenessType": "silent"}, "LivenessType must be LIP or ACTION or SILENT"),
        ({"LivenessType": "LIP"}, "ValidateData is missing; it must be 4 digits"),
        ({"LivenessType": "LIP", "ValidateData": "123"}, "ValidateData must be 4 digits"),
        ({"LivenessType": "LIP", "ValidateData": "1234\n"}, "ValidateData must be 4 digits"),
        ({"LivenessType": "ACTION", "ValidateData": "1,1"}, "ValidateData must be"),
        ({"LivenessType": "SILENT", "ValidateData": "1234"}, "ValidateData must be"),
        ({"LivenessType": "SILENT", "Shoe": "44"}, "Shoe is not a parameter of Video"),
        ({"LivenessType": "SILENT", "ImageMd5": "0"}, "ImageMd5 is computed from the file"),
        ({"LivenessType": "SILENT", "ImageUrl": "a"}, "ImageUrl is a resource"),
        ({"LivenessType": "SILENT", "ImageBase64": "a"}, "ImageBase64 contains personal data"),
    ],
)
def test_wrong_parameters_are_refused_with_the_reason(given: dict[str, str], message: str):
    with pytest.raises(InvalidInput, match=message):
        check_parameters(VIDEO, given)


@pytest.mark.parametrize("name", ["IdCard", "Name"])
def test_a_persons_data_is_refused_as_a_parameter(name: str):
    with pytest.raises(InvalidInput, match="contains personal data") as refused:
        check_parameters(TARGET_ACTIONS["IdCardOCRVerification"], {name: "Kim Example"})
    assert "Kim" not in str(refused.value)


def test_parameters_get_the_types_of_the_api():
    action = TARGET_ACTIONS["CheckIdCardInformation"]
    given = {
        "Config": '{"CopyWarn": true}',
        "IsEncrypt": "true",
        "Encryption": '{"Algorithm": "AES-256-CBC"}',
    }
    assert check_parameters(action, given) == {
        "Config": '{"CopyWarn": true}',  # the API expects text
        "IsEncrypt": True,
        "Encryption": {"Algorithm": "AES-256-CBC"},
    }
    for wrong in ({"IsEncrypt": "1"}, {"Config": "{"}, {"Encryption": "[]"}):
        with pytest.raises(InvalidInput, match="must be"):
            check_parameters(action, wrong)


def test_every_action_of_the_fact_sheet_stands_in_the_table():
    md5_fields = {
        name: {field.name: field.md5_field for field in action.resources}
        for name, action in TARGET_ACTIONS.items()
    }
    assert md5_fields == {
        "VideoLivenessCompare": {"ImageUrl": "ImageMd5", "VideoUrl": "VideoMd5"},
        "DetectReflectLivenessAndCompare": {"LiveDataUrl": "LiveDataMd5", "ImageUrl": "ImageMd5"},
        "GenerateReflectSequence": {"DeviceDataUrl": "DeviceDataMd5"},
        "LivenessCompare": {"ImageUrl": None, "VideoUrl": None},
        "CheckIdCardInformation": {"ImageUrl": None},
        "IdCardOCRVerification": {"ImageUrl": None},
        "ApplyWebVerificationToken": {"CompareImageUrl": "CompareImageMd5"},
        "ApplyCardVerification": {"ImageUrlFront": None, "ImageUrlBack": None},
    }
    rates = {name: action.rate for name, action in TARGET_ACTIONS.items()}
    assert rates == {
        "VideoLivenessCompare": 20,
        "DetectReflectLivenessAndCompare": 5,
        "GenerateReflectSequence": 5,
        "LivenessCompare": 100,
        "CheckIdCardInformation": None,
        "IdCardOCRVerification": 100,
        "ApplyWebVerificationToken": 20,
        "ApplyCardVerification": None,
    }
    for action in TARGET_ACTIONS.values():
        assert set(action.regions) <= set(UPLOAD_REGIONS)


@pytest.mark.parametrize(("megabytes", "raw"), [(3, 2_359_296), (8, 6_291_456), (5, 3_932_160)])
def test_limits_count_the_base64_form(megabytes: int, raw: int):
    (field,) = {
        field.max_base64_bytes: field
        for action in TARGET_ACTIONS.values()
        for field in action.resources
        if field.max_base64_bytes == megabytes * MB
    }.values()
    assert field.max_bytes == raw


def test_an_unknown_action_is_told_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"no target action 'Guess'.*VideoLivenessCompare"):
        find_action("Guess")


def test_a_file_adds_actions_in_the_same_form(tmp_path: Path):
    path = tmp_path / "actions.json"
    added = {
        "name": "CompareSomethingNew",
        "resources": [{"name": "ImageUrl", "formats": ["PNG"], "max_base64_bytes": 4096}],
        "regions": ["ap-singapore"],
        "reading": {"passed": ["Yes"]},
    }
    path.write_text(json.dumps([added]))

    actions = load_actions(path)

    assert set(actions) == {*TARGET_ACTIONS, "CompareSomethingNew"}
    assert actions["CompareSomethingNew"].resources[0].max_bytes == 3072


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ('[{"name": "A", "regions": []}]', r"0\.resources: Field required"),
        ('[{"name": "A", "regions": [], "resources": [], "colour": 1}]', r"0\.colour: Extra"),
    ],
)
def test_a_broken_file_of_actions_is_told_with_the_place(
    tmp_path: Path, content: str, message: str
):
    path = tmp_path / "actions.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=message):
        load_actions(path)


def test_a_missing_file_of_actions_is_told(tmp_path: Path):
    with pytest.raises(InvalidInput, match="No such file"):
        load_actions(tmp_path / "none.json")
