"""The result lines of a batch: while it runs as they come, at its end in the manifest's order.

``results.jsonl`` and ``failures.jsonl`` in a folder of the batch's own. Each line is written by one
write, whole or not at all; at the end the lines are put in order in a file of their own, which then
takes the first one's place.
"""

import os
from pathlib import Path
from typing import Self

from faceid.errors import StorageError
from faceid.models import DeliveryResult
from tasks.storage import make_private_folder

RESULTS = "results.jsonl"
FAILURES = "failures.jsonl"

_NOWHERE = b"\0" * 16


class BatchResults:
    """Writes result lines. Use as a context manager. Raises ``StorageError``."""

    def __init__(self, folder: Path, spool: Path) -> None:
        """``folder`` is where people look; ``spool`` a private folder for our own use."""
        self.folder = folder
        self._places = spool / "results.places"
        """Where the line of each request stands: offset and length, 8 bytes each."""

    def __enter__(self) -> Self:
        try:
            make_private_folder(self.folder)
            self._lines = _append_to(self.folder / RESULTS)
            self._failures = _append_to(self.folder / FAILURES)
            self._index = os.open(self._places, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(error) from None
        self._end = os.fstat(self._lines).st_size
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._lines, self._failures, self._index):
            os.close(handle)

    def write(self, number: int, result: DeliveryResult) -> None:
        """``number`` is the request's place in the manifest, from 0."""
        line = result.model_dump_json().encode() + b"\n"
        try:
            os.write(self._lines, line)
            place = self._end.to_bytes(8, "little") + len(line).to_bytes(8, "little")
            os.pwrite(self._index, place, number * 16)
            self._end += len(line)
            if result.status == "failed":
                os.write(self._failures, line)
        except OSError as error:
            raise _failed(error) from None

    def put_in_order(self, count: int) -> None:
        """The manifest's order, for as many requests as it has; durable when it returns."""
        draft = self.folder / f".{RESULTS}"
        try:
            with (self.folder / RESULTS).open("rb") as lines, draft.open("wb") as ordered:
                for number in range(count):
                    place = os.pread(self._index, 16, number * 16) or _NOWHERE
                    length = int.from_bytes(place[8:], "little")
                    if length:
                        lines.seek(int.from_bytes(place[:8], "little"))
                        ordered.write(lines.read(length))
                ordered.flush()
                os.fsync(ordered.fileno())
            draft.chmod(0o600)
            draft.replace(self.folder / RESULTS)
        except OSError as error:
            raise _failed(error) from None


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _failed(error: OSError) -> StorageError:
    return StorageError("CannotSave", f"the batch's results cannot be written ({error.strerror})")
