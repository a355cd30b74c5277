"""A batch's manifest: finding it, and reading it line by line.

A manifest lists requests, as JSONL or CSV, in one file or in those that a glob matches. It may be
larger than memory, and is read as a stream. ``faceid.manifests.snapshot`` takes it in whole.

A manifest may hold what belongs in no log: links that open files, people's data. What is said
about a line is in our own words, with no more of it than a valid request ID.
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
"""Bytes of a line, or of a CSV record, which may run over several lines."""
MAX_RECORD_LINES = 1000
"""Lines of a CSV record: what runs on for longer is a quote that nobody closed."""

_NEEDED = ("request_id", "target_action", "region")
_FIELDS = (*_NEEDED, "resources", "action_parameters")
_TOO_LONG = f"is longer than {MAX_LINE:,} bytes"
_NOT_UTF8 = "is not UTF-8"
_NOT_CSV = "is not CSV: a quote is not closed, or not at its cell's end, or a CR is no line's end"
_LONG_CELL = f"a cell has more than {csv.field_size_limit():,} signs, or a quote is not closed"
_UNKNOWN = "a name that no target action has"
_GLOB = re.compile(r"[*?[]")
_JSON = (".jsonl", ".ndjson", ".json")
_BOM = b"\xef\xbb\xbf"


@frozen
class Entry:
    """A line that holds a request: its form is right, its locations are absolute."""

    manifest: str
    """The file's name, without its folder."""
    line: int
    request: Request = field(repr=False)


@frozen
class BadLine:
    """A line that holds no right request."""

    manifest: str
    """The file's name, without its folder."""
    line: int
    """From 1; of a CSV record, the line where it begins."""
    reason: str
    request_id: str = ""
    """Empty where the line has no valid one."""

    def __str__(self) -> str:
        return f"{self.manifest}, line {self.line}: {self.reason}"


def find_manifests(location: str, roots: Roots) -> list[str]:
    """The files that a location stands for, absolute, links followed, sorted.

    A glob (``*``, ``**``, ``?``, ``[…]``; in a URL no ``?``, which begins a query) may match none.
    Files and folders whose names begin with a dot are matched only by a pattern that does.
    The roots are those of resources, and hold for the location and for whatever it matches.
    Raises ``InvalidInput``, also for a plain location where there is no file.
    """
    if "{" in location:
        raise _unusable("the location holds a { that nothing filled; only {date} is known")
    resolved = _resolve(roots, location)
    pattern = _GLOB.search(location)
    if pattern is None or isfile(resolved):
        found = [resolved]
    else:
        cut = location.rfind("/", 0, pattern.start()) + 1
        if ".." in location[cut:].split("/"):
            raise _unusable("a pattern cannot go up with ..")
        folder = _resolve(roots, location[:cut] or ".")
        found = [_resolve(roots, match) for match in _matches(folder, location[cut:])]
    for manifest in found:
        _check_is_file(manifest)
    return sorted(set(found))


def _resolve(roots: Roots, location: str) -> str:
    try:
        return roots.resolve("manifest", location)
    except InvalidInput as error:
        raise InvalidInput("InvalidManifest", error.message) from None


def _matches(folder: str, pattern: str) -> list[str]:
    try:
        if "://" not in folder:
            # a folder that it may not read is an empty one to `glob`
            os.scandir(folder).close()
            names = glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - hides .files
            return [path for name in names if not isdir(path := join(folder, name))]
        with plain_errors(), _listing(folder + pattern) as (system, path):
            found = system.glob(path, detail=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(f"the folder cannot be listed ({error.strerror})") from None
    # What a file system leaves away from a URL (scheme, host) is put back.
    start = (folder + pattern).removesuffix(path)
    return [
        start + name
        for name, info in found.items()
        if info["type"] != "directory" and not name.rpartition("/")[2].startswith(".")
    ]


@contextmanager
def _listing(url: str) -> Generator[tuple[Any, str]]:
    """The file system of a URL, and the path there; its cache of listings is empty before and
    after. A file that came after a listing would not be found, and a worker may live for weeks."""
    system, path = file_system(url)
    system.invalidate_cache()
    try:
        yield system, path
    finally:
        system.invalidate_cache()


def _check_is_file(location: str) -> None:
    if is_link(location):
        return  # it may be asked for once
    try:
        if "://" in location:
            with plain_errors(), _listing(location) as (system, path):
                is_file = system.info(path)["type"] == "file"
        else:
            is_file = S_ISREG(Path(location).stat().st_mode)
    except FileNotFoundError:
        raise _unusable("there is no such file") from None
    except OSError as error:
        raise _unusable(f"the file cannot be read ({error.strerror})") from None
    if not is_file:
        raise _unusable("is no regular file")


def _unusable(reason: str) -> InvalidInput:
    return InvalidInput("InvalidManifest", f"manifest: {reason}")


def name_of(location: str) -> str:
    """A manifest's name, without its folder, as it may stand in a line of text."""
    name = location.rpartition("/")[2]
    return "".join(sign if sign.isprintable() else "?" for sign in name)


def read_manifest(location: str, validator: RequestValidator) -> Iterator[Entry | BadLine]:
    """Line by line, what ``find_manifests`` gave. Opens none of the files that it names.

    ``validator`` are those for manifests. JSONL or CSV is told by the name, else by the first
    character; a compressed file by its name. Duplicates are not seen here. Raises ``InvalidInput``
    when the file cannot be read.
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
    """What the resources and the parameters of the target actions, of any of them, are called."""

    resources: frozenset[str]
    """MD5 fields, too: they are refused later, with a reason."""
    all: frozenset[str]

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
    """Looks first at whatever others would repeat in their errors."""
    for name in fields:
        if name not in _FIELDS:
            raise _bad(f"a key is none of {', '.join(_FIELDS)}")
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
"""Its number, and its bytes; ``None`` when it is too long."""
_Record = tuple[int, dict[str, Any] | str]
"""The number of its first line, and its fields, or what is wrong with it."""


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
                # as ours: not every codec has a `readline` with a limit
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
        # each codec has errors of its own
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
        return "holds half a character: a \\u that stands for nothing alone"
    except json.JSONDecodeError as error:
        return f"is not JSON (column {error.colno})"
    except RecursionError:
        return "is nested too deeply"
    except _TwiceError:
        return "a key stands there twice"
    except ValueError:
        return "holds a number with too many digits"
    if not isinstance(value, dict):
        return "is no JSON object; there must be one on each line"
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
    """The lines that a CSV reader asks for. Remembers those of one record: where that is broken
    off, only its first line is bad, and the rest may hold records of their own."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = lines
        self._again: deque[_Line] = deque()
        self._record: list[_Line] = []
        self._size = 0

    def begin(self) -> None:
        """With the next line begins a record."""
        self._record = []
        self._size = 0

    @property
    def first(self) -> int:
        """The number of the record's first line."""
        return self._record[0][0]

    def go_back(self) -> None:
        """To the record's second line."""
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
    """What is wrong with it, or nothing. A file without a header shows people's data here."""
    for name in _NEEDED:
        if name not in header:
            return f"the header has no column {name} (columns are separated by commas)"
    for number, name in enumerate(header, 1):
        if name not in _NEEDED and name not in names.all:
            return f"the header's column {number} is no resource and no parameter"
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
