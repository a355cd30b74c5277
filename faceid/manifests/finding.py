"""Finding the manifests of a batch, whose location may be a glob."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from posixpath import isdir, isfile, join
from stat import S_ISREG
from typing import Any

from faceid.errors import InvalidInput
from faceid.files.links import is_link
from faceid.files.resources import file_system, plain_errors
from faceid.files.roots import Roots

_GLOB = re.compile(r"[*?[]")


def find_manifests(location: str, roots: Roots) -> list[str]:
    """Return the manifests at a location: a sorted list of URLs and absolute paths.

    Symbolic links in paths are resolved. The location may be a glob with ``*``, ``**``, ``?`` and
    ``[…]``; in a URL, ``?`` is not supported, because it begins a query. A glob that matches no
    file gives an empty list. Names that begin with a dot are matched only by a pattern that begins
    with a dot. The location and all matches must lie within the roots. Raises ``InvalidInput`` if
    they do not, if a folder cannot be listed, or if a location without a glob is not a file.
    """
    if "{" in location:
        raise unusable("the location contains a { that was not filled in; only {date} is supported")
    resolved = _resolve(roots, location)
    pattern = _GLOB.search(location)
    if pattern is None or isfile(resolved):
        found = [resolved]
    else:
        cut = location.rfind("/", 0, pattern.start()) + 1
        if ".." in location[cut:].split("/"):
            raise unusable("a pattern must not contain ..")
        folder = _resolve(roots, location[:cut] or ".")
        found = [_resolve(roots, match) for match in _matches(folder, location[cut:])]
    for manifest in found:
        _check_is_file(manifest)
    return sorted(set(found))


def _resolve(roots: Roots, location: str) -> str:
    try:
        return roots.resolve("manifest", location)
    except InvalidInput as error:
        refused = InvalidInput("InvalidManifest", error.message)
        refused.location = error.location
        raise refused from None


def _matches(folder: str, pattern: str) -> list[str]:
    try:
        if "://" not in folder:
            # `glob` would treat an unreadable folder as empty; `scandir` raises an error.
            os.scandir(folder).close()
            names = glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - unlike glob, Path.glob matches dotfiles
            return [path for name in names if not isdir(path := join(folder, name))]
        with plain_errors(), _listing(folder + pattern) as (system, path):
            found = system.glob(path, detail=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unusable(f"the folder cannot be listed ({error.strerror})", folder) from None
    # File systems return paths without the URL's scheme, and some also without its host. Both are
    # added again.
    start = (folder + pattern).removesuffix(path)
    return [
        start + name
        for name, info in found.items()
        if info["type"] != "directory" and not name.rpartition("/")[2].startswith(".")
    ]


@contextmanager
def _listing(url: str) -> Generator[tuple[Any, str]]:
    """Yield the file system of a URL and the path within it, without cached listings.

    A cached listing would hide newer files, and a process may run for weeks.
    """
    system, path = file_system(url)
    system.invalidate_cache()
    try:
        yield system, path
    finally:
        system.invalidate_cache()


def _check_is_file(location: str) -> None:
    if is_link(location):
        return  # not checked, as a presigned URL may be valid for a single request only
    try:
        if "://" in location:
            with plain_errors(), _listing(location) as (system, path):
                is_file = system.info(path)["type"] == "file"
        else:
            is_file = S_ISREG(Path(location).stat().st_mode)
    except FileNotFoundError:
        raise unusable("there is no such file", location) from None
    except OSError as error:
        raise unusable(f"the file cannot be read ({error.strerror})", location) from None
    if not is_file:
        raise unusable("is not a regular file", location)


def unusable(reason: str, location: str = "") -> InvalidInput:
    """Return the error for a manifest that cannot be read at all, with the reason."""
    error = InvalidInput("InvalidManifest", f"manifest: {reason}")
    error.location = location
    return error
