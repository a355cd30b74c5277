"""Resource roots: the folders and URLs that locations may point into (``FACEID_RESOURCE_ROOTS``).

A location is a local path or an fsspec URL. People who start runs or write manifests name locations
on a machine that may not be theirs, so no spelling of a location may lead outside the roots. Errors
name the resource and not the location, so that locations do not get into logs.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

# Not pathlib, which takes ten times as long: a manifest may contain a million locations.
from posixpath import islink, join, normpath, realpath, split
from typing import Self
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from faceid.errors import InvalidInput

# The names are split from one string, because the formatter would spread a list over more than
# twenty lines.
WRAPPERS = frozenset(
    "async_wrapper asynclocal asyncwrapper blockcache cached dask data dir dvc filecache generic "  # noqa: SIM905 - see above
    "git jlab jupyter libarchive pyscript reference simplecache tar zip".split()
)
"""URL schemes of file systems that read other files, including local ones, and would therefore
bypass the roots."""
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
# A scheme has at least two letters, because fsspec takes a single letter for the drive of a local
# path.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")
_HTTP = ("http", "https")


def _real_paths() -> Callable[[str], str]:
    """Return a variant of ``realpath`` that resolves a folder only once for all paths in it."""

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
    """The folders and URLs that locations may point into, resolved once for many locations.

    An instance caches where symbolic links lead: create a new one for each pass over a manifest.
    """

    folders: tuple[str, ...]
    """Absolute paths of the allowed folders, with symbolic links resolved."""
    urls: tuple[str, ...]
    """Prefixes of the allowed URLs: ``s3://bucket/in``, or ``https://`` for a whole scheme."""
    any_url: bool
    """Whether all URLs are allowed, whatever their prefix."""
    what_else: str
    """End of the error message for a file in none of the folders: "the file lies outside …"."""
    _real_path: Callable[[str], str] = field(init=False, factory=_real_paths)

    @classmethod
    def of(cls, given: Sequence[str], *, deployed: bool = False) -> Self:
        """Return the roots that the items of ``FACEID_RESOURCE_ROOTS`` name.

        With ``deployed``, only the given folders and URLs are allowed. Without ``deployed``, there
        are defaults, because the person who runs a command can read these files anyway: the working
        folder if no folder is given, and all URLs if no URL is given.
        """
        folders = [root for root in given if "://" not in root]
        urls = tuple(root for root in given if "://" in root)
        what_else = "FACEID_RESOURCE_ROOTS"
        if not folders and not deployed:
            folders = ["."]
            what_else = "the working folder; name its folder in FACEID_RESOURCE_ROOTS"
        return cls(
            folders=tuple(realpath(folder) for folder in folders),
            urls=urls,
            any_url=not urls and not deployed,
            what_else=what_else,
        )

    def resolve(self, what: str, location: str, *, base: str = "", links: bool = False) -> str:
        """Check a location, and return it as an absolute path or a URL for ``open_location``.

        ``what`` names the location in errors. ``base`` is the folder or URL that a relative
        location is resolved against, by default the working folder. With ``links``, a URL may have
        a query or user info, with which everyone who reads the URL can read the file. Symbolic
        links are resolved before a path is compared with the roots. Raises ``InvalidInput`` if the
        location is malformed or outside the roots.
        """
        scheme, separator, rest = location.partition("://")
        if not location or "\0" in location:
            raise _refused(what, "the location is empty")
        if not self.folders and not self.urls:
            raise _refused(
                what,
                "FACEID_RESOURCE_ROOTS, which says what runs may read, is not set in the worker's "
                "environment",
            )
        if "::" in location or (separator and scheme.lower() in WRAPPERS):
            raise _refused(what, "a location inside another file is not accepted")
        if separator and scheme.lower() not in ("file", "local"):
            return self._remote(what, location, links=links)
        if "://" in base:
            if not separator and not location.startswith("/"):
                return self._remote(what, _join(base, location), links=links)
            base = ""
        return self._local(what, join(base, rest if separator else location))

    def resolve_folder(self, name: str, location: str) -> Path:
        """Check the location of a folder to write to, and return its absolute path.

        ``name`` names the folder in errors. Raises ``InvalidInput`` if the location is malformed,
        outside the roots, or a URL.
        """
        resolved = self.resolve(f"resource {name}", location)
        if "://" in resolved:
            raise _refused(f"resource {name}", "must be a folder on this machine")
        return Path(resolved)

    def _remote(self, what: str, location: str, *, links: bool) -> str:
        try:
            location.encode()
            parts = urlsplit(location)
        except ValueError:
            raise _refused(what, "the location is not a valid URL") from None
        if _CONTROL.search(location) or not _SCHEME.fullmatch(location.partition("://")[0]):
            raise _refused(what, "the location is not a valid URL")
        if not links and (parts.query or parts.username is not None):
            raise _refused(what, "a link with a query or a password is not accepted here")
        if not self.any_url and not any(_is_below(location, root) for root in self.urls):
            raise _refused(what, "the location is outside FACEID_RESOURCE_ROOTS", location)
        return location

    def _local(self, what: str, path: str) -> str:
        try:
            resolved = self._real_path(path)
            resolved.encode()
        except (OSError, ValueError, RecursionError):
            # No file can have such a name.
            raise _refused(what, "the location is not a valid path") from None
        if not any(_is_in(resolved, folder) for folder in self.folders):
            raise _refused(what, f"the file lies outside {self.what_else}", resolved)
        return resolved


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_below(location: str, root: str) -> bool:
    is_below = location == root or location.startswith(root.rstrip("/") + "/")
    return is_below and not any(map(_leads_up, _steps(location)))


def _steps(location: str) -> list[str]:
    """Return the segments of a URL's path, decoded as a server might decode them."""
    scheme, _, path = location.partition("://")
    if scheme.lower() in _HTTP:
        path = urlsplit(location).path
    # In URLs of other schemes, ? and # are ordinary characters. The path is decoded until nothing
    # changes, because some servers decode once more than they should.
    while (decoded := unquote(path)) != path:
        path = decoded
    return re.split(r"[/\\]", path)


def _leads_up(step: str) -> bool:
    """Return whether a segment is ``..`` or a variant that some servers treat the same way.

    Such variants are ``..;x``, ``.. `` (with a space) and ``...``.
    """
    return re.fullmatch(r"\.{2,}", step.partition(";")[0].strip()) is not None


def _join(base: str, location: str) -> str:
    """Join a relative location to a base URL; the result never leaves the base's host or bucket."""
    scheme, _, rest = base.partition("://")
    host, _, folder = rest.partition("/")
    path, mark, query = location.partition("?")
    # The path begins with "/./", because `normpath` would keep two slashes at the beginning.
    return f"{scheme}://{host}{normpath(f'/./{folder}/{path}')}{mark}{query}"


def _refused(what: str, reason: str, location: str = "") -> InvalidInput:
    error = InvalidInput("InvalidResource", f"{what}: {reason}")
    error.location = location
    return error
