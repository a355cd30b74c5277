"""Where documents lie: files on this machine, or objects of another fsspec file system.

A document is bytes under a name, a relative path. Each version of it has an identifier. ``replace``
writes only over the version that its caller knows, or only where there is no document: of two
processes that read the same version, one at most can write over it. On this machine, a lock makes
comparison and write one step. In an object store, a conditional write does, if the store has shown
that it honours one (``shows_conditional_writes``).

The methods block. They raise ``Conflict``, ``FileNotFoundError``, and whatever the file system
raises.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from faceid.files.resources import file_system
from tasks.state.file_locks import file_lock
from tasks.state.private_files import sync_names, write_private_file

LOCK_SECONDS = 30.0
"""How long a write waits for another process that is writing the same document."""

TRIALS = "probe"
"""Folder of the documents that trials write."""

_REFUSALS = ("PreconditionFailed", "ConditionalRequestConflict")
_UNKNOWN = ("NotImplemented", "InvalidArgument", "InvalidRequest", "MethodNotAllowed")
"""Error codes of stores that know no conditions, and say so."""


class Conflict(Exception):
    """The document is not, or no longer, the version that the caller knows."""


class Stored(NamedTuple):
    """A document, and the identifier of its version."""

    content: bytes
    version: str


class Documents(Protocol):
    """Documents by name."""

    folder: Path | None
    """The folder of the documents if they are on this machine, otherwise ``None``."""

    def place(self) -> str:
        """Return a digest of where the documents are. Copies in another store are elsewhere."""
        ...

    def read(self, name: str) -> Stored: ...
    def write(self, name: str, content: bytes, *, durable: bool) -> None: ...
    def replace(self, name: str, content: bytes, version: str | None, *, durable: bool) -> str:
        """Write over this version, or create the document if ``version`` is ``None``.

        Returns the identifier of the new version. Raises ``Conflict``, and writes nothing, if the
        stored document is not that version.
        """
        ...

    def remove(self, name: str, version: str | None = None) -> bool:
        """Remove a document, if given only this version; return whether it existed."""
        ...

    def names(self, folder: str) -> list[str]: ...
    def folders(self, folder: str) -> list[str]: ...
    def shows_conditional_writes(self) -> bool:
        """Return whether a stale write is refused, as a trial has shown."""
        ...


def open_documents(url: str) -> Documents:
    """Return the documents under a URL. Raises ``NoReaderError`` without a file system for it."""
    files, root = file_system(url)
    root = root.rstrip("/")
    return (
        LocalDocuments(files, root) if isinstance(files, LocalFileSystem) else Objects(files, root)
    )


class _Listed:
    def __init__(self, files: Any, root: str) -> None:
        self._files, self._root = files, root

    def names(self, folder: str) -> list[str]:
        """Return the names of all documents in a folder, recursively and in order."""
        found = cast("list[str]", self._files.find(f"{self._root}/{folder}"))
        names = (path.removeprefix(self._root).lstrip("/") for path in sorted(found))
        return [name for name in names if not name.rpartition("/")[2].startswith(".")]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the direct subfolders of a folder."""
        found = cast("list[dict[str, Any]]", self._files.ls(f"{self._root}/{folder}", detail=True))
        paths = sorted(one["name"].rstrip("/") for one in found if one["type"] == "directory")
        return [path.rpartition("/")[2] for path in paths]


class LocalDocuments(_Listed):
    """Documents in files of this machine, with mode 0600 in folders with 0700."""

    def __init__(self, files: Any, root: str) -> None:
        super().__init__(files, root)
        self.folder: Path | None = Path(root)
        self._folder = Path(root)

    def place(self) -> str:
        return _digest(str(self._folder).encode())

    def read(self, name: str) -> Stored:
        content = (self._folder / name).read_bytes()
        return Stored(content, _digest(content))

    def write(self, name: str, content: bytes, *, durable: bool) -> None:
        write_private_file(self._folder / name, content, durable=durable)

    def replace(self, name: str, content: bytes, version: str | None, *, durable: bool) -> str:
        with file_lock(self._lock(name), LOCK_SECONDS):
            self._expect(name, version)
            self.write(name, content, durable=durable)
        return _digest(content)

    def remove(self, name: str, version: str | None = None) -> bool:
        if version is None:
            return self._unlink(name)
        with file_lock(self._lock(name), LOCK_SECONDS):
            self._expect(name, version)
            return self._unlink(name)

    def shows_conditional_writes(self) -> bool:
        return True

    def _expect(self, name: str, version: str | None) -> None:
        try:
            found = self.read(name).version
        except FileNotFoundError:
            found = None
        if found != version:
            raise Conflict

    def _unlink(self, name: str) -> bool:
        path = self._folder / name
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_names(path.parent)
        return True

    def _lock(self, name: str) -> Path:
        return self._folder / "locks" / _digest(f"write {name}".encode())


class Objects(_Listed):
    """Documents in the objects of another file system, which writes each object whole.

    Conditional writes are those of S3: the version is the object's ETag.
    """

    folder: Path | None = None

    def place(self) -> str:
        client: Any = getattr(self._files, "s3", None)  # it knows the URL, wherever that is set
        endpoint = client.meta.endpoint_url if client else type(self._files).__name__
        return _digest(f"{endpoint} {self._root}".encode())

    def read(self, name: str) -> Stored:
        # In this order: an ETag that is older than the content only makes a later write fail.
        version = self._version(name)
        return Stored(cast("bytes", self._files.cat_file(self._path(name))), version)

    def write(self, name: str, content: bytes, *, durable: bool) -> None:  # noqa: ARG002 - an object store always is
        self._files.pipe_file(self._path(name), content)

    def replace(
        self,
        name: str,
        content: bytes,
        version: str | None,
        *,
        durable: bool,  # noqa: ARG002 - an object store always is
    ) -> str:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            reply: Any = self._files.pipe_file(self._path(name), content, **condition)
        except Exception as error:
            # The reply to an earlier try of the same write may have been lost: then it is there.
            if (found := self._found(name)) and found.content == content:
                return found.version
            if _is_refusal(error) or (version is not None and isinstance(error, FileNotFoundError)):
                raise Conflict from None
            raise
        return str(reply["ETag"]) if reply else self.read(name).version

    def remove(self, name: str, version: str | None = None) -> bool:
        found = self._found(name)  # object stores do not report a missing object
        if found is None:
            if version is not None:
                raise Conflict
            return False
        if version is None:
            self._files.rm_file(self._path(name))
            return True
        if found.version != version:
            raise Conflict
        if not hasattr(self._files, "call_s3"):  # only S3 knows a condition for this
            self._files.rm_file(self._path(name))
            return True
        bucket, key, _ = self._files.split_path(self._path(name))
        try:
            self._files.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=version)
        except Exception as error:
            if _is_refusal(error):
                raise Conflict from None
            raise
        self._files.invalidate_cache(self._path(name))
        return True

    def shows_conditional_writes(self) -> bool:
        name = f"{TRIALS}/{uuid4().hex}"
        try:
            first = self.replace(name, b"1", None, durable=False)
            second = self.replace(name, b"2", first, durable=False)
            return second != first and all(
                self._refuses(name, stale) for stale in (None, first, '"0"')
            )
        except (TypeError, NotImplementedError, Conflict):  # the file system knows no conditions
            return False
        except Exception as error:
            if _code(error) in _UNKNOWN:
                return False
            raise
        finally:
            self.remove(name)

    def _refuses(self, name: str, version: str | None) -> bool:
        try:
            self.replace(name, b"3", version, durable=False)
        except Conflict:
            return self.read(name).content == b"2"
        return False

    def _found(self, name: str) -> Stored | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def _version(self, name: str) -> str:
        about = self._files.info(self._path(name))
        return str(about.get("ETag") or "")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, FileExistsError) or _code(error) in _REFUSALS


def _code(error: Exception) -> str | None:
    reply: dict[str, Any] = getattr(error.__cause__ or error, "response", {})
    return reply.get("Error", {}).get("Code")
