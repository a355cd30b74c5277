"""Where the locations that people name may point: ``FACEID_RESOURCE_ROOTS``.

A location is a local path or any fsspec URL. Whoever may start a run of a deployment, or write a
manifest, names locations on a machine that is not his: no spelling of one may lead elsewhere. What
is refused is said by the location's name, not by its path: paths stay out of logs and states.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

# pathlib takes ten times as long, and a manifest may hold a million locations
from posixpath import islink, join, normpath, realpath, split
from typing import Self
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from faceid.errors import InvalidInput

# These read other files, local ones among them, and would walk around the roots. (As words: a
# list of twenty literals, which the rule asks for, is twenty lines.)
WRAPPERS = frozenset(
    "async_wrapper asynclocal asyncwrapper blockcache cached dask data dir dvc filecache generic "  # noqa: SIM905
    "git jlab jupyter libarchive pyscript reference simplecache tar zip".split()
)
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
# To fsspec a scheme of one letter is a drive, and the location a path on this machine.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")
_HTTP = ("http", "https")


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
    """Beginnings of URLs: ``s3://bucket/in``, or ``https://`` for all of these."""
    any_url: bool
    """Whether any URL will do."""
    what_else: str
    """What a file that lies in none of the folders lies outside of."""
    _real_path: Callable[[str], str] = field(init=False, factory=_real_paths)

    @classmethod
    def of(cls, given: Sequence[str], *, deployed: bool = False) -> Self:
        """Of ``FACEID_RESOURCE_ROOTS``.

        Who runs a command can read as much without it: where no folder is given, the working
        folder is one, and where no URL is given, any will do. With ``deployed`` there is nothing
        but what is given.
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
        """The location as ``faceid.files.resources.open_location`` takes it: an absolute path
        or a URL.

        ``what`` is its name in errors. ``base`` is the folder that a relative location starts from.
        With ``links`` a URL may have a query or user info, which open it to whoever reads it.
        Links of the file system are followed before the folder is compared. Raises
        ``InvalidInput``.
        """
        scheme, separator, rest = location.partition("://")
        if not location or "\0" in location:
            raise _refused(what, "the location is empty")
        if not self.folders and not self.urls:
            raise _refused(what, "FACEID_RESOURCE_ROOTS, which says what runs may read, is not set")
        if "::" in location or (separator and scheme.lower() in WRAPPERS):
            raise _refused(what, "a location inside another file is not taken")
        if separator and scheme.lower() not in ("file", "local"):
            return self._remote(what, location, links=links)
        if "://" in base:
            if not separator and not location.startswith("/"):
                return self._remote(what, _join(base, location), links=links)
            base = ""
        return self._local(what, join(base, rest if separator else location))

    def resolve_folder(self, name: str, location: str) -> Path:
        """A folder to write to, under the same rule as what is read. Raises ``InvalidInput``."""
        resolved = self.resolve(f"resource {name}", location)
        if "://" in resolved:
            raise _refused(f"resource {name}", "must be a folder on this machine")
        return Path(resolved)

    def _remote(self, what: str, location: str, *, links: bool) -> str:
        try:
            location.encode()
            parts = urlsplit(location)
        except ValueError:
            raise _refused(what, "the location is no URL") from None
        if _CONTROL.search(location) or not _SCHEME.fullmatch(location.partition("://")[0]):
            raise _refused(what, "the location is no URL")
        if not links and (parts.query or parts.username is not None):
            raise _refused(what, "a link with a query or a password is not taken here")
        if not self.any_url and not any(_is_below(location, root) for root in self.urls):
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
            raise _refused(what, f"the file lies outside {self.what_else}")
        return resolved


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_below(location: str, root: str) -> bool:
    is_below = location == root or location.startswith(root.rstrip("/") + "/")
    return is_below and not any(map(_leads_up, _steps(location)))


def _steps(location: str) -> list[str]:
    """As a server may read them, and not as they are written."""
    scheme, _, path = location.partition("://")
    if scheme.lower() in _HTTP:
        path = urlsplit(location).path
    # Elsewhere a ? or # is a sign like others. Some servers decode once more than they should.
    while (decoded := unquote(path)) != path:
        path = decoded
    return re.split(r"[/\\]", path)


def _leads_up(step: str) -> bool:
    """``..``, or what some servers take for it: ``..;x``, ``.. ``, ``...``."""
    return re.fullmatch(r"\.{2,}", step.partition(";")[0].strip()) is not None


def _join(base: str, location: str) -> str:
    """A relative location on another file system; never above its host or bucket."""
    scheme, _, rest = base.partition("://")
    host, _, folder = rest.partition("/")
    path, mark, query = location.partition("?")
    # "/./", as two slashes at the beginning would stay two
    return f"{scheme}://{host}{normpath(f'/./{folder}/{path}')}{mark}{query}"


def _refused(what: str, reason: str) -> InvalidInput:
    return InvalidInput("InvalidResource", f"{what}: {reason}")
