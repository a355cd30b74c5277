"""Snapshots of manifests: all requests of a batch are checked and kept before anything is sent.

A batch delivers exactly the requests that were checked, even if the manifest changes in the
meantime. Memory use does not depend on the size of the manifest.
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
from faceid.manifests.finding import find_manifests
from faceid.manifests.reading import BadLine, Entry, name_of, read_manifest
from faceid.models import Request
from faceid.settings import FaceIdSettings
from faceid.validation import RequestValidator

LINES_KEPT = 100
"""Number of bad lines that an error lists; further bad lines are only counted."""

_REQUESTS = "requests.jsonl"
_OFFSETS = "requests.offsets"
"""The offset of each line in the file of requests: 8 bytes each, little-endian."""
_SUMMARY = "summary.json"
_SEEN = "seen.sqlite"


class BadManifest(InvalidInput):
    """Raised if manifests have bad lines.

    ``lines`` are the first ``LINES_KEPT`` of them, and ``total`` is the number of all of them.
    """

    def __init__(self, lines: Sequence[BadLine], total: int) -> None:
        self.lines = tuple(lines)
        self.total = total
        count = "1 bad line" if total == 1 else f"{total:,} bad lines, the first"
        super().__init__("BadManifest", f"{count}: {lines[0]}")


@frozen
class ManifestSnapshot:
    """The checked requests of a batch, in a private folder on this machine.

    They may contain presigned URLs and personal data in plain text. The caller, who created the
    folder, must therefore remove it when the batch has ended.
    """

    folder: Path
    """The folder with the requests."""
    per_action: dict[str, int]
    """Maps each target action to the number of its requests."""
    resources: int
    """Number of resources of all requests. A resource is uploaded once in each window."""

    @property
    def count(self) -> int:
        """Number of requests."""
        return sum(self.per_action.values())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the snapshot that ``take_snapshot`` has written to a folder.

        Raises ``StorageError`` if the snapshot cannot be read.
        """
        with _storage_errors():
            return cls(folder=folder, **orjson.loads((folder / _SUMMARY).read_bytes()))

    def entries(self, start: int = 0, count: int | None = None) -> Iterator[Request]:
        """Yield ``count`` requests, by default all, in the order of the manifests.

        ``start`` is the position of the first one, counted from 0. No other requests are read.
        Raises ``StorageError`` if the snapshot cannot be read.
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
    """Read and check all manifests at a location, and return a snapshot of their requests.

    ``folder`` is where the snapshot is written. It must exist, be private and be empty, and is
    empty again after an error. The files that the requests name are not opened. A glob that matches
    no file gives an empty snapshot. This blocks for about a minute per million lines: call it from
    a worker thread. Raises ``BadManifest`` if there are bad lines, ``InvalidInput`` if a manifest
    cannot be found or read, and ``StorageError`` if the folder cannot be written.
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
            reason = f"request ID {request_id} is already used in {where}"
            bad.add(BadLine(found.manifest, found.line, reason, request_id))
    if found is None:
        bad.add(BadLine(name_of(manifests[number]), 1, "contains no request"))


class _BadLines:
    def __init__(self) -> None:
        self.first: list[BadLine] = []
        self.total = 0

    def add(self, line: BadLine) -> None:
        self.total += 1
        if self.total <= LINES_KEPT:
            self.first.append(line)


class _Spool:
    """Writes the files that ``ManifestSnapshot`` reads."""

    def __init__(self, requests: IO[bytes], offsets: IO[bytes], seen: sqlite3.Connection) -> None:
        self._requests = requests
        self._offsets = offsets
        self._seen = seen
        # The request IDs are kept in a file, because there may be more of them than fit in memory.
        # The file is temporary and needs no protection against crashes.
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
        """Register a request ID that is used in a line of a manifest.

        Returns where the request ID was used before, as manifest number and line; otherwise
        ``None``.
        """
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
    """Create a file that only its owner can access, and return it opened for writing."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextmanager
def _storage_errors() -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, ValidationError, orjson.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StorageError(
            "CannotSpool",
            f"the snapshot of the manifest cannot be written or read ({reason})",
            advice="Check that the folder for temporary files (TMPDIR) is writable and has space.",
        ) from None
