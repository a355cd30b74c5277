"""Keeping an answer that has been paid for, whatever happens to the run that has it in hand.

The answer's save is not cut off by a cancellation, and is tried again while the storage does not
answer. If another run has overtaken this one in the meantime, the answer is added to what that one
has stored: the first stored verdict stands.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from faceid.errors import StorageError
from tasks.state.record_store import Overtaken, RecordStore
from tasks.state.records import Record

T = TypeVar("T")

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two attempts to save; each delay is twice the one before."""


async def keep_answer(store: RecordStore, record: Record, seconds: float) -> Record:
    """Save a record whose run has an answer in hand; return the record that is stored then.

    This is another record if another run has overtaken this one. Tries for ``seconds`` if the
    storage cannot be written, and then raises ``StorageError``. If the request has been forgotten,
    its answer is forgotten, too, and this raises ``Overtaken``.
    """
    return await uninterrupted(_keep(store, record, seconds))


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await to its end, and only then let a cancellation that came meanwhile take effect."""
    task = asyncio.ensure_future(work)
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            interruption = error
        except Exception:  # noqa: S110 - raised below
            pass
    if interruption is not None:
        raise interruption
    return task.result()


async def _keep(store: RecordStore, record: Record, seconds: float) -> Record:
    deadline = time.monotonic() + seconds
    delay = FIRST_DELAY
    stored = record
    while True:
        try:
            await store.save(stored)
            return stored
        except Overtaken:
            found = await _load(store, record)
            if found is not None:
                found.take_over(record)
                stored = found
                continue
        except StorageError:
            if time.monotonic() + delay > deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_DELAY)


async def _load(store: RecordStore, record: Record) -> Record | None:
    """Return the stored record; ``None`` if it cannot be read now. Raises ``Overtaken`` if gone."""
    try:
        found = await store.load(record.request_id)
    except StorageError:
        return None
    if found is None or found.generation != record.generation:
        raise Overtaken
    return found
