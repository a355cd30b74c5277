"""The result lines of a batch: in order of completion while it runs, then in the manifest's order.

A result line is the result object of a request as JSON. The lines are written to ``results.jsonl``,
and those of failed requests also to ``failures.jsonl``, in a folder that may be remote. Each line
is written by a single write, whole or not at all. When the batch ends, the lines are sorted into
new files, which then replace the first ones. The files in a remote folder are uploaded whole, each
time they have grown by the factor ``GROWTH`` and when the batch ends.

Each batch starts new files. The results of an earlier run of the same manifest are written again,
from the records.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from faceid.errors import InvalidInput, StorageError
from faceid.files.resources import file_system, open_location, plain_errors
from faceid.models import DeliveryResult
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.private_files import make_private_folder
from tasks.state.storage import storage_url

RESULTS = "results.jsonl"
"""Name of the file with all result lines."""
FAILURES = "failures.jsonl"
"""Name of the file with the result lines of failed requests."""

GROWTH = 1.25
"""Factor by which the files grow before they are uploaded again to a remote folder."""

_PLACE = 16
"""Size in bytes of an entry in the file of places."""


def results_location(given: str, settings: DeliverySettings, flow_run_id: str) -> str:
    """Return the folder for the result lines of a run, as an absolute path or a URL.

    ``given`` is the folder that the run was given; if it is empty, the folder is in the storage.
    Raises ``InvalidInput`` if ``given`` is invalid or outside the roots.
    """
    if given:
        return settings.roots().resolve("results", given)
    return f"{storage_url(settings)}/{layout.BATCHES}/{flow_run_id}"


def read_lines(location: str, name: str = RESULTS) -> Iterator[bytes]:
    """Yield the complete lines of a file in a results folder, with their line breaks.

    Raises ``FileNotFoundError`` if there is no such file, and ``OSError`` if it cannot be read.
    """
    with open_location(f"{location}/{name}") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


class BatchResults:
    """Writes the result lines of a batch. Use it as a context manager.

    ``location`` is the path or URL of the folder for the results, and ``spool`` a private temporary
    folder on this machine. Entering raises ``InvalidInput`` if another batch writes to the same
    folder. Entering and every method raise ``StorageError`` if the files cannot be written.
    """

    def __init__(self, location: str, spool: Path) -> None:
        self.location = location
        """Path or URL of the folder for the results."""
        self._is_remote = "://" in location
        self._folder = spool / "results" if self._is_remote else Path(location)
        self._places = spool / "results.places"
        """File with the place of each request's line in ``results.jsonl``: 8 bytes for its offset,
        and 8 bytes for twice its length, plus one if the request failed."""
        self._published = 0

    def __enter__(self) -> Self:
        try:
            make_private_folder(self._folder)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lines = _begin(self._folder / RESULTS)
            self._failures = _begin(self._folder / FAILURES)
            self._index = os.open(self._places, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except BlockingIOError:
            os.close(self._lock)
            raise InvalidInput(
                "ResultsInUse", "results: another batch writes to this folder; name another"
            ) from None
        except OSError as error:
            raise _failed(error) from None
        self._end = 0
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._lines, self._failures, self._index, self._lock):
            os.close(handle)

    def write(self, number: int, result: DeliveryResult) -> None:
        """Append a result line.

        ``number`` is the position of the request in the manifest, counted from 0.
        """
        line = result.model_dump_json().encode() + b"\n"
        has_failed = result.status == "failed"
        place = self._end.to_bytes(8, "little") + (2 * len(line) + has_failed).to_bytes(8, "little")
        try:
            _append(self._lines, line)
            os.pwrite(self._index, place, number * _PLACE)
            self._end += len(line)
            if has_failed:
                _append(self._failures, line)
        except OSError as error:
            raise _failed(error) from None

    def publish(self) -> None:
        """Upload the files to a remote folder if they have grown by ``GROWTH``. Blocks."""
        if self._is_remote and self._end >= max(1, self._published * GROWTH):
            self._send()

    def finish(self, count: int) -> None:
        """Put the lines in the manifest's order. Blocks.

        ``count`` is the number of requests in the manifest. When this returns, the lines survive a
        power cut.
        """
        drafts = {name: self._folder / f".{name}" for name in (RESULTS, FAILURES)}
        try:
            with (
                (self._folder / RESULTS).open("rb") as lines,
                drafts[RESULTS].open("wb") as results,
                drafts[FAILURES].open("wb") as failures,
            ):
                for number in range(count):
                    place = os.pread(self._index, _PLACE, number * _PLACE).ljust(_PLACE, b"\0")
                    length, has_failed = divmod(int.from_bytes(place[8:], "little"), 2)
                    lines.seek(int.from_bytes(place[:8], "little"))
                    line = lines.read(length)
                    results.write(line)
                    failures.write(line if has_failed else b"")
                for file in (results, failures):
                    file.flush()
                    os.fsync(file.fileno())
            for name, draft in drafts.items():
                draft.chmod(0o600)
                draft.replace(self._folder / name)
        except OSError as error:
            raise _failed(error) from None
        if self._is_remote:
            self._send()

    def _send(self) -> None:
        self._published = self._end
        try:
            with plain_errors():
                files, root = file_system(self.location)
                files.makedirs(root, exist_ok=True)
                for name in (RESULTS, FAILURES):
                    files.put_file(str(self._folder / name), f"{root}/{name}")
        except OSError as error:
            raise _failed(error) from None


def _begin(path: Path) -> int:
    """Create a file, and return its descriptor. A previous file stays open for its readers."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _append(handle: int, line: bytes) -> None:
    """Append a line to a file, whole or not at all.

    Raises ``OSError`` if it cannot be written, for example because the disk is full.
    """
    end = os.fstat(handle).st_size
    if os.write(handle, line) < len(line):
        os.ftruncate(handle, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _failed(error: OSError) -> StorageError:
    return StorageError(
        "CannotSave",
        f"the batch's results cannot be written ({error.strerror})",
        advice="Check the folder for the results: FACEID_STORAGE, or the parameter results.",
    )
