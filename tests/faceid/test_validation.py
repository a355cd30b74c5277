"""A request is validated as a whole before anything is sent, and each file is measured once."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from faceid.actions import TARGET_ACTIONS
from faceid.errors import InvalidInput
from faceid.files.resources import format_of
from faceid.files.sources import Patience
from faceid.models import CheckedRequest
from faceid.samples import copy_samples
from faceid.settings import FaceIdSettings
from faceid.validation import check_files, personal_parameters, read_request, validate_request
from tests.sample_request import REQUEST

MEBIBYTE = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which contains the sample files."""
    copy_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(settings: FaceIdSettings | None = None, **changes: Any) -> CheckedRequest:
    validated = validate_request(
        read_request(**REQUEST | changes), settings or FaceIdSettings.load()
    )
    return asyncio.run(check_files(validated, Patience()))


def test_a_right_request_is_measured(folder: Path):
    checked = check()
    assert [file.field for file in checked.files] == ["ImageUrl", "VideoUrl"]
    photo = (folder / "alder.jpg").read_bytes()
    assert checked.files[0].size == len(photo)
    assert checked.files[0].md5 == hashlib.md5(photo).hexdigest()
    assert checked.parameters == {"LivenessType": "SILENT"}
    assert "alder" not in repr(checked.files)


@pytest.mark.parametrize(
    "request_id", ["", "-a", ".a", "a b", "a/b", "a\n", "ü", "a" * 65, "../etc"]
)
def test_a_wrong_request_id_is_refused(folder: Path, request_id: str):
    with pytest.raises(InvalidInput, match="request_id: must be a letter or digit"):
        check(request_id=request_id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_action": "Guess"}, "no target action 'Guess'"),
        (
            {"region": "ap-tokyo"},
            "region 'ap-tokyo' is not supported: VideoLivenessCompare can be used in ap-bang",
        ),
        ({"region": ""}, "the region is missing: VideoLivenessCompare can be used in"),
        (
            {"target_action": "ApplyWebVerificationToken", "region": "ap-bangkok"},
            "can be used in ap-singapore",
        ),
        ({"resources": {"ImageUrl": "alder.jpg"}}, "resource VideoUrl is missing"),
        (
            {"resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4", "VideoMd5": "0"}},
            "VideoMd5 is computed",
        ),
        (
            {"resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4", "Shoe": "s"}},
            "VideoLivenessCompare has no resource Shoe: it takes ImageUrl, VideoUrl",
        ),
        ({"action_parameters": {"LivenessType": "WINK"}}, "LivenessType must be"),
        ({"action_parameters": {}}, "LivenessType is missing"),
        ({"resources": ["a"]}, "resources: "),
    ],
)
def test_a_wrong_form_is_refused(folder: Path, changes: dict[str, Any], message: str):
    with pytest.raises(InvalidInput, match=message):
        check(**changes)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("none.jpg", "ImageUrl: there is no such file"),
        (".", "ImageUrl: is not a regular file"),
        ("", "ImageUrl: the location is empty"),
        ("a\0b", "ImageUrl: the location is empty"),
        ("alder.mp4", "ImageUrl: the file is not JPG or PNG"),
        ("empty.jpg", "ImageUrl: the file is empty"),
        ("/etc/hostname", "ImageUrl: the file lies outside the working folder"),
        ("../x.jpg", "ImageUrl: the file lies outside"),
        ("file:///etc/hostname", "ImageUrl: the file lies outside"),
        ("link.jpg", "ImageUrl: the file lies outside"),
        ("zip://a::x.zip", "a location inside another file"),
        ("git://repo:x", "a location inside another file"),
        ("https://host/x.jpg?sig=1", "a link with a query or a password"),
        ("s3://me:pw@host/x.jpg", "a link with a query or a password"),
        ("memory://none.jpg", "ImageUrl: there is no such file"),
        ("nothing://x", "ImageUrl: the file cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(folder: Path, location: str, message: str):
    (folder / "empty.jpg").touch()
    (folder / "link.jpg").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInput, match=message) as refused:
        check(resources={"ImageUrl": location, "VideoUrl": "alder.mp4"})
    # Paths must not appear in logs.
    assert len(location) < 3 or location not in str(refused.value)


def test_a_file_that_may_not_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Permissions would not suffice, because root can read every file.
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InvalidInput, match=r"ImageUrl: the file cannot be read \(Permission"):
        check()


def test_the_limit_counts_the_base64_form(folder: Path):
    limit = 3 * MEBIBYTE // 4 * 3
    head = b"\xff\xd8\xff\xe0"
    (folder / "fits.jpg").write_bytes(head + bytes(limit - 4))
    (folder / "large.jpg").write_bytes(head + bytes(limit - 3))

    assert check(resources={"ImageUrl": "fits.jpg", "VideoUrl": "alder.mp4"}).files[0].size == limit
    with pytest.raises(InvalidInput, match=r"larger than 2,359,296 bytes \(3,145,728 after base64"):
        check(resources={"ImageUrl": "large.jpg", "VideoUrl": "alder.mp4"})


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xe0", "JPG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\0\0\0\x20ftypisom", "MP4"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"FLV\x01\x05", "FLV"),
        (b"RIFF\0\0\0\0WEBP", None),
        (b"", None),
    ],
)
def test_formats_are_told_by_their_first_bytes(head: bytes, name: str | None):
    assert format_of(head) == name


def with_roots(*roots: str) -> FaceIdSettings:
    return FaceIdSettings.load().model_copy(update={"resource_roots": roots})


@pytest.fixture
def remote() -> Iterator[str]:
    """The location of a file on an fsspec file system that is not the local one."""
    files: Any = fsspec.filesystem("memory")
    source = Path("alder.jpg").read_bytes()
    files.pipe("/in/photo.jpg", source)
    yield "memory://in/photo.jpg"
    files.rm("/in", recursive=True)


def test_any_fsspec_location_is_taken(folder: Path, remote: str):
    checked = check(resources={"ImageUrl": remote, "VideoUrl": "alder.mp4"})
    assert checked.files[0].md5 == hashlib.md5((folder / "alder.jpg").read_bytes()).hexdigest()


def test_roots_open_other_folders_and_close_all_the_rest(folder: Path, remote: str):
    other = folder / "other"
    other.mkdir()
    os.link(folder / "alder.jpg", other / "photo.jpg")
    here = with_roots(str(folder))
    both = {"ImageUrl": "other/photo.jpg", "VideoUrl": "alder.mp4"}
    assert check(here, resources=both)
    only_other = with_roots(str(other))
    with pytest.raises(InvalidInput, match="VideoUrl: the file lies outside"):
        check(only_other, resources=both)

    elsewhere = with_roots(str(folder), "memory://out")
    with pytest.raises(InvalidInput, match="outside FACEID_RESOURCE_ROOTS"):
        check(elsewhere, resources={"ImageUrl": remote, "VideoUrl": "alder.mp4"})
    inside = with_roots(str(folder), "memory://in/")
    assert check(inside, resources={"ImageUrl": remote, "VideoUrl": "alder.mp4"})


LINK = "https://host/photo.jpg?q-signature=topsecret"


def test_a_manifest_may_hold_links_and_peoples_data(folder: Path):
    request = read_request(
        request_id="r-1",
        target_action="IdCardOCRVerification",
        region="ap-singapore",
        resources={"ImageUrl": LINK},
        action_parameters={"IdCard": "11010119900307", "Name": "", "Encryption": '{"A": 1}'},
    )
    settings = FaceIdSettings.load()
    validated = validate_request(request, settings, from_manifest=True)
    assert validated.locations == {"ImageUrl": LINK}
    assert validated.parameters == {"IdCard": "11010119900307", "Encryption": {"A": 1}}
    with pytest.raises(InvalidInput, match="parameter IdCard contains personal data"):
        validate_request(request, settings)
    with pytest.raises(InvalidInput, match="a link with a query"):
        validate_request(request.model_copy(update={"action_parameters": {}}), settings)


def test_inline_forms_are_peoples_data_by_the_tables_names():
    assert personal_parameters(TARGET_ACTIONS["ApplyCardVerification"]) == {
        "ImageBase64Front",
        "ImageBase64Back",
    }
    assert personal_parameters(TARGET_ACTIONS["IdCardOCRVerification"]) == {
        "IdCard",
        "Name",
        "ImageBase64",
    }
    assert personal_parameters(TARGET_ACTIONS["VideoLivenessCompare"]) == set()


def test_a_manifest_cannot_hold_any_name_for_peoples_data(folder: Path):
    with pytest.raises(InvalidInput, match="parameter SecretBase64 contains personal data"):
        validate_request(
            read_request(
                request_id="r-1",
                target_action="GenerateReflectSequence",
                region="ap-singapore",
                resources={"DeviceDataUrl": "data.txt"},
                action_parameters={"SecretBase64": "aGVsbG8="},
            ),
            FaceIdSettings.load(),
            from_manifest=True,
        )


def test_a_parameter_that_is_nested_too_deeply_is_refused(folder: Path):
    with pytest.raises(InvalidInput, match="a parameter is nested too deeply"):
        check(
            target_action="CheckIdCardInformation",
            resources={"ImageUrl": "alder.jpg"},
            action_parameters={"Config": "[" * 200_000},
        )
