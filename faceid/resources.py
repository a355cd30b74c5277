"""Files that callers name: where they may lie, opening them, measuring them once.

A location is a local path or any fsspec URL. What goes wrong is said by the resource's field, not
by its path: paths stay out of logs and states.
"""

import hashlib
import io
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from errno import EACCES, EIO, ENOENT
from functools import lru_cache
from pathlib import Path

# pathlib takes ten times as long, and a manifest may hold a million locations
from posixpath import islink, join, normpath, realpath, split
from typing import IO, Any, Self, cast
from urllib.parse import unquote, urlsplit

import fsspec
from attrs import field, frozen

from faceid.actions import Format, ResourceField
from faceid.errors import InvalidInput
from faceid.models import ResourceFile

CHUNK = 1024 * 1024
"""Bytes in memory at a time while a file is measured."""

# These read other files, local ones among them, and would walk around the roots. (As words: a
# list of eighteen literals, which the rule asks for, is eighteen lines.)
_WRAPPERS = frozenset(
    "async_wrapper asynclocal blockcache cached dask data dir dvc filecache generic git jlab "  # noqa: SIM905
    "jupyter libarchive reference simplecache tar zip".split()
)
_CONTROL = re.compile(r"[\0-\x1f]")


def _real_paths() -> Callable[[str], str]:
    """``realpath`` for paths that have folders in common: these are looked at once."""

    def real_path(path: str) -> str:
        folder, name = split(path)
        if name in ("", ".", ".."):
            return realpath(path)
        found = join(real_folder(folder), name)
        return realpath(found) if islink(found) else found

    real_folder = lru_cache(2048)(real_path)
    return real_path


@frozen
class Roots:
    """What locations may point into, looked up once for many of them.

    It remembers where links lead: make a new one for each pass.
    """

    folders: tuple[str, ...]
    """Absolute, links followed."""
    urls: tuple[str, ...]
    _real_path: Callable[[str], str] = field(init=False, factory=_real_paths)

    @classmethod
    def of(cls, roots: Sequence[str]) -> Self:
        """Of ``FACEID_RESOURCE_ROOTS``: without a folder there, the working folder is one."""
        folders = [root for root in roots if "://" not in root] or ["."]
        return cls(
            folders=tuple(realpath(folder) for folder in folders),
            urls=tuple(root for root in roots if "://" in root),
        )

    def resolve(self, what: str, location: str, *, base: str = "", links: bool = False) -> str:
        """As ``resolve_location``; ``what`` is the location's name in errors."""
        scheme, separator, rest = location.partition("://")
        if not location or "\0" in location:
            raise _refused(what, "the location is empty")
        if "::" in location or (separator and scheme.lower() in _WRAPPERS):
            raise _refused(what, "a location inside another file is not taken")
        if separator and scheme.lower() not in ("file", "local"):
            return self._remote(what, location, links=links)
        if "://" in base and not separator and not location.startswith("/"):
            return self._remote(what, _join(base, location), links=links)
        return self._local(what, join(base, rest if separator else location))

    def _remote(self, what: str, location: str, *, links: bool) -> str:
        try:
            location.encode()
            parts = urlsplit(location)
        except ValueError:
            raise _refused(what, "the location is no URL") from None
        if _CONTROL.search(location):
            raise _refused(what, "the location is no URL")
        if not links and (parts.query or parts.username is not None):
            raise _refused(what, "a link with a query or a password is not taken here")
        if self.urls and not any(_is_below(location, root) for root in self.urls):
            raise _refused(what, "the location is outside FACEID_RESOURCE_ROOTS")
        return location

    def _local(self, what: str, path: str) -> str:
        try:
            resolved = self._real_path(path)
            resolved.encode()
        except (OSError, ValueError, RecursionError):
            # a name that no file can have
            raise _refused(what, "the location is no path") from None
        if not any(_is_in(resolved, folder) for folder in self.folders):
            raise _refused(
                what,
                "the file lies outside the working folder; "
                "name its folder in FACEID_RESOURCE_ROOTS",
            )
        return resolved


def resolve_location(field: str, location: str, roots: Sequence[str] = ()) -> str:
    """The location in the form that ``open_location`` takes: an absolute path or a URL.

    ``roots`` are folders and URL prefixes that locations may point into; without a folder among
    them the working folder is one. A URL is free unless a URL prefix is among them. Links are
    followed before the folder is compared. ``Roots.resolve`` has more to choose: ``base`` is the
    folder that a relative location starts from, and with ``links`` a URL may have a query or user
    info, which open it to whoever reads it. Raises ``InvalidInput``.
    """
    return Roots.of(roots).resolve(f"resource {field}", location)


def resolve_folder(name: str, location: str, roots: Sequence[str] = ()) -> Path:
    """A folder to write to, under the same rule as what is read. Raises ``InvalidInput``."""
    resolved = resolve_location(name, location, roots)
    if "://" in resolved:
        raise _refused(f"resource {name}", "must be a folder on this machine")
    return Path(resolved)


def _is_below(location: str, root: str) -> bool:
    # as the server reads the path, and not as it is written
    steps = unquote(urlsplit(location).path).split("/")
    return ".." not in steps and location.startswith(root.rstrip("/") + "/")


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _join(base: str, location: str) -> str:
    """A relative location on another file system; never above its host or bucket."""
    scheme, _, rest = base.partition("://")
    host, _, folder = rest.partition("/")
    path, mark, query = location.partition("?")
    # "/./", as two slashes at the beginning would stay two
    return f"{scheme}://{host}{normpath(f'/./{folder}/{path}')}{mark}{query}"


def open_location(location: str) -> IO[bytes]:
    """Opens what ``Roots.resolve`` gave. Raises ``OSError``, as reading then does."""
    if "://" not in location:
        return Path(location).open("rb")
    with plain_errors():
        return io.BufferedReader(
            _RemoteFile(cast("Any", fsspec).open(location, "rb").open()), CHUNK
        )


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
    except (ImportError, ValueError):
        raise OSError(EIO, "nothing that is installed reads such locations") from None
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
