"""The objects of the store: a file each, with a description in JSON behind the object's bytes.

A large video costs no memory: it goes to disk as it comes. What is in the folder at the start is
there again, so that an emulator with a folder of its own goes on where it stopped. Bytes and
description are one file because a rename puts both in place at once.
"""

import hashlib
import heapq
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import fastcrc
import orjson

from faceid.emulator.clock import Clock

# How long the description is stands behind it, in so many digits.
_LENGTH_DIGITS = 8


@dataclass(frozen=True)
class StoredObject:
    key: str
    size: int
    md5: str
    crc64: int
    content_type: str
    modified: float
    """By the clock that can be moved, as ``expires``."""
    expires: float


class Incoming:
    """A body on its way into the store: gone when the ``with`` ends, unless it was kept."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        self._file = os.fdopen(handle, "wb")
        self.path = Path(name)
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.crc64 = 0

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.size += len(chunk)
        self._md5.update(chunk)
        self.crc64 = fastcrc.crc64.xz(chunk, self.crc64)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    def describe(self, description: bytes) -> None:
        """Ends it: nothing can be written after this."""
        self._file.write(description + b"%0*d" % (_LENGTH_DIGITS, len(description)))
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Objects:
    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder / "objects"
        self._clock = clock
        self._index: dict[str, StoredObject] = {}
        self._ends: list[tuple[float, str]] = []
        self._over: set[str] = set()
        self._folder.mkdir(parents=True, exist_ok=True)
        for part in self._folder.glob("*.part"):
            part.unlink()
        for path in self._folder.glob("*.object"):
            try:
                self._remember(_described(path))
            except (OSError, ValueError, TypeError):  # torn when the machine stopped, or not ours
                path.unlink()

    def incoming(self) -> Incoming:
        return Incoming(self._folder)

    def keep(
        self, incoming: Incoming, key: str, *, content_type: str, expires: float
    ) -> StoredObject:
        """Makes a body the object of this key, in place of one that was there (documented)."""
        self.drop_expired()
        stored = StoredObject(
            key=key,
            size=incoming.size,
            md5=incoming.md5,
            crc64=incoming.crc64,
            content_type=content_type,
            modified=self._clock.now(),
            expires=expires,
        )
        incoming.describe(orjson.dumps(asdict(stored)))
        incoming.path.replace(self._path(key))
        self._remember(stored)
        return stored

    def put(self, key: str, data: bytes, *, content_type: str, expires: float) -> StoredObject:
        with self.incoming() as incoming:
            incoming.write(data)
            return self.keep(incoming, key, content_type=content_type, expires=expires)

    def find(self, key: str) -> StoredObject | None:
        self.drop_expired()
        return self._index.get(key)

    def open(self, stored: StoredObject) -> BinaryIO:
        return self._path(stored.key).open("rb")

    def end_now(self, key: str) -> None:
        """Lets the window of this key run out at once, whatever its URLs say."""
        self._over.add(key)
        self._drop(key)

    def ended(self, key: str) -> bool:
        """Whether ``end_now`` was said of it."""
        return key in self._over

    def drop_expired(self) -> None:
        """Objects are gone at the end of their window (documented: kept for two hours)."""
        now = self._clock.now()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            stored = self._index.get(key)
            if stored and stored.expires <= now:  # else it was put again, into a later window
                self._drop(key)

    def clear(self) -> None:
        for key in list(self._index):
            self._drop(key)
        self._ends.clear()
        self._over.clear()

    def _remember(self, stored: StoredObject) -> None:
        self._index[stored.key] = stored
        heapq.heappush(self._ends, (stored.expires, stored.key))

    def _drop(self, key: str) -> None:
        if self._index.pop(key, None):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        # A key is a client's text, a file's name is not to be.
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}.object"


def _described(path: Path) -> StoredObject:
    with path.open("rb") as file:
        file.seek(-_LENGTH_DIGITS, os.SEEK_END)
        length = int(file.read())
        file.seek(-_LENGTH_DIGITS - length, os.SEEK_END)
        return StoredObject(**orjson.loads(file.read(length)))
