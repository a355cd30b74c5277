"""Stale saves of a record, each of which must be refused: on any kind of storage."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from faceid.models import Reply, Verdict
from tasks.state.record_store import Overtaken, RecordStore
from tasks.state.records import Origin, Record

PASSED = Verdict(passed=True, result="Success")
REPLY = Reply(tencent_request_id="t-1", fields={"Result": "Success"})


def new_record() -> Record:
    """Return the record of a request that no run has claimed yet."""
    return Record(
        request_id="r-1",
        target_action="VideoLivenessCompare",
        region="ap-singapore",
        request_digest="1",
        input_digest="2",
        window=1,
    )


def claimed(record: Record, run: str = "run-1") -> Record:
    """Claim the record for a run of a deployment, and return it."""
    record.claim(run, Origin(deployment="deliver/default", parameters={}))
    return record


async def loaded(store: RecordStore) -> Record:
    """Return the stored record."""
    record = await store.load("r-1")
    assert record is not None
    return record


async def _deliver(store: RecordStore, record: Record) -> None:
    """Let another run bring the request to its verdict."""
    claimed(record, "run-2")
    await store.save(record)
    record.intend_call()
    await store.save(record)
    record.answer(REPLY, PASSED, ends_run=True)
    await store.save(record)


async def over_a_new_record(store: RecordStore) -> Record:
    """Two runs find no record; the other one delivers."""
    mine = claimed(new_record())
    await _deliver(store, new_record())
    return mine


async def over_an_existing_record(store: RecordStore) -> Record:
    """Two runs load the same record and get the same fence; the other one delivers."""
    await store.save(claimed(new_record(), "run-0"))
    mine = claimed(await loaded(store))
    await _deliver(store, await loaded(store))
    return mine


async def after_forget(store: RecordStore) -> Record:
    """The record is removed after it was loaded."""
    await store.save(claimed(new_record(), "run-0"))
    mine = claimed(await loaded(store))
    await store.remove(await loaded(store))
    return mine


async def after_forget_and_another_delivery(store: RecordStore) -> Record:
    """The record is removed after it was loaded, and another one is made under its name."""
    mine = await after_forget(store)
    await _deliver(store, new_record())
    return mine


async def after_the_sweeper(store: RecordStore) -> Record:
    """The sweeper, which claims nothing, has written the record."""
    await store.save(mine := claimed(new_record()))
    swept = await loaded(store)
    swept.crash()
    swept.plan_follow_up(datetime.now(UTC))
    await store.save(swept)
    mine.intend_call()
    return mine


STALE: list[Callable[[RecordStore], Awaitable[Record]]] = [
    over_a_new_record,
    over_an_existing_record,
    after_forget,
    after_forget_and_another_delivery,
    after_the_sweeper,
]


async def refuse_a_stale_save(
    store: RecordStore, make: Callable[[RecordStore], Awaitable[Record]]
) -> None:
    """Check that neither a save nor a removal of a stale record changes what is stored."""
    mine = await make(store)
    stored = await store.load("r-1")
    for change in (store.save, store.remove):
        with pytest.raises(Overtaken):
            await change(mine)
        assert await store.load("r-1") == stored
