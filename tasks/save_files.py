"""The optional step after the verdict: download the files that the answer links to."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO

from prefect import task
from pydantic import SecretStr

from faceid.actions import AnswerFile
from faceid.errors import ServiceUnavailable, StorageError, WindowOver
from faceid.models import Reply, Verdict
from faceid.replies import field_of
from tasks.cache import UNCACHED
from tasks.delivery import Delivery
from tasks.retries import RETRIES
from tasks.state.private_files import make_private_folder


@task(
    task_run_name="save files{delivery.suffix}",
    **UNCACHED,
    **RETRIES,
)
async def save_files(delivery: Delivery, verdict: Verdict, folder: Path) -> int:  # noqa: ARG001 - see below
    """Save each file of the answer in ``folder``, and return how many files the answer links to.

    A file is named ``<request ID>.<field><suffix>``, such as ``r-1.BestFrame.jpg``, and has mode
    0600. Existing files are not changed. ``verdict`` is not used; it only tells Prefect that this
    step depends on the call. Raises ``WindowOver`` if a file has expired at the service,
    ``ServiceUnavailable`` if a download fails or its MD5 is wrong, and ``StorageError`` if the
    record does not contain the answer or a file cannot be written.
    """
    reply = delivery.record.reply
    if reply is None:
        raise StorageError(
            "AnswerForgotten",
            "only the verdict was kept",
            advice="The verdict remains valid, but the files of the answer are gone.",
        )
    found = 0
    for file in delivery.action.files:
        url = field_of(reply, file.url)
        if isinstance(url, str) and url:
            found += 1
            path = file_path(folder, delivery.record.request_id, file)
            # The path is recorded before the file exists, so that `forget` finds the file even if
            # this run dies.
            if str(path) not in delivery.record.saved_files:
                delivery.record.save_file(str(path))
                await delivery.save()
            await _save(delivery, file, reply, SecretStr(url), path)
    return found


async def _save(
    delivery: Delivery, file: AnswerFile, reply: Reply, url: SecretStr, path: Path
) -> None:
    try:
        with _draft_of(path) as draft:
            if draft is None:
                return
            digest = await delivery.client.fetch(url, draft)
            if digest != field_of(reply, file.md5):
                raise ServiceUnavailable(
                    "DamagedFile", f"{file.url}: the file's MD5 is not the one in the answer"
                )
    except WindowOver as error:
        raise WindowOver(
            "FilesExpired",
            f"{file.url}: the service no longer has the file",
            host=error.host,
            advice="The files are kept for two hours; the verdict remains valid.",
        ) from None
    except OSError as error:
        raise StorageError(
            "CannotSave",
            f"{file.url} cannot be saved ({error.strerror})",
            advice="Check the folder given as save_files_to.",
        ) from None


@contextlib.contextmanager
def _draft_of(path: Path) -> Generator[IO[bytes] | None]:
    """Yield a file opened for writing, which is renamed to ``path`` on exit.

    If ``path`` exists, this yields ``None``. If an error occurs, no file is left behind.
    """
    if path.exists():
        yield None
        return
    make_private_folder(path.parent)
    draft = draft_path(path)
    draft.unlink(missing_ok=True)  # left behind by a killed run
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def draft_path(path: Path) -> Path:
    """Return the path of a file until it is complete. A killed run may leave such a file behind."""
    return path.with_name(f".{path.name}.part")


def file_path(folder: Path, request_id: str, file: AnswerFile) -> Path:
    """Return the path at which a file of an answer is saved."""
    return folder / f"{request_id}.{file.url.partition('.')[0].removesuffix('Url')}{file.suffix}"
