"""Files on other file systems are read like local ones, and no error shows their URL."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from faceid.actions import ResourceField
from faceid.errors import InvalidInput
from faceid.files.resources import measure, open_location

SECRET = "?q-signature=topsecret"


class _BadFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        raise RuntimeError(f"403 for {self.path}")


class BadStore(AbstractFileSystem):
    """A file system whose errors contain the URL, like those of fsspec's http file system."""

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
        ("nothing://in/a.jpg", "no installed package reads such locations"),
    ],
)
def test_errors_of_other_file_systems_show_no_url(location: str, reason: str):
    with pytest.raises(InvalidInput) as refused:
        measure(ResourceField(name="ImageUrl"), location + SECRET)
    assert refused.value.message == f"resource ImageUrl: the file cannot be read ({reason})"

    with pytest.raises(OSError, match=reason) as plain, open_location(location + SECRET) as file:
        file.read()
    assert "topsecret" not in repr(plain.value)


def test_an_error_has_the_path_beside_its_message(tmp_path: Path):
    location = str(tmp_path / "none.jpg")
    with pytest.raises(InvalidInput) as refused:
        measure(ResourceField(name="ImageUrl"), location)
    assert refused.value.location == location
    assert str(tmp_path) not in repr(refused.value) + str(refused.value)


def test_a_remote_file_that_is_not_there_is_told_as_a_local_one():
    with pytest.raises(InvalidInput, match="ImageUrl: there is no such file"):
        measure(ResourceField(name="ImageUrl"), "bad://missing/a.jpg" + SECRET)
    with pytest.raises(FileNotFoundError):
        open_location("bad://missing/a.jpg")
