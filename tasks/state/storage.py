"""Encrypted documents under ``FACEID_STORAGE``: records of requests and cached steps.

A document is JSON, sealed with Fernet under the newest of the ``FACEID_DATA_KEY`` keys and opened
with any of them. Its own name is sealed in with it, so that one document put in another's place
is told. Reading is strict: only a file that is not there is *nothing*; whatever else goes wrong is
a ``StorageError``, and nothing is overwritten for it.

Local folders are made 0700 and files 0600, and a document is written whole or not at all, on disk
before ``write`` returns. Other places are any fsspec file system whose single-object writes are
atomic, as object stores' are.
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
from faceid.settings import FaceIdSettings

FORMAT: Final = 1
"""Goes up when a document of the old form could be misread."""

KEY_FILE = "data.key"

_KEY = re.compile("[A-Za-z0-9_-]{43}=")


class Storage:
    """Documents by name; a name is a relative path. Methods block: call them from a thread."""

    def __init__(self, url: str, keys: MultiFernet) -> None:
        self._files, self._root = _open_file_system(url)
        self._keys = keys
        self.folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None
        """The folder where it is on this machine, else ``None``."""

    def read(self, name: str) -> dict[str, Any] | None:
        """The document; ``None`` where there is none. Raises ``StorageError`` for all else."""
        try:
            sealed = cast("bytes", self._files.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError as error:
            if _is_of_bucket(error):
                raise StorageError(
                    "StorageUnavailable", f"cannot read {name} (no such bucket)"
                ) from None
            return None
        except Exception as error:  # a file system of any kind raises what it likes
            raise _failed("read", name, error) from None
        return self._open(name, sealed)

    def _open(self, name: str, sealed: bytes) -> dict[str, Any]:
        try:
            envelope: Any = orjson.loads(sealed)
            format_number, content = envelope["format"], envelope["sealed"]
        except (ValueError, LookupError, TypeError):
            raise StorageError("DamagedDocument", f"{name} is no document of ours") from None
        if format_number != FORMAT:
            raise StorageError(
                "UnknownFormat",
                f"{name} has format {format_number!r}, and this version reads format {FORMAT}",
            )
        try:
            document = orjson.loads(self._keys.decrypt(content))
        except (InvalidToken, TypeError):
            raise StorageError(
                "CannotDecrypt", f"{name} was damaged, or sealed with a key that is not given"
            ) from None
        if document["name"] != name:
            raise StorageError("MisplacedDocument", f"{name} holds another document")
        return cast("dict[str, Any]", document["content"])

    def holds(self, name: str, sealed: bytes) -> bool:
        """Whether that is what ``write`` gave when it wrote the document, and nothing came since.

        Raises ``StorageError``.
        """
        try:
            return cast("bytes", self._files.cat_file(f"{self._root}/{name}")) == sealed
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failed("read", name, error) from None

    def write(self, name: str, content: dict[str, Any], *, durable: bool = True) -> bytes:
        """Durable when it returns, unless that is not asked for; gives what it wrote.

        Raises ``StorageError``; then what stood there stands there.
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
        """Says whether there was one. Raises ``StorageError``."""
        try:
            if self.folder:
                path = self.folder / name
                path.unlink()
                _sync_names(path.parent)
            else:
                path = f"{self._root}/{name}"
                if not self._files.exists(path):  # an object store removes what is not there, too
                    return False
                self._files.rm_file(path)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failed("remove", name, error) from None
        return True

    def names(self, folder: str) -> Iterator[str]:
        """The names of all documents in a folder of the storage. Raises ``StorageError``."""
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
        """The names of the folders right in a folder of the storage. Raises ``StorageError``."""
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
    """Writes a file whole or not at all, 0600 in folders 0700.

    It is on disk when this returns; else, where that is not asked for, a power cut may take it.
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
    """Makes a folder, and those above it that are missing, each of them 0700."""
    # With `parents=True` the mode would be that of the last one alone.
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_names(folder.parent)


def _sync_names(folder: Path) -> None:
    """What was named in the folder survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(what: str, name: str, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return StorageError("StorageUnavailable", f"cannot {what} {name} ({reason})")


def _is_of_bucket(error: FileNotFoundError) -> bool:
    """Whether an S3 store has no such bucket: that is no empty storage."""
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


def storage_url(settings: FaceIdSettings) -> str:
    return settings.storage or str(PREFECT_HOME.value() / "faceid")


def open_storage(settings: FaceIdSettings) -> Storage:
    """The storage of the settings. Raises ``InvalidInput`` where it or its key is not set right."""
    url = storage_url(settings)
    return _open_storage(url, settings.data_key.get_secret_value(), settings.service)


@lru_cache(maxsize=8)
def _open_storage(url: str, data_key: str, service: str) -> Storage:
    if data_key:
        return Storage(url, _parse_keys(data_key))
    if service == "live":
        raise InvalidInput(
            "Configuration",
            "FACEID_DATA_KEY is not set: the live service's answers are kept encrypted; make a key "
            "with: python -c 'from cryptography.fernet import Fernet; "
            "print(Fernet.generate_key().decode())'",
        )
    return Storage(url, _parse_keys(_own_key(url), f"{KEY_FILE} in FACEID_STORAGE"))


def _parse_keys(text: str, where: str = "FACEID_DATA_KEY") -> MultiFernet:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    # Fernet itself would overlook what stands behind a key, such as a semicolon and another one.
    if not keys or not all(_KEY.fullmatch(key) for key in keys):
        raise InvalidInput(
            "Configuration", f"{where}: must be Fernet keys, newest first, comma-separated"
        )
    return MultiFernet([Fernet(key) for key in keys])


def _own_key(url: str) -> str:
    """The emulator's key: made on first use, beside the storage.

    Two processes may make one at the same time: the first to put it in place wins.
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
