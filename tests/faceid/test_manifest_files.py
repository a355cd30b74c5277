"""Manifests as files: how they are found, and how their format is recognized and read."""

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem
from hypothesis import example, given
from hypothesis import strategies as st

from faceid.errors import InvalidInput
from faceid.files.roots import Roots
from faceid.manifests.finding import find_manifests
from faceid.manifests.reading import Entry, read_manifest
from tests.faceid.manifests import HEADER, LINE, ROW, read, shown, validator


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def remote() -> Iterator[Any]:
    files: Any = fsspec.filesystem("memory")
    files.makedirs("/in/sub", exist_ok=True)
    yield files
    files.rm("/in", recursive=True)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(folder: Path, location: str, *roots: str) -> list[str]:
    """Return the manifests that are found, relative to the folder."""
    return [found.removeprefix(f"{folder}/") for found in find_manifests(location, Roots.of(roots))]


def test_a_plain_location_is_one_file(folder: Path):
    touch("m.csv")
    for location in ("m.csv", f"{folder}/m.csv", f"file://{folder}/m.csv", "./in/../m.csv"):
        assert find_manifests(location, Roots.of([])) == [f"{folder}/m.csv"]


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[a]*.csv", ["a.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("*", ["a.csv", "b.csv", "c.jsonl"]),
        (".*.csv", [".hidden.csv"]),
        ("in/*.csv", ["in/x.csv"]),
        ("*/*.csv", ["in/x.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "in/deep/y.csv", "in/x.csv"]),
        ("in/../*.csv", ["a.csv", "b.csv"]),
        ("*.gz", []),
        ("none/*.csv", []),
        ("in[1]/*.csv", []),
    ],
)
def test_a_glob_is_the_files_that_it_matches(folder: Path, location: str, found: list[str]):
    touch("a.csv", "b.csv", "c.jsonl", ".hidden.csv", "in/x.csv", "in/deep/y.csv", ".git/z.csv")
    Path("folder.csv").mkdir()
    assert names(folder, location) == found
    assert names(folder, f"{folder}/{location}") == found
    assert names(folder, f"file://{folder}/{location}") == found


def test_brackets_in_a_name_are_no_glob_where_there_is_such_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    touch("customers [May].csv", "in[1]/a.csv")
    assert names(folder, "customers [May].csv") == ["customers [May].csv"]
    monkeypatch.chdir("in[1]")
    assert names(folder, "*.csv") == ["in[1]/a.csv"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("none.csv", "there is no such file"),
        ("memory://none/m.csv", "there is no such file"),
        ("in", "is not a regular file"),
        ("memory://in", "is not a regular file"),
        ("", "the location is empty"),
        (
            "{date}.csv",
            r"the location contains a \{ that was not filled in; only \{date\} is supported",
        ),
        ("s3://bucket/{day}/*.csv", r"the location contains a \{"),
        ("/etc/hostname", "the file lies outside the working folder"),
        ("/etc/*", "the file lies outside the working folder"),
        ("../*.csv", "the file lies outside the working folder"),
        ("in/../../*", "the file lies outside the working folder"),
        ("in/*/../../../etc/*", "the file lies outside the working folder"),
        ("in/*/../*.csv", r"a pattern must not contain \.\."),
        ("out*/hostname", "the file lies outside the working folder"),
        ("link*.csv", "the file lies outside the working folder"),
        ("dead*.csv", "there is no such file"),
        ("in/m.csv/*.csv", r"the folder cannot be listed \(Not a directory\)"),
        ("https://host/m.csv?sig=Zq7x", "a link with a query or a password"),
        ("https://host/*.csv?sig=Zq7x", "a link with a query or a password"),
        ("https://host/?.csv", "a link with a query or a password"),
        ("s3://me:Zq7x@host/*.csv", "a link with a query or a password"),
        ("zip://*.csv::m.zip", "a location inside another file"),
        ("simplecache://m.csv", "a location inside another file"),
        ("s3://[a]/m.csv", "the location is not a valid URL"),
        ("nothing://in/*.csv", r"the folder cannot be listed \(no installed package"),
        ("nothing://in/m.csv", r"the file cannot be read \(no installed package"),
        ("\0", "the location is empty"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, remote: Any, location: str, reason: str):
    touch("in/m.csv")
    Path("link.csv").symlink_to("/etc/hostname")
    Path("outside").symlink_to("/etc")
    Path("dead.csv").symlink_to("none")
    with pytest.raises(InvalidInput, match=f"^InvalidManifest: manifest: {reason}") as refused:
        find_manifests(location, Roots.of([]))
    assert "Zq7x" not in str(refused.value)


def test_an_error_has_the_path_beside_its_message(folder: Path):
    for location in ("none.csv", "../none.csv"):
        with pytest.raises(InvalidInput) as refused:
            find_manifests(location, Roots.of([]))
        assert refused.value.location == str((folder / location).resolve())
        assert str(folder) not in str(refused.value)


def test_roots_hold_for_manifests_and_for_what_they_match(folder: Path):
    touch("in/a.csv", "in/sub/b.csv", "other/c.csv")
    Path("in/d.csv").symlink_to("sub/b.csv")
    inside = str(folder / "in")
    assert names(folder, "in/*.csv", inside) == ["in/a.csv", "in/sub/b.csv"]
    # A file that is found twice is listed once.
    assert names(folder, "in/**/*.csv", inside) == ["in/a.csv", "in/sub/b.csv"]
    for location in ("other/c.csv", "*/*.csv", "in/../other/*.csv", "**"):
        with pytest.raises(InvalidInput, match="outside"):
            find_manifests(location, Roots.of([inside]))
    Path("in/e.csv").symlink_to("../other/c.csv")
    with pytest.raises(InvalidInput, match="outside"):
        find_manifests("in/*.csv", Roots.of([inside]))


@given(st.text(st.sampled_from("*?[]!-/.{}ab:\0\ud800 "), max_size=12))
@example("**a")
@example("[")
@example("[z-a]/*")
@example("memory://*")
@example("memory://[")
def test_any_text_is_found_or_refused(location: str):
    found: list[str] = []
    code = "InvalidManifest"
    try:
        found = find_manifests(location, Roots.of([]))
    except InvalidInput as refused:
        code = refused.code
    assert (found, code) == ([], "InvalidManifest")


# --- Other file systems ---


def test_a_remote_glob_is_the_files_that_it_matches(remote: Any):
    for name in ("a.csv", "b.csv", ".hidden.csv", "sub/c.csv", "c.jsonl"):
        remote.pipe(f"/in/{name}", b"x")
    assert find_manifests("memory://in/a.csv", Roots.of([])) == ["memory://in/a.csv"]
    assert find_manifests("memory://in/*.csv", Roots.of([])) == [
        "memory://in/a.csv",
        "memory://in/b.csv",
    ]
    assert find_manifests("memory://in/[!b].csv", Roots.of([])) == ["memory://in/a.csv"]
    assert find_manifests("memory://in/**/*.csv", Roots.of([]))[-1] == "memory://in/sub/c.csv"
    assert find_manifests("memory://none/*.csv", Roots.of([])) == []
    assert find_manifests("memory://in/*.csv", Roots.of(["memory://in"])) != []
    for location in ("memory://in/*.csv", "memory://in/a.csv"):
        with pytest.raises(InvalidInput, match="outside FACEID_RESOURCE_ROOTS"):
            find_manifests(location, Roots.of(["memory://other"]))


class Host(AbstractFileSystem):
    """A file system that caches listings, and whose URLs have a host that is not in its paths.

    sftp and s3 behave in the same way.
    """

    protocol = "host"
    files: list[str] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("host://").partition("/")[2].lstrip("/")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        folder = path.rstrip("/")
        listed: Any = self.dircache
        if folder not in listed:
            if "secret" in folder:
                raise RuntimeError(f"403 for {path}")
            listed[folder] = [{"name": name, "size": 1, "type": "file"} for name in Host.files]
        return listed[folder]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


@pytest.fixture
def host() -> type[Host]:
    fsspec.register_implementation("host", Host, clobber=True)
    Host.files = ["/day/a.csv"]
    return Host


def test_the_host_of_a_url_stays_in_it(host: type[Host]):
    assert find_manifests("host://me/day/*.csv", Roots.of([])) == ["host://me/day/a.csv"]


def test_a_file_that_came_later_is_found(host: type[Host]):
    system: Any = fsspec.filesystem("host")
    system.ls("/day")
    host.files = ["/day/a.csv", "/day/b.csv"]
    assert len(find_manifests("host://me/day/*.csv", Roots.of([]))) == 2
    assert not system.dircache
    host.files = [*host.files, "/day/c.csv"]
    assert find_manifests("host://me/day/c.csv", Roots.of([])) == ["host://me/day/c.csv"]


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(host: type[Host]):
    with pytest.raises(InvalidInput, match=r"cannot be listed \(RuntimeError\)"):
        find_manifests("host://me/secret/*.csv", Roots.of([]))


# --- Reading ---


@pytest.mark.parametrize("place", ["in/", ""])
def test_locations_start_from_a_remote_manifest(remote: Any, place: str):
    remote.pipe(f"/{place}m.jsonl", LINE.encode())
    (entry,) = read_manifest(f"memory://{place}m.jsonl", validator())
    assert isinstance(entry, Entry)
    location = entry.request.resources["ImageUrl"]
    assert remote._strip_protocol(location) == f"/{place}a.jpg"
    remote.rm(f"/{place}m.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m", LINE),
        ("m", "\n \n" + LINE),
        ("m", "\ufeff" + LINE),
        ("m.txt", HEADER + ROW),
        ("m", "\n" + HEADER + ROW),
        ("m.JSONL", LINE),
        ("m.ndjson", LINE),
        ("m.json", LINE),
        ("m.CSV", HEADER + ROW),
        ("m.json.csv", HEADER + ROW),
        ("m.csv", "\ufeff" + HEADER + ROW),
        ("m.csv", '\ufeff"request_id"' + HEADER.removeprefix("request_id") + ROW),
    ],
)
def test_the_format_is_told_by_the_name_or_by_the_first_character(name: str, content: str):
    assert [each for _, each in shown(read(content, name))] == ["r-1"]
    assert [each for _, each in shown(read(content.replace("\n", "\r\n"), name))] == ["r-1"]
    assert [each for _, each in shown(read(content.rstrip("\n"), name))] == ["r-1"]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", " "])
@pytest.mark.parametrize("name", ["m", "m.csv", "m.jsonl"])
def test_an_empty_manifest_holds_nothing(name: str, content: str):
    assert read(content, name) == []


def test_a_manifest_may_be_compressed(remote: Any):
    for name, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
        assert shown(read(pack((HEADER + ROW).encode()), f"m.csv.{name}")) == [(2, "r-1")]
        assert shown(read(pack(LINE.encode()), f"m.{name}")) == [(1, "r-1")]
        assert shown(read(pack(b"x\n" + LINE.encode()), f"m.jsonl.{name}"))[1:] == [(2, "r-1")]
    remote.pipe("/in/m.jsonl.gz", gzip.compress(LINE.encode()))
    assert shown(list(read_manifest("memory://in/m.jsonl.gz", validator()))) == [(1, "r-1")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv.gz", HEADER.encode()),
        ("m.csv.gz", gzip.compress((HEADER + ROW).encode() * 9)[:-12]),
        ("m.csv.xz", lzma.compress((HEADER + ROW).encode())[:-30]),
        ("m.csv.zip", b"PK"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_said_to_be_so(name: str, content: bytes):
    with pytest.raises(InvalidInput, match=rf"InvalidManifest: {name} cannot be read \(\w+\)"):
        read(content, name)


def test_a_manifest_that_went_away_is_said_to_be_so():
    with pytest.raises(InvalidInput, match=r"m\.csv cannot be read \(No such file or directory\)"):
        list(read_manifest("/none/m.csv", validator()))
    with pytest.raises(InvalidInput, match=r"m\.csv cannot be read \(no such file\)"):
        list(read_manifest("memory://none/m.csv", validator()))
