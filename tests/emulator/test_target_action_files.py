"""What a target action does with the files to which its parameters point."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from emulator_calls import JPEG, MP4, Caller, md5

from faceid.emulator import Emulator, EmulatorControl, EmulatorOptions

PNG = b"\x89PNG\r\n\x1a\n" + b"a picture"
AVI = b"RIFF\x00\x00\x00\x00AVI " + b"a film"
FLV = b"FLV\x01" + b"a film"
MB = 1024 * 1024

DOWNLOAD = "FailedOperation.DownLoadError"
TIMEOUT = "FailedOperation.DownLoadTimeoutError"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pair(caller: Caller, **changes: str) -> dict[str, str]:
    return {**caller.comparison(), **changes}


@pytest.mark.parametrize(("image", "video"), [(JPEG, MP4), (PNG, AVI), (PNG, FLV)])
def test_every_documented_format(caller: Caller, image: bytes, video: bytes) -> None:
    answer = caller.call("VideoLivenessCompare", caller.comparison(image, video))
    assert answer["Result"] == "Success"


def test_it_really_downloads(emulator: Emulator, caller: Caller) -> None:
    caller.call("VideoLivenessCompare", caller.comparison())
    downloads = emulator.requests(op="GetObject")
    assert {entry["bytes"] for entry in downloads} == {len(JPEG), len(MP4)}
    assert {entry["status"] for entry in downloads} == {200}


def test_upper_case_md5s(caller: Caller) -> None:
    given = pair(caller, ImageMd5=md5(JPEG).upper())
    assert caller.call("VideoLivenessCompare", given)["Result"] == "Success"


@pytest.mark.parametrize("field", ["ImageMd5", "VideoMd5"])
def test_another_md5(caller: Caller, field: str) -> None:
    assert caller.code("VideoLivenessCompare", pair(caller, **{field: md5(b"other")})) == DOWNLOAD


@pytest.mark.parametrize("field", ["ImageUrl", "VideoUrl"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/dead",
        "https://example.test/picture.jpg?q-ak=AKIDx",
        "not a url",
        "http://a.test/\r\nX-Header: 1",
        "http://[broken",
        "ftp://a.test/x",
    ],
)
def test_urls_of_others(caller: Caller, field: str, url: str) -> None:
    assert caller.code("VideoLivenessCompare", pair(caller, **{field: url})) == DOWNLOAD


def test_urls_of_others_are_never_asked(emulator: Emulator, caller: Caller) -> None:
    """A URL with a known key and another host is looked up in this store only, and refused."""
    given = caller.comparison()
    given["ImageUrl"] = given["ImageUrl"].replace(caller.host, "elsewhere.test:81")
    assert caller.code("VideoLivenessCompare", given) == DOWNLOAD
    refused = emulator.requests(op="GetObject", status=403)
    assert [entry["code"] for entry in refused] == ["SignatureDoesNotMatch"]


def test_spoilt_and_missing_urls(caller: Caller) -> None:
    given = caller.comparison()
    spoilt = given["ImageUrl"][:-1] + ("0" if given["ImageUrl"][-1] != "0" else "1")
    empty = caller.ticket()
    for url in (spoilt, empty["ResourceUrl"], empty["UploadUrl"]):
        assert caller.code("VideoLivenessCompare", {**given, "ImageUrl": url}) == DOWNLOAD
    secure = given["ImageUrl"].replace("http:", "https:")
    assert caller.code("VideoLivenessCompare", {**given, "ImageUrl": secure}) == DOWNLOAD


def test_the_window_is_over(emulator: Emulator, caller: Caller) -> None:
    given = caller.comparison()
    emulator.advance(7201)
    assert caller.code("VideoLivenessCompare", given) == DOWNLOAD
    assert {entry["code"] for entry in emulator.requests(op="GetObject")} == {"AccessDenied"}


def test_upload_and_call_must_be_in_one_region(caller: Caller) -> None:
    given = caller.comparison()
    assert caller.code("VideoLivenessCompare", given, region="ap-hongkong") == DOWNLOAD
    given["ImageUrl"] = caller.upload(JPEG, region="ap-bangkok")
    assert caller.code("VideoLivenessCompare", given) == DOWNLOAD


def test_tickets_of_another_action_are_good(caller: Caller) -> None:
    given = pair(caller, ImageUrl=caller.upload(JPEG, target_action="LivenessCompare"))
    assert caller.call("VideoLivenessCompare", given)["Result"] == "Success"


@pytest.mark.parametrize(
    ("image", "video", "code"),
    [
        (b"GIF89a" + JPEG, MP4, "FailedOperation.ImageDecodeFailed"),
        (JPEG, b"not a film", "FailedOperation.VideoDecodeFailed"),
        (MP4, JPEG, "FailedOperation.ImageDecodeFailed"),
        (b"", MP4, "FailedOperation.ImageDecodeFailed"),
    ],
)
def test_files_of_the_wrong_kind(caller: Caller, image: bytes, video: bytes, code: str) -> None:
    assert caller.code("VideoLivenessCompare", caller.comparison(image, video)) == code


def test_the_limit_is_on_the_length_after_base64(caller: Caller) -> None:
    image, video = 3 * MB // 4 * 3, 8 * MB // 4 * 3

    def code(image: int, video: int) -> str | None:
        given = caller.comparison(JPEG.ljust(image), MP4.ljust(video))
        return caller.call("VideoLivenessCompare", given).get("Error", {}).get("Code")

    assert code(image, video) is None
    assert code(image + 1, video) == "FailedOperation.LifePhotoSizeError"
    assert code(image, video + 1) == "FailedOperation.LipSizeError"


def test_the_limit_of_an_id_card(caller: Caller) -> None:
    largest = 3 * MB // 4 * 3
    right = {"ImageUrl": caller.upload(JPEG.ljust(largest))}
    large = {"ImageUrl": caller.upload(JPEG.ljust(largest + 1))}
    for action in ("CheckIdCardInformation", "IdCardOCRVerification"):
        assert "Result" in caller.call(action, right)
        assert caller.code(action, large) == "FailedOperation.ImageSizeTooLarge"
    # CheckIdCardInformation accepts larger images if they are inline.
    inline = {"ImageBase64": b64(JPEG.ljust(5 * MB))}
    assert "Result" in caller.call("CheckIdCardInformation", inline)
    assert caller.code("IdCardOCRVerification", inline) == "FailedOperation.ImageSizeTooLarge"


@pytest.mark.parametrize(
    ("action", "more", "wins"),
    [
        ("LivenessCompare", {"VideoBase64": b64(MP4), "LivenessType": "SILENT"}, "base64"),
        ("IdCardOCRVerification", {}, "base64"),
        ("CheckIdCardInformation", {}, "url"),
    ],
)
def test_inline_or_url(caller: Caller, action: str, more: dict[str, Any], wins: str) -> None:
    right_url, wrong_url = caller.upload(JPEG), caller.upload(b"wrong")
    right, wrong = b64(JPEG), b64(b"wrong")
    assert "Result" in caller.call(action, {"ImageBase64": right, **more})
    assert "Result" in caller.call(action, {"ImageUrl": right_url, **more})
    both = {
        "base64": {"ImageBase64": right, "ImageUrl": wrong_url},
        "url": {"ImageBase64": wrong, "ImageUrl": right_url},
    }
    assert "Result" in caller.call(action, {**both[wins], **more})
    loser = both["url" if wins == "base64" else "base64"]
    assert caller.code(action, {**loser, **more}) == "FailedOperation.ImageDecodeFailed"
    for text in ("***", "\u00e9"):
        no_base64 = {"ImageBase64": text, **more}
        assert caller.code(action, no_base64) == "FailedOperation.ImageDecodeFailed"


def test_a_name_and_number_come_before_any_image(emulator: Emulator, caller: Caller) -> None:
    given = {"IdCard": "123", "Name": "Somebody", "ImageUrl": "http://nowhere.test/"}
    answer = caller.call("IdCardOCRVerification", given)
    assert (answer["Result"], answer["Name"], answer["IdCard"]) == ("0", "Somebody", "123")
    assert "GetObject" not in emulator.stats()["calls"]


@pytest.fixture
def impatient() -> Iterator[Caller]:
    with Emulator(EmulatorOptions(port=0, download_seconds=0.2)) as emulator:
        yield Caller.of(emulator)


@pytest.mark.parametrize("do", ["delay:60", "stall:60"])
def test_a_slow_download(impatient: Caller, do: str) -> None:
    given = impatient.comparison()
    EmulatorControl(impatient.url).add_fault("GetObject", do, match={"md5": md5(MP4)})
    assert impatient.code("VideoLivenessCompare", given) == TIMEOUT


@pytest.mark.parametrize(
    "do", ["reset", "reset-after:5", "truncate", "http:502", "api:SlowDown", "commit-then-reset"]
)
def test_a_download_that_breaks(emulator: Emulator, caller: Caller, do: str) -> None:
    given = caller.comparison()
    emulator.add_fault("GetObject", do)
    assert caller.code("VideoLivenessCompare", given) == DOWNLOAD
    assert caller.call("VideoLivenessCompare", given)["Result"] == "Success"
