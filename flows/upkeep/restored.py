"""Finds calls that Prefect's runs tell of and the storage does not know.

The storage forgets its last calls if it is restored from a backup that is older than they are. The
runs on the Prefect server and the answers spilled on this machine still tell of them. Whatever is
delivered again would be called again.

A restored storage lacks what came last. So the newest runs are compared first, a page at a time,
and older ones only as long as the storage lacks any: if all is well, that is one page.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any, NamedTuple, cast

import anyio.to_thread
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterName,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from faceid.errors import StorageError
from flows.server.runs import PAGE, list_runs, server_errors, tag_of
from tasks.credentials import block_of, settings_of
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.spill import open_spill
from tasks.state.storage import open_storage

PAGES = 10
"""Number of pages after which no older runs are compared."""

_VERDICT, _UNKNOWN = "outcome:verdict", "outcome:outcome-unknown"
_CALL = "call "
"""How the names of the task runs begin that call the target action (``tasks.call_target_action``).
In a batch, they end with the request ID."""


class Call(NamedTuple):
    """A call that a run tells of."""

    request_id: str
    """The ID of the request."""
    flow_run_id: str
    """The ID of the flow run that called."""
    ended: datetime
    """When the run or its step ended, by which time the record had been written."""
    has_answer: bool
    """Whether the run got the verdict; otherwise the outcome of its call is unknown."""


class Comparison(NamedTuple):
    """What a comparison of runs with records has found."""

    known: int
    """Number of calls that the storage knows."""
    missing: tuple[Call, ...]
    """The calls that it does not know, at most one of each request."""


async def compare(client: PrefectClient, settings: DeliverySettings) -> Comparison:
    """Compare the newest runs of the settings' service with the records in the storage.

    Raises ``StorageError`` if the storage or the Prefect server cannot be read.
    """
    stores = await anyio.to_thread.run_sync(_stores, settings)
    known, missing = 0, dict[str, Call]()
    for pages in (_calls_of_runs(client, settings), _calls_of_batches(client, settings)):
        async with aclosing(pages):
            async for page in pages:
                lacking = [call for call in page if not await _is_known(stores, call)]
                known += len(page) - len(lacking)
                for call in lacking:
                    missing.setdefault(call.request_id, call)
                if not lacking:
                    break
    return Comparison(known, tuple(missing.values()))


async def spilled_without_record(settings: DeliverySettings) -> list[str]:
    """Return the IDs of requests that the storage does not know and this machine has answers of.

    A sweep takes such requests for forgotten, and removes their answers. Answers that cannot be
    read are left out, because a sweep leaves them alone. Raises ``StorageError`` if the storage
    cannot be read.
    """
    spill = open_spill(settings, open_storage(settings))
    found: list[str] = []
    for name in await anyio.to_thread.run_sync(spill.all):
        answer = None
        with suppress(StorageError):
            answer = await anyio.to_thread.run_sync(spill.read, name)
        if answer is None:
            continue
        record = await answer.store.load(answer.record.request_id)
        if record is None or record.generation != answer.record.generation:
            found.append(answer.record.request_id)
    return found


async def was_called_since(client: PrefectClient, store: RecordStore, record: Record) -> bool:
    """Return whether a run ended after the record was written, with a verdict or a call unanswered.

    Then the record has been restored from a backup. Raises ``StorageError`` if the Prefect server
    cannot be asked.
    """
    if record.verdict is not None:
        return False
    runs = FlowRunFilter(
        tags=FlowRunFilterTags(
            all_=[f"request:{record.request_id}", f"service:{store.service}"],
            any_=[_VERDICT, _UNKNOWN],
        ),
        # Prefect annotates times with a class of its own, but accepts any datetime.
        end_time=FlowRunFilterEndTime(after_=cast("Any", record.updated_at)),
    )
    with server_errors():
        found = await list_runs(client, ["deliver"], runs)
        accounts = [(await settings_of(block_of(run.parameters))).account for run in found]
    return store.account in accounts


def _stores(settings: DeliverySettings) -> list[RecordStore]:
    storage, service = open_storage(settings), settings.service
    accounts = {settings.account, *storage.folders(f"{layout.RECORDS}/{service}")}
    return [RecordStore(storage, service, account) for account in sorted(accounts)]


async def _is_known(stores: list[RecordStore], call: Call) -> bool:
    """Return whether a record knows of the call, or has been written since.

    A run does not tell its account, and the block that it was given may have changed. So the record
    that names the run counts, or else that of any account.
    """
    loaded = [await store.load(call.request_id) for store in stores]
    records = [record for record in loaded if record is not None]
    naming = [
        record
        for record in records
        if any(run.flow_run_id == call.flow_run_id for run in record.runs)
    ]
    return any(_knows(record, call) for record in naming or records)


def _knows(record: Record, call: Call) -> bool:
    if record.verdict is not None or record.updated_at >= call.ended:
        return True
    return not call.has_answer and record.intent is not None


async def _calls_of_runs(
    client: PrefectClient, settings: DeliverySettings
) -> AsyncGenerator[list[Call]]:
    """Yield pages of the calls of single requests, newest first."""
    service = FlowRunFilterTags(all_=[f"service:{settings.service}"], any_=[_VERDICT, _UNKNOWN])
    for number in range(PAGES):
        with server_errors():
            page = await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["deliver"])),
                flow_run_filter=FlowRunFilter(tags=service),
                sort=FlowRunSort.END_TIME_DESC,
                limit=PAGE,
                offset=number * PAGE,
            )
        yield [
            Call(request_id, str(run.id), run.end_time, _VERDICT in run.tags)
            for run in page
            if run.end_time and (request_id := tag_of(run, "request"))
        ]
        if len(page) < PAGE:
            return


async def _calls_of_batches(
    client: PrefectClient, settings: DeliverySettings
) -> AsyncGenerator[list[Call]]:
    """Yield pages of the answered calls of requests in batches, newest first."""
    answered = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.COMPLETED]))
    for number in range(PAGES):
        with server_errors():
            page = await client.read_task_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["deliver-shard"])),
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[f"service:{settings.service}"])
                ),
                task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=_CALL), state=answered),
                sort=TaskRunSort.END_TIME_DESC,
                limit=PAGE,
                offset=number * PAGE,
            )
        yield [
            Call(step.name.rpartition(" ")[2], str(step.flow_run_id), step.end_time, True)
            for step in page
            if step.end_time and step.name.startswith(_CALL)
        ]
        if len(page) < PAGE:
            return
