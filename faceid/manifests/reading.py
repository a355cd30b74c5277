"""Finding the manifests of a batch, and reading them line by line.

A manifest lists requests as JSONL or CSV. A batch may have several manifests, if its location is a
glob. Manifests are read as streams, because they may be larger than memory;
``faceid.manifests.snapshot`` keeps their requests.

A manifest may contain presigned URLs and personal data, which must not be logged. Messages about a
line therefore quote nothing from the line but a valid request ID.
"""

import csv
import io
import json
import os
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from glob import glob
from itertools import chain
from pathlib import Path
from posixpath import isdir, isfile, join
from stat import S_ISREG
from typing import Any, Self, cast

import fsspec
from attrs import field, frozen
from fsspec.utils import infer_compression

from faceid.actions import TargetAction
from faceid.errors import InvalidInput
from faceid.files.links import is_link
from faceid.files.resources import file_system, open_location, plain_errors
from faceid.files.roots import Roots
from faceid.models import REQUEST_ID_PATTERN, Request
from faceid.validation import RequestValidator, personal_parameters, read_request

MAX_LINE = 1024 * 1024
"""Maximum size in bytes of a line, or of a CSV record, which may span several lines."""
MAX_RECORD_LINES = 1000
"""Maximum number of lines of a CSV record. A longer record is assumed to have an unclosed quote."""

_NEEDED = ("request_id", "target_action", "region")
_FIELDS = (*_NEEDED, "resources", "action_parameters")
_TOO_LONG = f"is longer than {MAX_LINE:,} bytes"
_NOT_UTF8 = "is not UTF-8"
_NOT_CSV = (
    "is not CSV: a quote is not closed or not at the end of its cell, or a CR does not end a line"
)
_LONG_CELL = f"a cell has more than {csv.field_size_limit():,} characters, or a quote is not closed"
_UNKNOWN = "contains a name that no target action uses"
_GLOB = re.compile(r"[*?[]")
_JSON = (".jsonl", ".ndjson", ".json")
_BOM = b"\xef\xbb\xbf"


@frozen
class Entry:
    """A line of a manifest with a valid request."""

    manifest: str
    """File name of the manifest, without its folder."""
    line: int
    """Line number, starting at 1; for a CSV record, its first line."""
    request: Request = field(repr=False)
    """The request, with absolute locations."""


@frozen
class BadLine:
    """A line of a manifest without a valid request."""

    manifest: str
    """File name of the manifest, without its folder."""
    line: int
    """Line number, starting at 1; for a CSV record, its first line."""
    reason: str
    """What is wrong with the line. It quotes nothing from the line but a valid request ID."""
    request_id: str = ""
    """The request ID of the line; empty if it has no valid one."""

    def __str__(self) -> str:
        return f"{self.manifest}, line {self.line}: {self.reason}"


def find_manifests(location: str, roots: Roots) -> list[str]:
    """Return the manifests at a location: a sorted list of URLs and absolute paths.

    Symbolic links in paths are resolved. The location may be a glob with ``*``, ``**``, ``?`` and
    ``[…]``; in a URL, ``?`` is not supported, because it begins a query. A glob that matches no
    file gives an empty list. Names that begin with a dot are matched only by a pattern that begins
    with a dot. The location and all matches must lie within the roots. Raises ``InvalidInput`` if
    they do not, if a folder cannot be listed, or if a location without a glob is not a file.
    """
    if "{" in location:
        raise _unusable(
            "the location contains a { that was not filled in; only {date} is supported"
        )
    resolved = _resolve(roots, location)
    pattern = _GLOB.search(location)
    if pattern is None or isfile(resolved):
        found = [resolved]
    else:
        cut = location.rfind("/", 0, pattern.start()) + 1
        if ".." in location[cut:].split("/"):
            raise _unusable("a pattern must not contain ..")
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
        raise _unusable(f"the folder cannot be listed ({error.strerror})", folder) from None
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
        raise _unusable("there is no such file", location) from None
    except OSError as error:
        raise _unusable(f"the file cannot be read ({error.strerror})", location) from None
    if not is_file:
        raise _unusable("is not a regular file", location)


def _unusable(reason: str, location: str = "") -> InvalidInput:
    error = InvalidInput("InvalidManifest", f"manifest: {reason}")
    error.location = location
    return error


def name_of(location: str) -> str:
    """Return a manifest's file name, with unprintable characters replaced by ``?``."""
    name = location.rpartition("/")[2]
    return "".join(sign if sign.isprintable() else "?" for sign in name)


def read_manifest(location: str, validator: RequestValidator) -> Iterator[Entry | BadLine]:
    """Read and check a manifest, and yield an entry or a bad line for each record in it.

    ``location`` is a result of ``find_manifests``, and ``validator`` must have been created with
    ``from_manifest``. The file name determines whether the manifest is compressed, and whether it
    is JSONL or CSV; if it does not, the first character does. The files that the requests name are
    not opened, and request IDs that are used twice are not detected. Raises ``InvalidInput`` if the
    manifest cannot be read.
    """
    name = name_of(location)
    folder = location[: location.rindex("/") + 1]
    names = _Names.of(validator.actions)
    for line, found in _records(location, name, names):
        if isinstance(found, str):
            yield BadLine(name, line, found)
            continue
        try:
            request = _read_request(found, names, validator, folder)
        except InvalidInput as error:
            yield BadLine(name, line, error.message, _request_id(found))
        else:
            yield Entry(name, line, request)


@frozen
class _Names:
    """The names of the resources and parameters of all target actions."""

    resources: frozenset[str]
    """Includes the MD5 fields, which the validator refuses with a reason of their own."""
    all: frozenset[str]
    """The names of both resources and parameters."""

    @classmethod
    def of(cls, actions: Mapping[str, TargetAction]) -> Self:
        resources: set[str] = set()
        parameters: set[str] = set()
        for action in actions.values():
            resources.update(action.md5_fields, (resource.name for resource in action.resources))
            parameters.update(personal_parameters(action))
            parameters.update(parameter.name for parameter in action.parameters)
        return cls(frozenset(resources), frozenset(resources | parameters))


def _read_request(
    fields: dict[str, Any], names: _Names, validator: RequestValidator, base: str
) -> Request:
    """Build, check and return the request of a line, with absolute locations.

    Whatever the error messages of other functions would quote from the line is checked here first.
    """
    for name in fields:
        if name not in _FIELDS:
            raise _bad(f"a key is not one of {', '.join(_FIELDS)}")
    for name in _FIELDS[:-1]:
        if name not in fields:
            raise _bad(f"{name} is missing")
    request = read_request(**fields)
    if (action := validator.actions.get(request.target_action)) is None:
        raise _bad(f"target_action must be {' or '.join(sorted(validator.actions))}")
    if request.region not in action.regions:
        raise _bad(f"region must be {' or '.join(action.regions)} for {action.name}")
    if not names.all.issuperset(request.resources):
        raise _bad(f"resources: {_UNKNOWN}")
    if not names.all.issuperset(request.action_parameters):
        raise _bad(f"action_parameters: {_UNKNOWN}")
    return request.model_copy(update={"resources": validator.check(request, base).locations})


def _bad(reason: str) -> InvalidInput:
    return InvalidInput("BadLine", reason)


def _request_id(fields: dict[str, Any]) -> str:
    given = fields.get("request_id")
    return given if isinstance(given, str) and re.fullmatch(REQUEST_ID_PATTERN, given) else ""


_Line = tuple[int, bytes | None]
"""A line's number and its bytes, or ``None`` if it is too long."""
_Record = tuple[int, dict[str, Any] | str]
"""The number of a record's first line, and its fields or the reason why it is invalid."""


def _records(location: str, name: str, names: _Names) -> Iterator[_Record]:
    lines = _lines(location, name)
    stem = Path(name.lower())
    kind = Path(stem.stem).suffix if infer_compression(location) else stem.suffix
    if kind not in (".csv", *_JSON):
        first = next((line for line in lines if line[1] is None or line[1].strip()), (1, b""))
        lines = chain([first], lines)
        kind = ".jsonl" if (first[1] or b"").lstrip().startswith(b"{") else ".csv"
    return _json_records(lines) if kind in _JSON else _csv_records(lines, names)


def _lines(location: str, name: str) -> Iterator[_Line]:
    try:
        with ExitStack() as opened:
            file = opened.enter_context(open_location(location))
            if codec := infer_compression(location):
                # The reader is needed because not every codec supports a size limit for `readline`.
                file = io.BufferedReader(
                    cast("Any", fsspec).compression.compr[codec](file, mode="rb")
                )
                opened.enter_context(file)
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                is_whole = len(line) <= MAX_LINE or line.endswith(b"\n")
                yield (
                    number,
                    (line.removeprefix(_BOM) if number == 1 else line) if is_whole else None,
                )
                while not is_whole:
                    line = file.readline(MAX_LINE)
                    is_whole = not line or line.endswith(b"\n")
    except Exception as error:
        # Every codec and file system has its own exceptions.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidInput("InvalidManifest", f"{name} cannot be read ({reason})") from None


def _json_records(lines: Iterable[_Line]) -> Iterator[_Record]:
    for number, line in lines:
        if line is None:
            yield number, _TOO_LONG
        elif line.strip():
            yield number, _json_object(line)


def _json_object(line: bytes) -> dict[str, Any] | str:
    try:
        value = _JSON_DECODER.decode(line.decode())
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return _NOT_UTF8
    except UnicodeEncodeError:
        return "contains half a character: a \\u escape that is invalid on its own"
    except json.JSONDecodeError as error:
        return f"is not JSON (column {error.colno})"
    except RecursionError:
        return "is nested too deeply"
    except _TwiceError:
        return "contains the same key twice"
    except ValueError:
        return "contains a number with too many digits"
    if not isinstance(value, dict):
        return "is not a JSON object; each line must be one"
    return cast("dict[str, Any]", value)


class _TwiceError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


_JSON_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _csv_records(lines: Iterator[_Line], names: _Names) -> Iterator[_Record]:
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True)
    header: list[str] = []
    while True:
        feed.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            yield feed.first, _csv_reason(error)
            if not header:
                return
            feed.go_back()
            continue
        if not "".join(cells).strip():
            continue
        if not header:
            header = cells
            if wrong := _wrong_header(header, names):
                yield feed.first, wrong
                return
        elif len(cells) != len(header):
            yield feed.first, f"has {len(cells)} cells where the header has {len(header)}"
        else:
            yield feed.first, _fields(header, cells, names)


class _Feed(Iterator[str]):
    """Passes lines to a CSV reader, and remembers the lines of the current record.

    If the record turns out to be invalid, only its first line is reported. The other lines are then
    read again, because they may be valid records.
    """

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = lines
        self._again: deque[_Line] = deque()
        self._record: list[_Line] = []
        self._size = 0

    def begin(self) -> None:
        """Mark the next line as the first of a record."""
        self._record = []
        self._size = 0

    @property
    def first(self) -> int:
        """Number of the current record's first line."""
        return self._record[0][0]

    def go_back(self) -> None:
        """Continue with the current record's second line."""
        self._again.extendleft(reversed(self._record[1:]))

    def __next__(self) -> str:
        number, line = self._again.popleft() if self._again else next(self._lines)
        self._record.append((number, line))
        self._size += len(line or b"")
        if line is None or self._size > MAX_LINE + 1:
            raise ValueError(_TOO_LONG)
        if len(self._record) > MAX_RECORD_LINES:
            raise ValueError(_NOT_CSV)
        return line.decode()


def _csv_reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return _NOT_UTF8
    if isinstance(error, csv.Error):
        return _LONG_CELL if "limit" in str(error) else _NOT_CSV
    return str(error)


def _wrong_header(header: list[str], names: _Names) -> str:
    """Return what is wrong with a CSV header; an empty string if nothing is.

    The result never quotes a cell, because in a file without a header the first line may contain
    personal data.
    """
    for name in _NEEDED:
        if name not in header:
            return f"the header has no column {name} (columns are separated by commas)"
    for number, name in enumerate(header, 1):
        if name not in _NEEDED and name not in names.all:
            return f"the header's column {number} is neither a resource nor a parameter"
        if name in header[: number - 1]:
            return f"the header has the column {name} twice"
    return ""


def _fields(header: list[str], cells: list[str], names: _Names) -> dict[str, Any]:
    fields: dict[str, Any] = {"resources": {}, "action_parameters": {}}
    for name, cell in zip(header, cells, strict=True):
        if not cell:
            continue
        if name in _NEEDED:
            fields[name] = cell
        else:
            fields["resources" if name in names.resources else "action_parameters"][name] = cell
    return fields
