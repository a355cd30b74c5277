"""Files that callers name: where they may lie, opening them, measuring them once.

A location is a local path or any fsspec URL. What goes wrong is said by the resource's field, not
by its path: paths stay out of logs and states.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec

from faceid.actions import Format, ResourceField
from faceid.errors import InvalidInput
from faceid.models import ResourceFile

CHUNK = 1024 * 1024
"""Bytes in memory at a time while a file is measured."""

# These read other files, local ones among them, and would walk around the roots. (As words: a
# list of fourteen literals, which the rule asks for, is fourteen lines.)
_WRAPPERS = frozenset(
    "blockcache cached dask data dir filecache generic git jlab jupyter libarchive reference "  # noqa: SIM905
    "simplecache tar zip".split()
)


def resolve_location(field: str, location: str, roots: Sequence[str] = ()) -> str:
    """The location in the form that ``open_location`` takes: an absolute path or a URL.

    ``roots`` are folders and URL prefixes that locations may point into; without a folder among
    them the working folder is one. A URL is free unless a URL prefix is among them. Links are
    followed before the folder is compared. Raises ``InvalidInput``.
    """
    scheme, separator, _ = location.partition("://")
    if not location or "\0" in location:
        raise _refused(field, "the location is empty")
    if "::" in location or (separator and scheme.lower() in _WRAPPERS):
        raise _refused(field, "a location inside another file is not taken")
    remote_roots = [root for root in roots if "://" in root]
    if separator and scheme.lower() not in ("file", "local"):
        parts = urlsplit(location)
        if parts.query or parts.username is not None:
            raise _refused(field, "a link with a query or a password does not belong in a request")
        if remote_roots and not any(_is_below(location, root) for root in remote_roots):
            raise _refused(field, "the location is outside FACEID_RESOURCE_ROOTS")
        return location
    path = Path(location.partition("://")[2] if separator else location).resolve()
    folders = [Path(root).resolve() for root in roots if "://" not in root] or [Path.cwd()]
    if not any(path.is_relative_to(folder) for folder in folders):
        raise _refused(
            field,
            "the file lies outside the working folder; name its folder in FACEID_RESOURCE_ROOTS",
        )
    return str(path)


def resolve_folder(name: str, location: str, roots: Sequence[str] = ()) -> Path:
    """A folder to write to, under the same rule as what is read. Raises ``InvalidInput``."""
    resolved = resolve_location(name, location, roots)
    if "://" in resolved:
        raise _refused(name, "must be a folder on this machine")
    return Path(resolved)


def _is_below(location: str, root: str) -> bool:
    return ".." not in location.split("/") and location.startswith(root.rstrip("/") + "/")


def open_location(location: str) -> IO[bytes]:
    """Opens what ``resolve_location`` gave. Raises ``OSError``."""
    if "://" not in location:
        return Path(location).open("rb")
    return cast("IO[bytes]", cast("Any", fsspec).open(location, "rb").open())


def measure(field: ResourceField, location: str) -> ResourceFile:
    """Reads the file once: its size, its MD5, its format. Raises ``InvalidInput``."""
    try:
        if "://" not in location and not Path(location).is_file():
            what = "is no regular file" if Path(location).exists() else "there is no such file"
            raise _refused(field.name, what)
        with open_location(location) as handle:
            return _measure(field, location, handle)
    except FileNotFoundError:
        raise _refused(field.name, "there is no such file") from None
    except (OSError, ImportError, ValueError) as error:
        # ImportError: the file system's package is not installed; ValueError: unknown scheme
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise _refused(field.name, f"the file cannot be read ({reason})") from None


def _measure(field: ResourceField, location: str, handle: IO[bytes]) -> ResourceFile:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    limit = field.max_bytes
    while chunk := handle.read(CHUNK):
        if size == 0 and field.formats and format_of(chunk) not in field.formats:
            raise _refused(field.name, f"the file is not {' or '.join(field.formats)}")
        digest.update(chunk)
        size += len(chunk)
        if limit is not None and size > limit:
            raise _refused(
                field.name,
                f"the file is larger than {limit:,} bytes "
                f"({field.max_base64_bytes:,} after base64, the API's limit)",
            )
    if size == 0:
        raise _refused(field.name, "the file is empty")
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


def _refused(field: str, reason: str) -> InvalidInput:
    return InvalidInput("InvalidResource", f"resource {field}: {reason}")
