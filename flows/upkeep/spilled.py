"""The taking up of all answers that were spilled on this machine (``tasks.state.spill``)."""

from collections.abc import AsyncGenerator

import anyio.to_thread

from faceid.errors import FaceIdError
from tasks.settings import DeliverySettings
from tasks.state.claims import LockBusy, fail_if_locked, request_lock
from tasks.state.record_store import RecordStore
from tasks.state.spill import open_spill, take_up
from tasks.state.storage import Storage


async def take_up_all(
    settings: DeliverySettings, storage: Storage, of: RecordStore | None = None
) -> AsyncGenerator[FaceIdError | None]:
    """Add each spilled answer of a storage, or of one of its stores, to its record.

    Yields ``None`` for each answer that was taken up, and the error for each that could not be,
    such as one whose key is missing. Those of requests that a run is at work on are left to it.
    Raises ``StorageError`` if the answers cannot be listed.
    """
    spill = open_spill(settings, storage)
    for name in await anyio.to_thread.run_sync(spill.all, of):
        try:
            if (answer := await anyio.to_thread.run_sync(spill.read, name)) is None:
                continue
            store, request_id = answer.store, answer.record.request_id
            async with request_lock(store, settings, request_id, fail_if_locked):
                await take_up(spill, store, request_id)
            yield None
        except LockBusy:
            continue
        except FaceIdError as error:
            yield error
