"""Files that callers name: opening them, measuring them once.

A location is a local path or any fsspec URL, as ``faceid.files.roots`` let it pass. What goes wrong
is said by the resource's field, not by its path: paths stay out of logs and states.
"""

import hashlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from errno import EACCES, EIO, ENOENT
from pathlib import Path

# pathlib takes ten times as long, and a manifest may hold a million locations
from typing import IO, Any, cast

import fsspec

from faceid.actions import Format, ResourceField
from faceid.errors import InvalidInput
from faceid.files.links import is_link, open_link
from faceid.models import ResourceFile

CHUNK = 1024 * 1024
"""Bytes in memory at a time while a file is measured."""

_S3 = ("s3", "s3a")


class NoReaderError(OSError):
    """Nothing that is installed reads such a location. Its text says what would."""


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises ``NoReaderError``."""
    scheme = url.partition("://")[0].lower()
    try:
        # A listing that is remembered would hide what came since.
        options = {"use_listings_cache": False} if scheme in _S3 else {}
        return cast("tuple[Any, str]", cast("Any", fsspec).url_to_fs(url, **options))
    except (ImportError, ValueError):
        what = "nothing that is installed reads such locations"
        more = ": s3:// needs faceid-flows[s3], see make s3" if scheme in _S3 else ""
        raise NoReaderError(EIO, what + more) from None


def open_location(location: str) -> IO[bytes]:
    """Opens what ``faceid.files.roots`` gave. Raises ``OSError``, as reading then does."""
    if "://" not in location:
        return Path(location).open("rb")
    if is_link(location):
        return open_link(location)
    with plain_errors():
        files, path = file_system(location)
        return io.BufferedReader(_RemoteFile(files.open(path, "rb")), CHUNK)


class _RemoteFile(io.RawIOBase):
    """A file on another file system, whose errors are told as a local file's are."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with plain_errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        with plain_errors():
            self._file.close()


@contextmanager
def plain_errors() -> Generator[None]:
    """Turns any error of another file system into an ``OSError`` in our own words.

    Each has errors of its own, and many of them carry the URL, with the query that opens it.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(ENOENT, "no such file") from None
    except PermissionError:
        raise PermissionError(EACCES, "permission denied") from None
    except NoReaderError:
        raise
    except Exception as error:
        raise OSError(EIO, type(error).__name__) from None


def measure(field: ResourceField, location: str) -> ResourceFile:
    """Reads the file once: its size, its MD5, its format. Raises ``InvalidInput``."""
    try:
        if "://" not in location and not Path(location).is_file():
            what = "is no regular file" if Path(location).exists() else "there is no such file"
            raise _refused(f"resource {field.name}", what)
        with open_location(location) as handle:
            return _measure(field, location, handle)
    except FileNotFoundError:
        raise _refused(f"resource {field.name}", "there is no such file") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _refused(f"resource {field.name}", f"the file cannot be read ({reason})") from None


def _measure(field: ResourceField, location: str, handle: IO[bytes]) -> ResourceFile:
    digest = hashlib.md5(usedforsecurity=False)
    what = f"resource {field.name}"
    size = 0
    limit = field.max_bytes
    while chunk := handle.read(CHUNK):
        if size == 0 and field.formats and format_of(chunk) not in field.formats:
            raise _refused(what, f"the file is not {' or '.join(field.formats)}")
        digest.update(chunk)
        size += len(chunk)
        if limit is not None and size > limit:
            raise _refused(
                what,
                f"the file is larger than {limit:,} bytes "
                f"({field.max_base64_bytes:,} after base64, the API's limit)",
            )
    if size == 0:
        raise _refused(what, "the file is empty")
    return ResourceFile(field=field.name, location=location, size=size, md5=digest.hexdigest())


def format_of(head: bytes) -> Format | None:
    """The format that a file's first 16 bytes tell; ``None`` for any other."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[4:8] == b"ftyp":
        return "MP4"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "AVI"
    if head.startswith(b"FLV\x01"):
        return "FLV"
    return None


def _refused(what: str, reason: str) -> InvalidInput:
    return InvalidInput("InvalidResource", f"{what}: {reason}")
