"""Encrypted documents under ``FACEID_STORAGE``: records of requests and cached steps.

A document is JSON that is encrypted with Fernet, with the newest key of ``FACEID_DATA_KEY``; it may
be decrypted with any of these keys. The document's name is encrypted with it, so that a document in
the place of another one is detected. Reading is strict: only if a file does not exist, there is no
document. Any other problem raises ``StorageError`` and never leads to a document being overwritten.

Local folders are created with mode 0700, and files with mode 0600. A document is written whole or
not at all, and is on disk before ``write`` returns. The storage may also be a remote fsspec file
system that writes single objects atomically, such as an object store.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from fsspec.implementations.local import LocalFileSystem
from prefect.settings import PREFECT_HOME

from faceid.errors import InvalidInput, StorageError
from faceid.files.resources import NoReaderError, file_system
from tasks.settings import DeliverySettings

FORMAT: Final = 1
"""Number of the document format. A new version of this project that would misread old documents has
a higher number."""

KEY_FILE = "data.key"
"""Name of the file with the key of an emulator's storage."""

_KEY = re.compile("[A-Za-z0-9_-]{43}=")


class Storage:
    """Stores documents by name, which is a relative path.

    All methods block: call them in a worker thread. The constructor raises ``InvalidInput`` if no
    installed package supports the scheme of ``url``.
    """

    def __init__(self, url: str, keys: MultiFernet) -> None:
        self._files, self._root = _open_file_system(url)
        self._keys = keys
        self.folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None
        """Folder of the storage; ``None`` if it is not on this machine."""

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the content of a document; ``None`` if the document does not exist.

        Raises ``StorageError`` if the document cannot be read or decrypted.
        """
        try:
            sealed = cast("bytes", self._files.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError as error:
            if _is_of_bucket(error):
                raise StorageError(
                    "StorageUnavailable", f"cannot read {name} (no such bucket)"
                ) from None
            return None
        except Exception as error:  # every file system has its own exceptions
            raise _failed("read", name, error) from None
        return self._open(name, sealed)

    def _open(self, name: str, sealed: bytes) -> dict[str, Any]:
        try:
            envelope: Any = orjson.loads(sealed)
            format_number, content = envelope["format"], envelope["sealed"]
        except (ValueError, LookupError, TypeError):
            raise StorageError(
                "DamagedDocument", f"{name} is not a document of faceid-flows"
            ) from None
        if format_number != FORMAT:
            raise StorageError(
                "UnknownFormat",
                f"{name} has format {format_number!r}, and this version reads format {FORMAT}",
            )
        try:
            document = orjson.loads(self._keys.decrypt(content))
        except (InvalidToken, TypeError):
            raise StorageError(
                "CannotDecrypt",
                f"{name} is damaged, or was encrypted with a key that is not configured",
            ) from None
        if document["name"] != name:
            raise StorageError("MisplacedDocument", f"{name} holds another document")
        return cast("dict[str, Any]", document["content"])

    def holds(self, name: str, sealed: bytes) -> bool:
        """Return whether a document is still the one for which ``write`` returned ``sealed``.

        Raises ``StorageError`` if the document cannot be read.
        """
        try:
            return cast("bytes", self._files.cat_file(f"{self._root}/{name}")) == sealed
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failed("read", name, error) from None

    def write(self, name: str, content: dict[str, Any], *, durable: bool = True) -> bytes:
        """Write a document, and return its encrypted bytes.

        With ``durable``, a document on this machine survives a power cut when this returns. Raises
        ``StorageError`` if the document cannot be written; the previous one is then unchanged.
        """
        document = orjson.dumps({"name": name, "content": content})
        sealed = orjson.dumps({"format": FORMAT, "sealed": self._keys.encrypt(document).decode()})
        try:
            if self.folder:
                write_private_file(self.folder / name, sealed, durable=durable)
            else:
                self._files.pipe_file(f"{self._root}/{name}", sealed)
        except Exception as error:
            raise _failed("write", name, error) from None
        return sealed

    def remove(self, name: str) -> bool:
        """Remove a document, and return whether it existed.

        Raises ``StorageError`` if it cannot be removed.
        """
        try:
            if self.folder:
                path = self.folder / name
                path.unlink()
                _sync_names(path.parent)
            else:
                path = f"{self._root}/{name}"
                # Object stores do not report that an object is missing.
                if not self._files.exists(path):
                    return False
                self._files.rm_file(path)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failed("remove", name, error) from None
        return True

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of all documents in a folder and its subfolders, sorted.

        Raises ``StorageError`` if the folder cannot be listed.
        """
        try:
            found = cast("list[str]", self._files.find(f"{self._root}/{folder}"))
        except FileNotFoundError:
            return
        except Exception as error:
            raise _failed("list", folder, error) from None
        for path in sorted(found):
            name = path.removeprefix(self._root).lstrip("/")
            if not name.rpartition("/")[2].startswith("."):
                yield name

    def folders(self, folder: str) -> list[str]:
        """Return the names of the direct subfolders of a folder, sorted.

        Raises ``StorageError`` if the folder cannot be listed.
        """
        try:
            listed = self._files.ls(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _failed("list", folder, error) from None
        found = cast("list[dict[str, Any]]", listed)
        paths = sorted(one["name"].rstrip("/") for one in found if one["type"] == "directory")
        return [path.rpartition("/")[2] for path in paths]


def write_private_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file with mode 0600, whole or not at all, and create missing folders with mode 0700.

    With ``durable``, the file survives a power cut when this returns. Raises ``OSError`` if the
    file cannot be written.
    """
    make_private_folder(path.parent)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if durable:
        _sync_names(path.parent)


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, each with mode 0700.

    Raises ``OSError`` if a folder cannot be created.
    """
    # `mkdir(parents=True)` would apply the mode to the last folder only.
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_names(folder.parent)


def _sync_names(folder: Path) -> None:
    """Sync a folder, so that the creation and removal of files in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(what: str, name: str, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return StorageError("StorageUnavailable", f"cannot {what} {name} ({reason})")


def _is_of_bucket(error: FileNotFoundError) -> bool:
    """Return whether the bucket is missing, and not only a document in it."""
    reply: dict[str, Any] = getattr(error.__cause__, "response", {})
    return reply.get("Error", {}).get("Code") == "NoSuchBucket"


def _open_file_system(url: str) -> tuple[Any, str]:
    try:
        files, root = file_system(url)
    except NoReaderError as error:
        raise InvalidInput(
            "Configuration", f"FACEID_STORAGE: cannot be opened ({error.strerror})"
        ) from None
    return files, root.rstrip("/")


def storage_url(settings: DeliverySettings) -> str:
    """Return the path or URL of the storage: ``FACEID_STORAGE``, or a folder in Prefect's home."""
    return settings.storage or str(PREFECT_HOME.value() / "faceid")


def open_storage(settings: DeliverySettings) -> Storage:
    """Return the storage of these settings.

    Raises ``InvalidInput`` if the storage or its key is misconfigured.
    """
    url = storage_url(settings)
    return _open_storage(url, settings.data_key.get_secret_value(), settings.service)


@lru_cache(maxsize=8)
def _open_storage(url: str, data_key: str, service: str) -> Storage:
    if data_key:
        return Storage(url, _parse_keys(data_key))
    if service == "live":
        raise InvalidInput(
            "Configuration",
            "FACEID_DATA_KEY is not set: the live service's answers are stored encrypted; create a "
            "key with: head -c 32 /dev/urandom | base64 | tr '+/' '-_'",
        )
    return Storage(url, _parse_keys(_own_key(url), f"{KEY_FILE} in FACEID_STORAGE"))


def _parse_keys(text: str, where: str = "FACEID_DATA_KEY") -> MultiFernet:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    # The pattern is checked because Fernet would ignore whatever follows a key, such as a semicolon
    # and another key.
    if not keys or not all(_KEY.fullmatch(key) for key in keys):
        raise InvalidInput(
            "Configuration", f"{where}: must be Fernet keys, newest first, comma-separated"
        )
    return MultiFernet([Fernet(key) for key in keys])


def _own_key(url: str) -> str:
    """Return the key of an emulator's storage, which is created there when it is first used.

    If two processes create the key at the same time, the first that puts it in place wins. Raises
    ``InvalidInput`` if the storage is remote, or if the key cannot be read or written.
    """
    files, root = _open_file_system(url)
    if not isinstance(files, LocalFileSystem):
        raise InvalidInput(
            "Configuration", "FACEID_DATA_KEY is not set, and FACEID_STORAGE is on another machine"
        )
    path = Path(root) / KEY_FILE
    try:
        if not path.exists():
            draft = path.with_name(f".{KEY_FILE}-{os.getpid()}-{os.urandom(4).hex()}")
            write_private_file(draft, Fernet.generate_key())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_text()
    except OSError as error:
        raise InvalidInput(
            "Configuration", f"FACEID_STORAGE: cannot write {KEY_FILE} ({error.strerror})"
        ) from None
