"""Taking a batch in: its manifest is checked whole and kept, before anything is sent.

What is delivered is what was checked, even if the manifest changes meanwhile. Nothing here grows
with the manifest but files.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Self

import orjson
from attrs import frozen
from pydantic import ValidationError

from faceid.errors import InvalidInput, StorageError
from faceid.manifests.reading import BadLine, Entry, find_manifests, name_of, read_manifest
from faceid.models import Request
from faceid.settings import FaceIdSettings
from faceid.validation import RequestValidator

LINES_KEPT = 100
"""Bad lines that are told one by one; of the others, only how many there are."""

_REQUESTS = "requests.jsonl"
_OFFSETS = "requests.offsets"
"""Where each line of the requests begins: 8 bytes, the lowest first."""
_SUMMARY = "summary.json"
_SEEN = "seen.sqlite"


class BadManifest(InvalidInput):
    """A manifest whose form is wrong: the first of its bad lines, and how many there are."""

    def __init__(self, lines: Sequence[BadLine], total: int) -> None:
        self.lines = tuple(lines)
        self.total = total
        count = "1 bad line" if total == 1 else f"{total:,} bad lines, the first"
        super().__init__("BadManifest", f"{count}: {lines[0]}")


@frozen
class ManifestSnapshot:
    """The requests of a batch as they were checked, in a private folder on this machine.

    They may carry links that open files, and people's data, in clear: whoever made the folder
    removes it when the batch is done.
    """

    folder: Path
    per_action: dict[str, int]
    """Target action to number of requests."""
    resources: int
    """How many there are: each is uploaded once, if no window runs out."""

    @property
    def count(self) -> int:
        """How many requests there are."""
        return sum(self.per_action.values())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What ``take_snapshot`` left in a folder. Raises ``StorageError``."""
        with _storage_errors():
            return cls(folder=folder, **orjson.loads((folder / _SUMMARY).read_bytes()))

    def entries(self, start: int = 0, count: int | None = None) -> Iterator[Request]:
        """Requests ``start`` to ``start + count``, in the manifest's order, counted from 0.

        Reads no others. Raises ``StorageError``.
        """
        left = max(0, self.count - start)
        left = left if count is None else min(left, count)
        if not left:
            return
        with _storage_errors(), (self.folder / _REQUESTS).open("rb") as lines:
            with (self.folder / _OFFSETS).open("rb") as offsets:
                offsets.seek(start * 8)
                lines.seek(int.from_bytes(offsets.read(8), "little"))
            for line in islice(lines, left):
                yield Request.model_validate_json(line)
                left -= 1
            if left:
                raise OSError("cut off")


def take_snapshot(location: str, settings: FaceIdSettings, folder: Path) -> ManifestSnapshot:
    """Reads the manifests that a location stands for once, checks them whole, and keeps them.

    ``folder`` is there, private and empty, and is left with nothing in it after an error. Opens
    none of the files that the requests name. A glob that matches nothing gives no requests. About
    a minute for a million lines: call it from a worker thread. Raises ``BadManifest`` with the bad
    lines, ``InvalidInput`` when a manifest cannot be found or read, ``StorageError`` when the
    folder cannot be written.
    """
    manifests = find_manifests(location, settings.roots())
    validator = RequestValidator.load(settings, from_manifest=True)
    bad = _BadLines()
    with _storage_errors(), _spooling(folder) as spool:
        for number in range(len(manifests)):
            _take_in(manifests, number, validator, spool, bad)
        if bad.total:
            raise BadManifest(bad.first, bad.total)
    return ManifestSnapshot.load(folder)


def _take_in(
    manifests: Sequence[str],
    number: int,
    validator: RequestValidator,
    spool: "_Spool",
    bad: "_BadLines",
) -> None:
    found = None
    for found in read_manifest(manifests[number], validator):
        request_id = found.request.request_id if isinstance(found, Entry) else found.request_id
        first = spool.first_place(request_id, number, found.line) if request_id else None
        if isinstance(found, BadLine):
            bad.add(found)
        elif first is None:
            spool.add(found.request)
        else:
            where = "" if first[0] == number else f"{name_of(manifests[first[0]])}, "
            where = f"{where}line {first[1]}"
            reason = f"request ID {request_id} stands in {where} already"
            bad.add(BadLine(found.manifest, found.line, reason, request_id))
    if found is None:
        bad.add(BadLine(name_of(manifests[number]), 1, "holds no request"))


class _BadLines:
    def __init__(self) -> None:
        self.first: list[BadLine] = []
        self.total = 0

    def add(self, line: BadLine) -> None:
        self.total += 1
        if self.total <= LINES_KEPT:
            self.first.append(line)


class _Spool:
    """Writes what ``ManifestSnapshot`` reads."""

    def __init__(self, requests: IO[bytes], offsets: IO[bytes], seen: sqlite3.Connection) -> None:
        self._requests = requests
        self._offsets = offsets
        self._seen = seen
        # Thrown away at the end; a table in a file, as there may be more than fit in memory.
        seen.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;
            CREATE TABLE seen (request_id TEXT PRIMARY KEY, manifest INT, line INT) WITHOUT ROWID;
            BEGIN;
            """
        )
        self._end = 0
        self.per_action: Counter[str] = Counter()
        self.resources = 0

    def first_place(self, request_id: str, manifest: int, line: int) -> tuple[int, int] | None:
        """The number of the manifest, and the line, where the ID stood before, if it did."""
        place = (request_id, manifest, line)
        if self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", place).rowcount:
            return None
        found = "SELECT manifest, line FROM seen WHERE request_id = ?"
        return self._seen.execute(found, (request_id,)).fetchone()

    def add(self, request: Request) -> None:
        line = request.model_dump_json().encode() + b"\n"
        self._offsets.write(self._end.to_bytes(8, "little"))
        self._requests.write(line)
        self._end += len(line)
        self.per_action[request.target_action] += 1
        self.resources += len(request.resources)


@contextmanager
def _spooling(folder: Path) -> Generator[_Spool]:
    try:
        with ExitStack() as opened:
            requests, offsets, _ = (
                opened.enter_context(_create(folder / name))
                for name in (_REQUESTS, _OFFSETS, _SEEN)
            )
            seen = opened.enter_context(
                closing(sqlite3.connect(folder / _SEEN, isolation_level=None))
            )
            spool = _Spool(requests, offsets, seen)
            yield spool
        (folder / _SEEN).unlink()
        with _create(folder / _SUMMARY) as summary:
            numbers = {"per_action": spool.per_action, "resources": spool.resources}
            summary.write(orjson.dumps(numbers))
    except BaseException:
        for name in (_REQUESTS, _OFFSETS, _SEEN, _SUMMARY):
            (folder / name).unlink(missing_ok=True)
        raise


def _create(path: Path) -> IO[bytes]:
    """A new file that only its owner can read."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextmanager
def _storage_errors() -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, ValidationError, orjson.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StorageError(
            "CannotSpool", f"what was checked of the manifest cannot be kept or read ({reason})"
        ) from None
