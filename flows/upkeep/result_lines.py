"""Removes the result lines of forgotten requests from the results in the storage.

Results in other folders, which somebody chose for a batch, are left alone.
"""

import fcntl
import os
import tempfile
from collections.abc import Collection, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import orjson
from fsspec.implementations.local import LocalFileSystem

from faceid.errors import StorageError
from faceid.files.resources import file_system, plain_errors
from flows.batch.results import FAILURES, RESULTS
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.storage import storage_url

DELETE_MANUALLY = "Delete it manually, then forget the request again."
"""Advice if a file that belongs to a request cannot be deleted."""


def forget_lines(settings: DeliverySettings, request_ids: Collection[str]) -> int:
    """Remove the lines of these requests from all results in the storage. Blocks.

    Returns the number of batches that are at work, whose results are left alone. Raises
    ``StorageError`` if results cannot be read or rewritten.
    """
    at_work = 0
    try:
        with plain_errors():
            files, root = file_system(f"{storage_url(settings)}/{layout.BATCHES}")
            is_local = isinstance(files, LocalFileSystem)
            folders = cast("list[str]", files.ls(root, detail=False) if files.exists(root) else [])
            for folder in folders:
                with _written_to(Path(folder)) if is_local else nullcontext(False) as is_written_to:
                    at_work += is_written_to
                    if not is_written_to:
                        _forget_in(files, folder, request_ids, is_local=is_local)
    except OSError as error:
        raise StorageError(
            "CannotDelete",
            f"result lines cannot be deleted ({error.strerror})",
            advice=DELETE_MANUALLY,
        ) from None
    return at_work


@contextmanager
def _written_to(folder: Path) -> Generator[bool]:
    """Yield whether a batch writes to the folder.

    If no batch does, no batch can begin to write to it within the context.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield True
        else:
            yield False
    finally:
        os.close(handle)


def _forget_in(files: Any, folder: str, request_ids: Collection[str], *, is_local: bool) -> None:
    """Rewrite the files of a folder that have lines of these requests.

    If no line is left, the folder is removed.
    """
    left = 0
    for name in (RESULTS, FAILURES):
        path = f"{folder}/{name}"
        if not files.exists(path):
            continue
        # The draft has mode 0600. It is in the same folder, so that it can replace the file
        # atomically.
        with tempfile.NamedTemporaryFile(dir=folder if is_local else None, delete=False) as draft:
            try:
                kept, gone = _copy(files, path, draft, request_ids)
                if gone and is_local:
                    os.fsync(draft.fileno())
                    Path(draft.name).replace(path)
                elif gone:
                    files.put_file(draft.name, path)
            finally:
                Path(draft.name).unlink(missing_ok=True)
        left += kept
    if not left:
        files.rm(folder, recursive=True)


def _copy(files: Any, path: str, draft: Any, request_ids: Collection[str]) -> tuple[int, int]:
    """Copy the lines of all other requests to a draft.

    Returns the number of lines that were copied, and the number of those that were left out.
    """
    kept = gone = 0
    with files.open(path, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n") and orjson.loads(line)["request_id"] in request_ids:
                gone += 1
            else:
                kept += 1
                draft.write(line)
    draft.flush()
    return kept, gone
