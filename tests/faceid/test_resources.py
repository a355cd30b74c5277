"""Where locations may point, and files on other file systems."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faceid.actions import ResourceField
from faceid.errors import InvalidInput
from faceid.resources import Roots, measure, open_location, resolve_folder

SECRET = "?q-signature=topsecret"


class _BadFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        raise RuntimeError(f"403 for {self.path}")


class BadStore(AbstractFileSystem):
    """A file system with errors of its own, which show the URL: as that of http does."""

    protocol = "bad"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        for name, error in {
            "refused": RuntimeError,
            "missing": FileNotFoundError,
            "forbidden": PermissionError,
        }.items():
            if name in path:
                raise error(f"no {path}")
        return {"name": path, "size": 5, "type": "file"}

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        return _BadFile(self, path, mode, size=self.info(path)["size"])


@pytest.fixture(autouse=True, scope="module")
def bad_store() -> None:
    fsspec.register_implementation("bad", BadStore, clobber=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolve(location: str, *roots: str, base: str = "", links: bool = True) -> str:
    return Roots.of(roots).resolve("resource ImageUrl", location, base=base, links=links)


@pytest.mark.parametrize(
    ("location", "resolved"),
    [
        ("a.jpg", "in/a.jpg"),
        ("sub/./../a.jpg", "in/a.jpg"),
        ("../a.jpg", "a.jpg"),
        ("file://a.jpg", "in/a.jpg"),
        ("to-sub/a.jpg", "in/sub/a.jpg"),
        ("to-sub/../a.jpg", "in/a.jpg"),
        ("to-file.jpg", "in/sub/a.jpg"),
        (".", "in"),
        ("sub/", "in/sub"),
    ],
)
def test_a_relative_location_starts_from_its_base(folder: Path, location: str, resolved: str):
    (folder / "in" / "sub").mkdir(parents=True)
    (folder / "in" / "sub" / "a.jpg").touch()
    (folder / "in" / "to-sub").symlink_to("sub")
    (folder / "in" / "to-file.jpg").symlink_to("to-sub/a.jpg")
    for base in (f"{folder}/in", f"{folder}/in/"):
        assert resolve(location, base=base) == str(folder / resolved)
    assert resolve(f"{folder}/a.jpg", base="/elsewhere") == f"{folder}/a.jpg"


@pytest.mark.parametrize(
    ("base", "location", "resolved"),
    [
        ("s3://bucket/day/", "a.jpg", "s3://bucket/day/a.jpg"),
        ("s3://bucket/day", "sub/a.jpg", "s3://bucket/day/sub/a.jpg"),
        ("s3://bucket/day/", "../other/a.jpg", "s3://bucket/other/a.jpg"),
        ("s3://bucket/day/", "../../../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/", "./a.jpg", "s3://bucket/a.jpg"),
        ("https://host/day/", "a.jpg?u=x//y/../z", "https://host/day/a.jpg?u=x//y/../z"),
        ("memory://", "a.jpg", "memory:///a.jpg"),
        ("s3://bucket/day/", "s3://other/a.jpg", "s3://other/a.jpg"),
    ],
)
def test_a_relative_location_stays_on_its_file_system(base: str, location: str, resolved: str):
    assert resolve(location, base=base) == resolved


def test_a_remote_base_opens_no_local_folder(folder: Path):
    with pytest.raises(InvalidInput, match="outside the working folder"):
        resolve("/etc/hostname", base="s3://bucket/day/")
    assert resolve(f"{folder}/a.jpg", base="s3://bucket/day/") == f"{folder}/a.jpg"
    with pytest.raises(InvalidInput, match="outside FACEID_RESOURCE_ROOTS"):
        resolve("../other/a.jpg", "s3://bucket/day", base="s3://bucket/day/")


LINKS = ["https://host/in/x.jpg?sig=1", "s3://me:pw@host/in/x.jpg"]


@pytest.mark.parametrize("location", LINKS)
def test_links_that_open_a_file_are_taken_where_that_is_said(location: str):
    with pytest.raises(InvalidInput, match="a link with a query or a password is not taken here"):
        resolve(location, links=False)
    assert resolve(location) == location


@pytest.mark.parametrize(
    "location",
    [
        "https://host/other/x.jpg",
        "https://host/input/x.jpg",
        "https://host/in",
        "https://host/in/../x.jpg",
        "https://host/in/%2e%2e/x.jpg",
        "https://host/in/%2E./x.jpg",
        "https://host/in/a%2f..%2f../x.jpg",
        "https://host/in/..?sig=1",
        "https://host/in/..#x",
        "https://user@host/in/x.jpg",
        "http://host/in/x.jpg",
    ],
)
def test_nothing_leads_out_of_a_url_root(location: str):
    with pytest.raises(InvalidInput, match="outside FACEID_RESOURCE_ROOTS"):
        resolve(location, "https://host/in")


def test_what_lies_in_a_url_root_is_taken():
    for location in ("https://host/in/x.jpg", "https://host/in/sub/x.jpg?a=/../b"):
        assert resolve(location, "https://host/in") == location
        assert resolve(location, "https://host/in/") == location


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("s3://[x/a.jpg", "the location is no URL"),
        ("https://host/in/.\t./a.jpg", "the location is no URL"),
        ("https://host/\ud800.jpg", "the location is no URL"),
        ("\ud800.jpg", "the location is no path"),
        ("a/" * 3000 + "b", "the location is no path"),
        ("asynclocal://etc/hostname", "a location inside another file"),
        ("ZIP://x", "a location inside another file"),
    ],
)
def test_what_cannot_be_a_location_is_refused(folder: Path, location: str, reason: str):
    with pytest.raises(InvalidInput, match=f"InvalidResource: resource ImageUrl: {reason}"):
        resolve(location)


def test_a_folder_beside_a_root_is_not_in_it(folder: Path):
    inside = str(folder / "in")
    assert resolve(f"{inside}/a.jpg", inside) == resolve(f"{inside}/a.jpg", f"{inside}/")
    for location in (f"{inside}put/a.jpg", str(folder)):
        with pytest.raises(InvalidInput, match="the file lies outside"):
            resolve(location, inside)


def test_a_circle_of_links_is_no_way_out(folder: Path):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert resolve("a/x.jpg").startswith(str(folder))


@given(st.text(max_size=40), st.sampled_from(["", "/base/", "s3://bucket/day/"]), st.booleans())
@example("\udcff", "", True)
@example("//", "memory://", True)
@example("://", "", False)
def test_any_text_is_a_location_or_is_refused(location: str, base: str, links: bool):
    reason = ""
    try:
        assert resolve(location, "/", base=base, links=links)
    except InvalidInput as refused:
        reason = refused.message
    words = ("the location is ", "a location inside", "a link with", "the file lies outside")
    assert not reason or reason.startswith(tuple(f"resource ImageUrl: {word}" for word in words))


STEPS = ["a", "b", "up", "in", "none", "..", ".", ""]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "up").symlink_to("..")
    (tree / "in").symlink_to("a/b")
    return tree


@given(path=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7).map("/".join))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_paths_are_resolved_as_the_system_does(tree: Path, path: str):
    path = path or "."
    assert resolve(f"{tree}/{path}", "/") == posixpath.realpath(f"{tree}/{path}")


@pytest.fixture
def remote() -> Iterator[Any]:
    files: Any = fsspec.filesystem("memory")
    yield files
    files.rm("/in", recursive=True)


def test_a_remote_file_reads_as_a_local_one(remote: Any):
    content = os.urandom(3_000_000)
    remote.pipe("/in/a.jpg", b"line\n" + content)
    with open_location("memory://in/a.jpg") as file:
        assert file.readline() == b"line\n"
        assert file.read() == content


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("bad://refused/a.jpg", "RuntimeError"),
        ("bad://in/a.jpg", "RuntimeError"),
        ("bad://forbidden/a.jpg", "permission denied"),
        ("nothing://in/a.jpg", "nothing that is installed reads such locations"),
    ],
)
def test_errors_of_other_file_systems_show_no_url(location: str, reason: str):
    with pytest.raises(InvalidInput) as refused:
        measure(ResourceField(name="ImageUrl"), location + SECRET)
    assert refused.value.message == f"resource ImageUrl: the file cannot be read ({reason})"

    with pytest.raises(OSError, match=reason) as plain, open_location(location + SECRET) as file:
        file.read()
    assert "topsecret" not in repr(plain.value)


def test_a_remote_file_that_is_not_there_is_told_as_a_local_one():
    with pytest.raises(InvalidInput, match="ImageUrl: there is no such file"):
        measure(ResourceField(name="ImageUrl"), "bad://missing/a.jpg" + SECRET)
    with pytest.raises(FileNotFoundError):
        open_location("bad://missing/a.jpg")


def test_a_folder_to_write_to_is_a_local_one(folder: Path):
    assert resolve_folder("save_files_to", "out") == folder / "out"
    with pytest.raises(InvalidInput, match="resource save_files_to: must be a folder on this"):
        resolve_folder("save_files_to", "s3://bucket/out")
