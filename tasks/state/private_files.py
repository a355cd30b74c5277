"""Files and folders that only their owner can access, written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_private_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file, whole or not at all, with mode 0600 and missing folders with 0700.

    With ``durable`` it is on disk when this returns; otherwise a power cut may undo the write.
    Raises ``OSError``.
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
        sync_names(path.parent)


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, each with mode 0700. Raises ``OSError``."""
    # `mkdir(parents=True)` would apply the mode only to the last folder.
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_names(folder.parent)


def sync_names(folder: Path) -> None:
    """Sync a folder, so that names created or removed in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
