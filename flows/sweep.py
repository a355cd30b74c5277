"""The flow ``sweep``, which continues requests and batches whose run or follow-up was lost.

Runs are lost when workers are killed, servers restart or machines fail. The records show which
requests are open. If a record says that a run is at work, but no run holds the request's lock, the
run has died. If the follow-up that a request waits for does not exist in Prefect, or ended before
it claimed the request, the follow-up is lost. Answers that were spilled on the sweep's machine are
stored first. In each case the sweep schedules one new follow-up,
however many sweeps there are, because the follow-up is stored in the record and its idempotency key
is derived from the record. Cancelled requests are not continued, and neither are those whose record
was restored from a backup that is older than their call.

The final state of a sweep contains counts and no request IDs, so that runs of ``sweep`` need not be
deleted when a request is forgotten.
"""

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio.to_thread
from prefect import flow, get_client, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Completed

from faceid import redaction
from faceid.errors import FaceIdError, InvalidInput
from faceid.models import ResultError, Service
from flows.batch.chain import replace_dead
from flows.delivery.follow_ups import (
    create_run,
    delay_after,
    is_to_come,
    next_attempt_at,
    origin_of,
    read_run,
    schedule,
    submit,
)
from flows.delivery.outcome import DeliveryOutcome, emit_delivery_event, misconfigured, result_of
from flows.server.events import emit_event
from flows.server.runs import tag_of
from flows.upkeep.dead_runs import crashed_runs, delete_late_runs, mark_crashed, mark_dead_runs
from flows.upkeep.restored import was_called_since
from flows.upkeep.spilled import take_up_all
from tasks.credentials import block_of, services_in_use, settings_of
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.claims import LockBusy, fail_if_locked, is_locked, request_lock
from tasks.state.locks import acquire_lock
from tasks.state.record_store import RecordStore, open_requests
from tasks.state.records import Record
from tasks.state.shared_storage import open_for_runs
from tasks.state.storage import Storage

LONG_WAIT = timedelta(hours=1)
"""Requests that have waited for at least this long are reported in an event."""

EXAMPLES = 3
"""Number of request IDs that are reported as examples of waiting requests."""

RESTORED = "older than their runs"
"""What is said of open requests whose record was restored from a backup. A run has called since
then, so they are left to a person: a follow-up would call again."""

MAX_DEATHS = 8
"""Number of runs that may die in succession before they claim their request. After that, no further
run is scheduled."""


@flow(name="sweep", flow_run_name="sweep", persist_result=False)
async def sweep() -> State[Any]:
    """Schedule follow-ups for requests whose run was lost, and mark dead runs as Crashed."""
    redaction.install()
    try:
        settings = DeliverySettings.load()
        storage = await open_for_runs(settings)
    except InvalidInput as error:
        return misconfigured(error)
    folder = layout.locks_folder(storage.folder)
    try:
        async with (
            acquire_lock(settings.locks, folder, f"sweep/{settings.service}", fail_if_locked),
            get_client() as client,
        ):
            done = await _Sweep(client, settings, storage).run()
    except LockBusy:
        return Completed(message="another sweep is at work")
    said = [f"{count} {what}" for what, count in sorted(done.items())]
    return Completed(message=", ".join(said) or "nothing is open")


class _Sweep:
    """A sweep over all open requests and all crashed runs."""

    def __init__(self, client: PrefectClient, settings: DeliverySettings, storage: Storage) -> None:
        self.client = client
        self.settings = settings
        self.storage = storage
        self.done: Counter[str] = Counter()
        """How often each thing was done, such as ``scheduled`` or ``marked Crashed``."""
        self.waiting: dict[str, datetime] = {}
        """Maps IDs of waiting requests of the current service to the time since when they wait."""

    async def run(self) -> Counter[str]:
        """Carry out the sweep, and return how often each thing was done."""
        await delete_late_runs(self.client, "sweep", but=UUID(flow_run.id))
        self.done.update(await mark_dead_runs(self.client, self._is_at_work))
        await self._take_up_spilled()
        for service in await services_in_use(self.client):
            self.waiting = {}
            for account, request_id in await anyio.to_thread.run_sync(self._opened, service):
                await self._look_after(RecordStore(self.storage, service, account), request_id)
            self._tell_of_long_waits(service)
        since = datetime.now(UTC) - timedelta(seconds=self.settings.give_up_after)
        for run in await crashed_runs(self.client, "deliver", since):
            await self._replace(run)
        for run in await crashed_runs(self.client, "deliver-batch", since):
            await self._replace_batch(run)
        return +self.done

    async def _take_up_spilled(self) -> None:
        """Store the answers that were spilled on this machine."""
        try:
            async for error in take_up_all(self.settings, self.storage):
                if error is None:
                    self.done["spilled answers stored"] += 1
                else:
                    self._tell(error)
        except FaceIdError as error:
            self._tell(error)

    def _opened(self, service: Service) -> list[tuple[str, str]]:
        return list(open_requests(self.storage, service))

    async def _is_at_work(self, run: FlowRun) -> bool:
        """Return whether a run that seems dead holds its request's lock, and is therefore alive."""
        if "request_id" not in run.parameters:
            return False
        store = await self._store_of(run)
        request_id = str(run.parameters["request_id"])
        try:
            record = await store.load(request_id)
        except FaceIdError as error:
            self._tell(error)
            return True  # to be safe, because the record cannot be read
        took_it_on = record and record.runs and record.runs[-1].flow_run_id == str(run.id)
        return bool(took_it_on) and await is_locked(store, self.settings, request_id)

    async def _store_of(self, run: FlowRun) -> RecordStore:
        settings = await settings_of(block_of(run.parameters))
        return RecordStore(self.storage, settings.service, settings.account)

    async def _look_after(self, store: RecordStore, request_id: str) -> None:
        try:
            async with request_lock(store, self.settings, request_id, fail_if_locked):
                record = await store.load(request_id)
                if record is None or not record.is_open:
                    await anyio.to_thread.run_sync(store.close, request_id)
                elif await self._is_ours(store, record):
                    self.done[await self._take_up(store, record)] += 1
                    if since := record.waits_since:
                        self.waiting[request_id] = since
        except LockBusy:
            self.done["at work"] += 1
        except FaceIdError as error:
            self._tell(error)

    def _tell_of_long_waits(self, service: Service) -> None:
        """Emit one event about all requests of a service that have waited for ``LONG_WAIT``.

        There is one event for all of them, because an outage may hold up thousands of requests.
        """
        before = datetime.now(UTC) - LONG_WAIT
        long = {name: since for name, since in self.waiting.items() if since <= before}
        if not long:
            return
        self.done["waiting for a long time"] += len(long)
        emit_event(
            "requests.waiting",
            kind="requests",
            name="waiting",
            service=service,
            labels={"scope": "service"},
            payload={
                "requests": len(long),
                "since": min(long.values()).isoformat(timespec="seconds"),
                "such_as": sorted(long, key=lambda name: long[name])[:EXAMPLES],
            },
        )

    async def _is_ours(self, store: RecordStore, record: Record) -> bool:
        """Return whether a new run with the record's parameters would use the store's service."""
        block = block_of(record.origin.parameters if record.origin else {})
        return (await settings_of(block)).service == store.service

    def _tell(self, error: FaceIdError) -> None:
        """Log and count an error about one request, so that the sweep continues with the others."""
        get_run_logger().warning("a request could not be checked: %s", error)
        self.done["not checked"] += 1

    async def _take_up(self, store: RecordStore, record: Record) -> str:
        """Continue an open request if its run or follow-up is lost, and return what was done."""
        if record.outcome is None:
            return await self._after_death(store, record)
        follow_up = record.follow_up
        if follow_up is None or follow_up.flow_run_id is None:
            # The run that planned the follow-up died before it scheduled it.
            if await was_called_since(self.client, store, record):
                return RESTORED
            await submit(self.client, store, record)
            return "scheduled"
        run = await read_run(self.client, follow_up.flow_run_id)
        if run is None or run.state is None:
            # The follow-up was deleted, or the server has a new database.
            return await self._schedule(store, record, follow_up.due)
        if run.state.is_cancelled():
            return await self._cancelled(store, record)
        if run.state.is_final():
            # The follow-up ended before it claimed the request.
            return await self._schedule_after_setback(store, record, run)
        return "waiting"

    async def _after_death(self, store: RecordStore, record: Record) -> str:
        """Continue a request whose last run recorded no outcome and no longer holds the lock.

        Returns what was done.
        """
        run = await read_run(self.client, record.runs[-1].flow_run_id)
        if run is not None and run.state is not None:
            if run.state.is_cancelling():
                return "at work"
            if run.state.is_cancelled():
                return await self._cancelled(store, record)
            if not run.state.is_final():
                await mark_crashed(self.client, run.id)
                self.done["marked Crashed"] += 1
        record.crash()
        if await is_to_come(self.client, record.follow_up):
            record.defer()
            await store.save(record)
            return "waiting"
        return await self._schedule_after_setback(store, record, run)

    async def _schedule_after_setback(
        self, store: RecordStore, record: Record, dead: FlowRun | None
    ) -> str:
        due = next_attempt_at(record, self.settings, at_once=True)
        if due is None:
            if await was_called_since(self.client, store, record):
                return RESTORED
            message = "its runs died one after the other; see the worker's log"
            error = ResultError(code="RunsDied", message=message, kind="unavailable")
            record.fail("unavailable", error)
            await store.save(record)
            self._announce(store, record)
            return "given up"
        return await self._schedule(store, record, due, dead)

    def _announce(self, store: RecordStore, record: Record) -> None:
        """Emit the event about a failed request whose last run died and could not emit it."""
        ending = DeliveryOutcome(record, failed_before=True)
        result = result_of(
            ending,
            request_id=record.request_id,
            target_action=record.target_action,
            service=store.service,
            started_at=datetime.now(UTC),
        )
        last_run = record.runs[-1].flow_run_id
        emit_delivery_event(result.model_copy(update={"flow_run_id": last_run}), ending)

    async def _schedule(
        self, store: RecordStore, record: Record, due: datetime, dead: FlowRun | None = None
    ) -> str:
        if await was_called_since(self.client, store, record):
            return RESTORED
        await schedule(self.client, store, record, due, dead and str(dead.id))
        if dead and record.follow_up and record.follow_up.flow_run_id:
            await self._link(dead, record.follow_up.flow_run_id)
        return "scheduled"

    async def _cancelled(self, store: RecordStore, record: Record) -> str:
        record.cancel()
        await store.save(record)
        return "cancelled"

    async def _link(self, dead: FlowRun, flow_run_id: str) -> None:
        """Tag a dead run with the ID of the run that replaces it."""
        await self.client.update_flow_run(dead.id, tags=[*dead.tags, f"next:{flow_run_id}"])

    async def _replace(self, run: FlowRun) -> None:
        """Schedule another run in place of one that died before it claimed its request."""
        if tag_of(run, "next") or tag_of(run, "window"):
            return  # it has been replaced already, or is a follow-up, which `_take_up` replaces
        if "request_id" not in run.parameters:
            return  # another run with these parameters would fail, too
        store, request_id = await self._store_of(run), str(run.parameters["request_id"])
        if tag_of(run, "service") not in (None, store.service):
            return  # it was scheduled for another service than its settings name now
        try:
            # The lock is held in case somebody forgets the request at this moment.
            async with request_lock(store, self.settings, request_id, fail_if_locked):
                if await read_run(self.client, str(run.id)) is not None:
                    await self._replace_unless_taken_on(run, store, await store.load(request_id))
        except LockBusy:
            pass  # left to the next sweep
        except FaceIdError as error:
            self._tell(error)

    async def _replace_batch(self, run: FlowRun) -> None:
        """Schedule another run of the same manifest in place of a batch that died."""
        service = (await settings_of(block_of(run.parameters))).service
        if tag_of(run, "next") or tag_of(run, "service") not in (None, service):
            return
        new = await replace_dead(self.client, run, self.settings)
        if new is not None:
            await self._link(run, str(new.id))
            self.done["scheduled"] += 1

    async def _replace_unless_taken_on(
        self, run: FlowRun, store: RecordStore, record: Record | None
    ) -> None:
        if record and any(entry.flow_run_id == str(run.id) for entry in record.runs):
            return
        # How many runs died in succession, each before it claimed the request.
        attempt = 1 + _number(tag_of(run, "attempt"))
        origin = await origin_of(self.client, run)
        if origin is None or attempt > MAX_DEATHS:
            return
        delay = 0 if attempt == 1 else delay_after(attempt - 1, self.settings)
        new = await create_run(
            self.client,
            origin,
            key=hashlib.sha256(f"replaces {run.id}".encode()).hexdigest(),
            due=datetime.now(UTC) + timedelta(seconds=delay),
            service=store.service,
            tags=[f"previous:{run.id}", f"attempt:{attempt}"],
        )
        if new is not None:
            await self._link(run, str(new.id))
            self.done["scheduled"] += 1


def _number(text: str | None) -> int:
    """Return the number in the value of a tag; 0 if it is not a number, as people can add tags."""
    return int(text) if text and text.isdecimal() else 0
