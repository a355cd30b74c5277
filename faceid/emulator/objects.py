"""The objects of the store, as files.

A file consists of the object's bytes and a JSON description. Both are in one file, so that a rename
stores them atomically. Objects are written to disk as they arrive, so that large videos need no
memory. Objects that are in the folder at the start are loaded, so that an emulator with a permanent
folder continues where it stopped.
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

_LENGTH_DIGITS = 8
"""Number of decimal digits at the end of a file, which state the length of its description."""


@dataclass(frozen=True)
class StoredObject:
    """The description of an object in the store."""

    key: str
    """The object key."""
    size: int
    """Size in bytes."""
    md5: str
    """MD5 of the object, 32 hexadecimal digits."""
    crc64: int
    """CRC-64 of the object, as an unsigned number."""
    content_type: str
    """Content type of the upload."""
    modified: float
    """Time of the upload, in Unix seconds on the movable clock."""
    expires: float
    """Time when the object expires, in Unix seconds on the movable clock."""


class Incoming:
    """A body that is being received into a temporary file.

    The file is discarded when the context manager exits, unless ``Objects.keep`` has stored it.
    """

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        self._file = os.fdopen(handle, "wb")
        self.path = Path(name)
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.crc64 = 0

    def write(self, chunk: bytes) -> None:
        """Append a chunk of the body."""
        self._file.write(chunk)
        self.size += len(chunk)
        self._md5.update(chunk)
        self.crc64 = fastcrc.crc64.xz(chunk, self.crc64)

    @property
    def md5(self) -> str:
        """MD5 of the bytes so far, 32 hexadecimal digits."""
        return self._md5.hexdigest()

    def describe(self, description: bytes) -> None:
        """Append the description and its length, and close the file."""
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
    """The objects of a store, with their windows.

    They are kept in a subfolder of ``folder``, and expire by ``clock``.
    """

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
            except (OSError, ValueError, TypeError):  # incomplete, or not written by the emulator
                path.unlink()

    def incoming(self) -> Incoming:
        """Return a context manager that receives the body of an object."""
        return Incoming(self._folder)

    def keep(
        self, incoming: Incoming, key: str, *, content_type: str, expires: float
    ) -> StoredObject:
        """Store a body as the object with this key, and return its description.

        A previous object with the key is replaced (documented). ``expires`` is in Unix seconds on
        the movable clock.
        """
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
        """Store bytes as the object with this key, like ``keep``, and return its description."""
        with self.incoming() as incoming:
            incoming.write(data)
            return self.keep(incoming, key, content_type=content_type, expires=expires)

    def find(self, key: str) -> StoredObject | None:
        """Return the description of the object with this key; ``None`` if there is none."""
        self.drop_expired()
        return self._index.get(key)

    def open(self, stored: StoredObject) -> BinaryIO:
        """Open the file of an object for reading; its first ``size`` bytes are the object."""
        return self._path(stored.key).open("rb")

    def end_now(self, key: str) -> None:
        """End the window of a key at once, although its URLs are still valid."""
        self._over.add(key)
        self._drop(key)

    def ended(self, key: str) -> bool:
        """Return whether ``end_now`` was called for a key."""
        return key in self._over

    def drop_expired(self) -> None:
        """Remove the objects whose window is over (documented: after two hours)."""
        now = self._clock.now()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            stored = self._index.get(key)
            # Otherwise the object was replaced by one with a later window.
            if stored and stored.expires <= now:
                self._drop(key)

    def clear(self) -> None:
        """Remove all objects."""
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
        # The name is a hash, because clients choose keys and must not choose file names.
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}.object"


def _described(path: Path) -> StoredObject:
    with path.open("rb") as file:
        file.seek(-_LENGTH_DIGITS, os.SEEK_END)
        length = int(file.read())
        file.seek(-_LENGTH_DIGITS - length, os.SEEK_END)
        return StoredObject(**orjson.loads(file.read(length)))
