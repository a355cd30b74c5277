"""Locks that are files with ``flock``: the kernel releases them when their process ends.

A lock file is removed when its lock is released, so that none is left behind for each request.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path

from tasks.state.private_files import make_private_folder

_POLL_SECONDS = 0.005


def try_file_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, or ``None`` if another one holds it.

    Raises ``OSError`` if the file cannot be created.
    """
    make_private_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_held(path, handle):
            return handle
    except BlockingIOError:
        pass
    os.close(handle)
    return None


def is_held(path: Path, handle: int) -> bool:
    """Return whether the file that is locked is still the one with this path."""
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def release_file_lock(path: Path, handle: int) -> None:
    """Release the lock, and remove its file, unless somebody else has removed it already.

    In that case the file of this name may be the one that another process has locked.
    """
    # Removed before the lock is released: otherwise a process that acquires it in between would
    # hold it on a file that is about to lose its name.
    with contextlib.suppress(OSError):
        if is_held(path, handle):
            path.unlink()
    os.close(handle)


@contextlib.contextmanager
def file_lock(path: Path, seconds: float) -> Generator[None]:
    """Hold the lock. Blocks the thread while another holds it, ``seconds`` at most.

    Raises ``TimeoutError`` if it does not become free in time, and ``OSError``.
    """
    deadline = time.monotonic() + seconds
    while (handle := try_file_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(None, "another process holds its lock")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        release_file_lock(path, handle)
