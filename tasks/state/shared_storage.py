"""What storage that is not on this machine needs before runs may write records in it.

Other machines may use it at the same time. Two things keep two of them from calling an action for
the same request: locks that all of them see, which ``FACEID_LOCKS`` names, and a store that refuses
to write over a version that its writer does not know. What a store does is found out by a trial,
whose result is kept in the storage for ``KEPT``, so that not every run makes one.

Storage on this machine needs neither: its locks are files.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import anyio.to_thread

from faceid.errors import InvalidInput, StorageError
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.locks import check_locks
from tasks.state.storage import Storage, open_storage

KEPT = timedelta(days=1)
"""How long the result of a trial counts. The store may be replaced by another one, or a proxy may
be put in front of it."""

NO_LOCKS = (
    "FACEID_STORAGE is not on this machine and FACEID_LOCKS is not set: set it to the redis:// URL "
    "of a server that all machines use"
)
NO_CONDITIONS = (
    "FACEID_STORAGE: a trial has shown that this store does not honour conditional writes "
    "(If-Match): set it to a store that does, or to a folder on this machine"
)


class Trial(NamedTuple):
    """What a trial has shown of a store."""

    honoured: bool
    """Whether the store honours conditional writes, that is, has refused every stale write."""
    at: datetime
    """When the trial took place."""


async def open_for_runs(settings: DeliverySettings) -> Storage:
    """Return the storage of these settings, if runs may write records in it.

    Raises ``InvalidInput`` if the storage, its key or its locks are misconfigured or the store does
    not honour conditional writes, and ``StorageError`` if that cannot be found out.
    """
    storage = open_storage(settings)
    if storage.folder is None:
        if not settings.locks:
            raise InvalidInput("Configuration", NO_LOCKS)
        check_locks(settings.locks)
        trial = await anyio.to_thread.run_sync(_kept_or_new, storage)
        if not trial.honoured:
            raise InvalidInput("Configuration", NO_CONDITIONS)
    return storage


def try_conditional_writes(storage: Storage) -> Trial:
    """Find out what the store does, and keep the result in the storage. Blocks.

    Several processes may do so at the same time. Raises ``StorageError`` if the store cannot be
    used.
    """
    trial = Trial(storage.honours_conditions(), datetime.now(UTC))
    content = {"place": storage.place, "honoured": trial.honoured, "at": trial.at.isoformat()}
    storage.write(layout.TRIAL, content, durable=False)
    return trial


def _kept_or_new(storage: Storage) -> Trial:
    # A result that cannot be read, such as one that was encrypted with another key, is none.
    with suppress(StorageError):
        kept = storage.read(layout.TRIAL)
        # A result that came with the documents from another store does not count. Neither does a
        # refusal, because somebody may have mended the store since.
        if kept and kept["honoured"] and kept["place"] == storage.place:
            at = datetime.fromisoformat(kept["at"])
            if abs(datetime.now(UTC) - at) < KEPT:
                return Trial(honoured=True, at=at)
    return try_conditional_writes(storage)
