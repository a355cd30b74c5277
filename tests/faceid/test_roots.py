"""Where locations may point: no spelling of a location leads out of the roots."""

import posixpath
from pathlib import Path

import pytest
from fsspec.registry import known_implementations
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faceid.errors import InvalidInput
from faceid.files.resources import open_location
from faceid.files.roots import WRAPPERS, Roots


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
    with pytest.raises(
        InvalidInput, match="a link with a query or a password is not accepted here"
    ):
        resolve(location, links=False)
    assert resolve(location) == location


@pytest.mark.parametrize(
    "location",
    [
        "https://host/other/x.jpg",
        "https://host/input/x.jpg",
        "https://host/inside",
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
        ("s3://[x/a.jpg", "the location is not a valid URL"),
        ("https://host/in/.\t./a.jpg", "the location is not a valid URL"),
        ("https://host/\ud800.jpg", "the location is not a valid URL"),
        ("\ud800.jpg", "the location is not a valid path"),
        ("a/" * 3000 + "b", "the location is not a valid path"),
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


def test_a_folder_to_write_to_is_a_local_one(folder: Path):
    assert Roots.of([]).resolve_folder("save_files_to", "out") == folder / "out"
    with pytest.raises(InvalidInput, match="resource save_files_to: must be a folder on this"):
        Roots.of([]).resolve_folder("save_files_to", "s3://bucket/out")


OUTSIDE = "outside FACEID_RESOURCE_ROOTS"
PART = "a location inside another file is not accepted"
NO_URL = "the location is not a valid URL"

# Attempts of an attacker who may start runs of a deployment, or write a manifest.
ATTACKS = [
    ("/etc/hostname", OUTSIDE),
    ("../secret", OUTSIDE),
    ("in/../../secret", OUTSIDE),
    ("in/link/secret", OUTSIDE),
    ("in/link.jpg", OUTSIDE),
    ("in/./../../secret", OUTSIDE),
    ("file:///etc/hostname", OUTSIDE),
    ("FILE:///etc/hostname", OUTSIDE),
    ("local:///etc/hostname", OUTSIDE),
    ("file://../secret", OUTSIDE),
    ("c://../../secret", NO_URL),  # fsspec treats it as a local path
    ("C://../../secret", NO_URL),
    ("://../secret", NO_URL),
    (" file:///etc/hostname", NO_URL),
    ("file\t:///etc/hostname", NO_URL),
    ("f\u0131le:///etc/hostname", NO_URL),
    ("zip://x::file:///etc/hostname", PART),
    ("simplecache::https://host/in/x.jpg", PART),
    ("filecache://etc/hostname", PART),
    ("asyncwrapper://etc/hostname", PART),
    ("reference://x", PART),
    ("git://path@main:x", PART),
    ("http://169.254.169.254/latest/meta-data", OUTSIDE),
    ("http://127.0.0.1:4200/api/admin/settings", OUTSIDE),
    ("http://[::1]/", PART),
    ("https://host.evil.example/in/x.jpg", OUTSIDE),
    ("https://host@evil.example/in/x.jpg", OUTSIDE),
    ("https://host:443@evil.example/in/x.jpg", OUTSIDE),
    ("https://evil.example/https://host/in/x.jpg", OUTSIDE),
    ("https://host\\@evil.example/in/x.jpg", OUTSIDE),
    ("HTTPS://HOST/out/x.jpg", OUTSIDE),
    ("https://host/out/x.jpg", OUTSIDE),
    ("https://host/in/../out/x.jpg", OUTSIDE),
    ("https://host/in/..\\out/x.jpg", OUTSIDE),
    ("https://host/in/%2e%2e/out/x.jpg", OUTSIDE),
    ("https://host/in/%252e%252e/out/x.jpg", OUTSIDE),
    ("https://host/in/%25252e%25252e%25252fout/x.jpg", OUTSIDE),
    ("https://host/in/%2e%2e%5cout/x.jpg", OUTSIDE),
    ("https://host/in/..;/out/x.jpg", OUTSIDE),
    ("https://host/in/..%3bx/out/x.jpg", OUTSIDE),
    ("https://host/in/.. /out/x.jpg", OUTSIDE),
    ("https://host/in/.../out/x.jpg", OUTSIDE),
    ("s3://other/in/x.jpg", OUTSIDE),
    ("s3://bucket/in/../out/x.jpg", OUTSIDE),
    ("s3://bucket/in/x?/../../out/x.jpg", OUTSIDE),
    ("s3://bucket/in/x#/../../out/x.jpg", OUTSIDE),
    ("s3a://bucket/in/x.jpg", OUTSIDE),
    ("s3://bucket/input/x.jpg", OUTSIDE),
    ("s3://bucket@other/in/x.jpg", OUTSIDE),
    ("memory://in/x.jpg", OUTSIDE),
    ("sftp://me@host/etc/hostname", OUTSIDE),
]


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """The roots of a worker: a local folder, a folder on a web host, and one in a bucket.

    The local folder contains links that lead out of it.
    """
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "c:").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root" / "in" / "link").symlink_to("../..")
    (tmp_path / "root" / "in" / "link.jpg").symlink_to("../../secret")
    monkeypatch.chdir(tmp_path / "root")
    return Roots.of([str(tmp_path / "root"), "https://host/in", "s3://bucket/in/"], deployed=True)


@pytest.mark.parametrize(("location", "reason"), ATTACKS)
def test_no_spelling_leads_out_of_the_roots_of_a_worker(
    attacked: Roots, location: str, reason: str
):
    remote = ("s3://bucket/in/", "https://host/in/") if "://" in location else ()
    for base in ("", str(Path.cwd()), *remote):
        with pytest.raises(InvalidInput, match=reason) as refused:
            attacked.resolve("resource ImageUrl", location, base=base, links=True)
        assert "evil" not in str(refused.value)


def test_what_lies_in_the_roots_of_a_worker_is_taken(attacked: Roots):
    for location in (
        "https://host/in/x.jpg?sig=/../x",
        "https://host/in/a..b/x..jpg",
        "https://host/in/%20x.jpg",
        "s3://bucket/in/x.jpg",
        "s3://bucket/in/",
    ):
        assert attacked.resolve("resource ImageUrl", location, links=True) == location
    assert attacked.resolve("resource ImageUrl", "in/x.jpg") == f"{Path.cwd()}/in/x.jpg"
    assert attacked.resolve_folder("save_files_to", "out") == Path.cwd() / "out"


def test_a_worker_reads_nothing_that_nobody_gave_it(folder: Path):
    nothing = Roots.of([], deployed=True)
    for location in ("a.jpg", "https://host/x.jpg", "s3://bucket/x.jpg"):
        with pytest.raises(InvalidInput, match=r"FACEID_RESOURCE_ROOTS, which .* is not set"):
            nothing.resolve("resource ImageUrl", location)
    urls = Roots.of(["https://"], deployed=True)
    assert urls.resolve("resource ImageUrl", "https://host/x.jpg")
    for location in ("a.jpg", "http://host/x.jpg", "s3://bucket/x.jpg"):
        with pytest.raises(InvalidInput, match=OUTSIDE):
            urls.resolve("resource ImageUrl", location)
    with pytest.raises(InvalidInput, match=OUTSIDE):
        Roots.of([str(folder)], deployed=True).resolve("resource ImageUrl", "https://host/x.jpg")


def test_who_runs_a_command_names_what_he_likes_on_other_machines(folder: Path):
    for location in ("https://host/x.jpg", "s3://bucket/x.jpg", "sftp://host/x.jpg"):
        assert resolve(location) == resolve(location, str(folder)) == location
        with pytest.raises(InvalidInput, match=OUTSIDE):
            resolve(location, "gs://bucket")


REMOTE = """abfs adl arrow_hdfs az box dbfs dropbox ftp gcs gdrive gist github gs hdfs hf http https
lakefs memory oci ocilake oss root s3 s3a sftp smb ssh tos tosfs wandb webdav webhdfs"""


def test_every_scheme_that_fsspec_knows_is_local_or_remote_or_reads_others_files():
    """A new scheme must be examined: can it read files of this machine?"""
    assert set(known_implementations) - WRAPPERS - {"file", "local"} <= set(REMOTE.split())


BITS = [
    *("..", ".", "/", "//", "\\", ":", "::", "://", "%2e", "%2f", "~", "?", "#", "@", " "),
    *("c", "C", "file", "FILE", "local", "zip", "data", "in", "link", "link.jpg", "secret"),
    "{root}",
]


@given(
    bits=st.lists(st.sampled_from(BITS), max_size=9), based=st.booleans(), deployed=st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@example(bits=["c", "://", "..", "/", "..", "/", "secret"], based=False, deployed=False)
@example(bits=["in", "/", "link.jpg"], based=True, deployed=True)
def test_whatever_is_taken_opens_no_file_of_this_machine_but_those_in_the_roots(
    attacked: Roots, bits: list[str], based: bool, deployed: bool
):
    roots = attacked if deployed else Roots.of(["."])
    location = "".join(bits).replace("{root}", str(Path.cwd()))
    try:
        found = roots.resolve("r", location, base=str(Path.cwd()) if based else "", links=True)
        opened = open_location(found)
    except (InvalidInput, OSError):
        return
    with opened:
        assert opened.read() != b"secret"
