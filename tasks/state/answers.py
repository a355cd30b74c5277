"""Keeping an answer that has been paid for, whatever happens to the run that has it in hand.

The answer's save is not cut off by a cancellation, and is tried again while the storage does not
answer. Meanwhile the answer is spilled (``tasks.state.spill``), so that it survives the end of the
process, and a run that is cancelled need not wait for the storage any longer. If another run has
overtaken this one in the meantime, the answer is added to what that one has stored: the first
stored verdict stands.
"""

import asyncio
import logging
import time
from contextlib import suppress

import anyio.to_thread

from faceid.errors import StorageError
from tasks.state.cancellation import uninterrupted
from tasks.state.record_store import Overtaken, RecordStore
from tasks.state.records import Record
from tasks.state.spill import Spill

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two attempts to save; each delay is twice the one before."""

logger = logging.getLogger(__name__)


async def keep_answer(store: RecordStore, spill: Spill, record: Record, seconds: float) -> Record:
    """Save a record whose run has an answer in hand; return the record that is stored then.

    This is another record if another run has overtaken this one. Tries for ``seconds`` if the
    storage cannot be written, and then raises ``StorageError``, which says where the answer has
    been spilled. If the request has been forgotten, its answer is forgotten, too, and this raises
    ``Overtaken``.
    """
    cancelled = asyncio.Event()
    task = asyncio.create_task(_keep(store, spill, record, seconds, cancelled))
    return await uninterrupted(task, cancelled.set)


async def _keep(
    store: RecordStore, spill: Spill, record: Record, seconds: float, cancelled: asyncio.Event
) -> Record:
    deadline = time.monotonic() + seconds
    delay = FIRST_DELAY
    spilled: list[str] = []
    while True:
        try:
            kept = await _save(store, record)
        except Overtaken:
            await anyio.to_thread.run_sync(spill.remove, spilled)
            raise
        except StorageError as error:
            # At once, because the process may be killed before the storage is back.
            unspilled = None
            if not spilled:
                try:
                    spilled.append(await anyio.to_thread.run_sync(spill.write, store, record))
                except StorageError as failure:
                    unspilled = failure
            is_over = time.monotonic() + delay > deadline
            if is_over or (spilled and cancelled.is_set()):
                failed = _not_stored(error, spill, unspilled)
                # A run that is cancelled does not report the error.
                logger.warning("request %s: %s", record.request_id, failed)
                raise failed from None
        else:
            with suppress(StorageError):  # left to the next run or sweep
                await anyio.to_thread.run_sync(spill.remove, spilled)
            return kept
        if spilled:
            with suppress(TimeoutError):
                await asyncio.wait_for(cancelled.wait(), delay)
        else:
            await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_DELAY)


async def _save(store: RecordStore, record: Record) -> Record:
    """Save the record, or add it to the stored one of a run that has overtaken it.

    Returns the record that is stored then. Raises ``Overtaken`` if the request has been forgotten.
    """
    stored = record
    while True:
        try:
            await store.save(stored)
            return stored
        except Overtaken:
            found = await store.reload(record)
            if found is None:
                raise
            found.take_over(record)
            stored = found


def _not_stored(error: StorageError, spill: Spill, unspilled: StorageError | None) -> StorageError:
    if unspilled is None:
        return StorageError(
            "AnswerSpilled",
            f"{error.message}; the answer lies encrypted in {spill.folder}",
            advice="The next run of the request or the next sweep on this machine stores it, "
            "and no call is repeated.",
        )
    return StorageError(
        "AnswerLost",
        f"{error.message}; nor can the answer be written to {spill.folder}: {unspilled.message}",
        advice="Check FACEID_STORAGE and FACEID_SPILL. The outcome of the call is now unknown.",
    )
