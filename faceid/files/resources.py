"""Opening the files that callers name, and measuring their size, MD5 and format.

A location is a local path or an fsspec URL that ``faceid.files.roots`` has accepted. Errors name
the resource's field and not the location, so that locations do not get into logs.
"""

import hashlib
import io
from collections.abc import Callable, Generator
from contextlib import contextmanager
from errno import EACCES, EIO, ENOENT
from pathlib import Path
from typing import Any, cast

import fsspec

from faceid.actions import Format, ResourceField
from faceid.errors import InvalidInput
from faceid.files.links import is_link, open_link
from faceid.models import ResourceFile

CHUNK = 1024 * 1024
"""Size in bytes of the chunks in which a file is measured."""

_S3 = ("s3", "s3a")


class NoReaderError(OSError):
    """Raised if no installed package can read a location.

    The message says which package is needed, if that is known.
    """


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path within it.

    Raises ``NoReaderError`` if no installed package supports the URL's scheme.
    """
    scheme = url.partition("://")[0].lower()
    try:
        # A cached listing would hide files that were added since.
        options = {"use_listings_cache": False} if scheme in _S3 else {}
        return cast("tuple[Any, str]", cast("Any", fsspec).url_to_fs(url, **options))
    except (ImportError, ValueError):
        what = "no installed package reads such locations"
        more = ": s3:// needs faceid-flows[s3], see make s3" if scheme in _S3 else ""
        raise NoReaderError(EIO, what + more) from None


def open_location(location: str) -> io.BufferedReader:
    """Open a location for reading bytes, and return the file.

    ``faceid.files.roots`` must have accepted the location. Both this function and reading from the
    file raise only ``OSError``.
    """
    if "://" not in location:
        return Path(location).open("rb")
    if is_link(location):
        return open_link(location)
    with plain_errors():
        files, path = file_system(location)
        return io.BufferedReader(_RemoteFile(files.open(path, "rb")), CHUNK)


class _RemoteFile(io.RawIOBase):
    """A file on a remote file system that raises the same errors as a local one."""

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
    """Convert any exception of a remote file system into an ``OSError`` without its message.

    Every file system has its own exceptions, and many of their messages contain the whole URL,
    including the query that grants access.
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


Read = Callable[[io.BufferedReader, int], bytes]
"""Reads the given number of bytes from an open file, or fewer at its end."""


def measure(
    field: ResourceField, location: str, read: Read = io.BufferedReader.read
) -> ResourceFile:
    """Read a file once with ``read``, and return its size in bytes and its MD5. Blocks.

    Raises ``InvalidInput`` if the file cannot be read, is empty, is larger than the field allows,
    or has none of the field's formats.
    """
    try:
        if "://" not in location and not Path(location).is_file():
            what = "is not a regular file" if Path(location).exists() else "there is no such file"
            raise refused(field.name, what, location)
        with open_location(location) as handle:
            return _measure(field, location, handle, read)
    except FileNotFoundError:
        raise refused(field.name, "there is no such file", location) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise refused(field.name, f"the file cannot be read ({reason})", location) from None


def _measure(
    field: ResourceField, location: str, handle: io.BufferedReader, read: Read
) -> ResourceFile:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    limit = field.max_bytes
    while chunk := read(handle, CHUNK):
        if size == 0 and field.formats and format_of(chunk) not in field.formats:
            raise refused(field.name, f"the file is not {' or '.join(field.formats)}", location)
        digest.update(chunk)
        size += len(chunk)
        if limit is not None and size > limit:
            raise refused(
                field.name,
                f"the file is larger than {limit:,} bytes "
                f"({field.max_base64_bytes:,} after base64, the API's limit)",
                location,
            )
    if size == 0:
        raise refused(field.name, "the file is empty", location)
    return ResourceFile(field=field.name, location=location, size=size, md5=digest.hexdigest())


def format_of(head: bytes) -> Format | None:
    """Return the format of a file; ``None`` if it is not one of ``Format``.

    ``head`` contains at least the first 16 bytes of the file.
    """
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


def refused(field: str, reason: str, location: str) -> InvalidInput:
    """Return the error for a file that is not accepted as the resource ``field``."""
    error = InvalidInput("InvalidResource", f"resource {field}: {reason}")
    error.location = location
    return error
