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
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from prefect.settings import PREFECT_HOME

from faceid.errors import InvalidInput, StorageError
from faceid.files.resources import NoReaderError
from tasks.settings import DeliverySettings
from tasks.state.documents import Conflict, Documents, open_documents
from tasks.state.private_files import write_private_file

FORMAT: Final = 1
"""Number of the document format. A new version of this project that would misread old documents has
a higher number."""

GUARDED_FORMAT: Final = 2
"""Version of documents that only ``replace`` may write over. Versions before 0.2, which would write
over them unconditionally, refuse them."""

KEY_FILE = "data.key"
"""Name of the file with the key of an emulator's storage."""

_KEY = re.compile("[A-Za-z0-9_-]{43}=")


class Storage:
    """Stores documents by name, which is a relative path.

    All methods block: call them in a worker thread. The constructor raises ``InvalidInput`` if no
    installed package supports the scheme of ``url``.
    """

    def __init__(self, url: str, keys: MultiFernet) -> None:
        self._documents = _open_documents(url)
        self._keys = keys
        self.folder = self._documents.folder
        """Folder of the storage if it is on this machine, otherwise ``None``."""

    def beside(self, folder: Path) -> "Storage":
        """Return a storage in a folder of this machine that is encrypted with the same keys."""
        return Storage(str(folder), self._keys)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the document; ``None`` if it does not exist. Any error is a ``StorageError``."""
        found = self.load(name)
        return found and found.content

    def load(self, name: str) -> "Loaded | None":
        """Return the document and its version for ``replace``; ``None`` if it does not exist.

        Raises ``StorageError`` if it cannot be read.
        """
        try:
            found = self._documents.read(name)
        except FileNotFoundError as error:
            if _is_of_bucket(error):
                raise StorageError(
                    "StorageUnavailable", f"cannot read {name} (no such bucket)"
                ) from None
            return None
        except Exception as error:  # every file system has its own exceptions
            raise _failed("read", name, error) from None
        return Loaded(self._open(name, found.content), found.version)

    def _open(self, name: str, sealed: bytes) -> dict[str, Any]:
        try:
            envelope: Any = orjson.loads(sealed)
            format_number, content = envelope["format"], envelope["sealed"]
        except (ValueError, LookupError, TypeError):
            raise StorageError(
                "DamagedDocument", f"{name} is not a document of faceid-flows"
            ) from None
        if format_number not in (FORMAT, GUARDED_FORMAT):
            raise StorageError(
                "UnknownFormat",
                f"{name} has format {format_number!r}, and this version reads formats {FORMAT} "
                f"and {GUARDED_FORMAT}",
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

    def write(self, name: str, content: dict[str, Any], *, durable: bool = True) -> None:
        """Write a document, whatever is stored under its name.

        With ``durable``, a document on this machine survives a power cut when this returns. Raises
        ``StorageError`` if the document cannot be written; the previous one is then unchanged.
        """
        try:
            self._documents.write(name, self._seal(name, content, FORMAT), durable=durable)
        except Exception as error:
            raise _failed("write", name, error) from None

    def replace(
        self, name: str, content: dict[str, Any], version: str | None, *, durable: bool = True
    ) -> str:
        """Write over this version of a document, or create it if ``version`` is ``None``.

        Returns the new version. Raises ``Conflict`` if another version is stored, or none, and
        ``StorageError`` if the document cannot be written. It is then unchanged.
        """
        sealed = self._seal(name, content, GUARDED_FORMAT)
        try:
            return self._documents.replace(name, sealed, version, durable=durable)
        except Conflict:
            raise
        except Exception as error:
            raise _failed("write", name, error) from None

    def remove(self, name: str, version: str | None = None) -> bool:
        """Remove a document, if given only this version, and return whether it existed.

        Raises ``Conflict`` if another version is stored, and ``StorageError``.
        """
        try:
            return self._documents.remove(name, version)
        except Conflict:
            raise
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failed("remove", name, error) from None

    @property
    def place(self) -> str:
        """A digest of where the storage is. A copy of it in another store is elsewhere."""
        return self._documents.place()

    def honours_conditions(self) -> bool:
        """Return whether ``replace`` never writes over another version, as a trial has shown.

        Raises ``StorageError`` if the storage cannot be used.
        """
        try:
            return self._documents.shows_conditional_writes()
        except Exception as error:
            raise _failed("use", "the storage", error) from None

    def names(self, folder: str) -> list[str]:
        """Return the names of all documents in a folder, recursively. Raises ``StorageError``."""
        try:
            return self._documents.names(folder)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _failed("list", folder, error) from None

    def folders(self, folder: str) -> list[str]:
        """Return the names of the direct subfolders of a folder. Raises ``StorageError``."""
        try:
            return self._documents.folders(folder)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _failed("list", folder, error) from None

    def _seal(self, name: str, content: dict[str, Any], format_number: int) -> bytes:
        document = orjson.dumps({"name": name, "content": content})
        sealed = self._keys.encrypt(document).decode()
        return orjson.dumps({"format": format_number, "sealed": sealed})


class Loaded(NamedTuple):
    """A document, and its version for ``Storage.replace``."""

    content: dict[str, Any]
    version: str


def _failed(what: str, name: str, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return StorageError("StorageUnavailable", f"cannot {what} {name} ({reason})")


def _is_of_bucket(error: FileNotFoundError) -> bool:
    """Return whether the bucket is missing, and not only a document in it."""
    reply: dict[str, Any] = getattr(error.__cause__, "response", {})
    return reply.get("Error", {}).get("Code") == "NoSuchBucket"


def _open_documents(url: str) -> Documents:
    try:
        return open_documents(url)
    except NoReaderError as error:
        raise InvalidInput(
            "Configuration",
            f"FACEID_STORAGE: cannot be opened ({error.strerror})",
            advice="Name a folder on this machine, or an s3:// URL.",
        ) from None


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
            "FACEID_DATA_KEY is not set: the service is live, because FACEID_ENDPOINT names no "
            "emulator, and its answers are stored encrypted; create a key with: "
            "head -c 32 /dev/urandom | base64 | tr '+/' '-_'",
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
    folder = _open_documents(url).folder
    if folder is None:
        raise InvalidInput(
            "Configuration", "FACEID_DATA_KEY is not set, and FACEID_STORAGE is on another machine"
        )
    path = folder / KEY_FILE
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
