"""The flow ``deliver-batch``, which delivers the requests of a manifest.

::

    manifest ──> snapshot of the checked requests ──> shards ──> delivery of each request
                                                        │
                                                        └─ result lines, counts, summary

The whole manifest is checked before anything is sent. Its requests are delivered as fast as the
account's rates allow, each as in ``flows.delivery.run``. They are divided into shards, which are
child runs of the flow ``deliver-shard`` in this process, so that the dashboard shows a few hundred
requests per run. Each shard is started ahead of time and waits for its turn, so that starting it
does not delay the batch.

The entry point is ``flows.deliver_batch.deliver_batch``. Running the same manifest again delivers
the requests that have no verdict yet.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast

import anyio.to_thread
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from faceid import redaction
from faceid.errors import FaceIdError, InvalidInput, OutcomeUnknown, ServiceUnavailable
from faceid.manifests.snapshot import ManifestSnapshot, take_snapshot
from flows.batch.chain import begin, run_name, schedule_remainder, tag_shard
from flows.batch.meter import Meter
from flows.batch.progress import shown
from flows.batch.results import BatchResults, results_location
from flows.batch.runner import AT_WORK, Batch
from flows.batch.summary import describe_counts, emit_batch_event, summarize
from flows.delivery.outcome import error_of, misconfigured, outcome_of
from flows.delivery.run import DeliveryOptions
from flows.delivery.shutdown import end_early
from flows.parameters import BlockName, FolderText, ManifestText, MaxWindows
from flows.server.runs import server_unavailable, settings_of_this_run
from tasks.credentials import open_client
from tasks.delivery import OnUnknownOutcome
from tasks.settings import DeliverySettings
from tasks.state.pacing import open_pacers
from tasks.state.record_store import RecordStore
from tasks.state.shared_storage import open_for_runs

SHARD = 400
"""Number of requests in a shard: as many as the dashboard displays well."""

Watch = Callable[[Batch], None]
"""Function that is called with a batch when its delivery begins."""
WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)
"""The function to call when a batch begins, with which the command shows progress and results."""


@flow(name="deliver-batch", flow_run_name=run_name, persist_result=False)
async def deliver_batch(
    manifest: ManifestText = "",
    results: FolderText = "",
    concurrency: Annotated[int, Field(ge=1, le=256)] = 32,
    max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 100,
    max_unknown: Annotated[int, Field(ge=1)] = 20,
    credentials: BlockName = "",
    save_files_to: FolderText = "",
    max_windows: MaxWindows = 12,
    on_unknown_outcome: OnUnknownOutcome = "call_again",
) -> State[Any]:
    """Deliver every request of a manifest, and write a result line for each.

    Args:
        manifest: A JSONL or CSV file that lists the requests: a path, a glob or any fsspec URL.
            {date} is replaced by the day for which the run was scheduled, such as 2026-11-25, in
            the schedule's time zone (UTC without a schedule).
        results: Folder for the result lines. If empty, a folder for this run in FACEID_STORAGE.
        concurrency: How many requests to deliver at the same time, 1 to 256.
        max_failed_percent: The batch stops when more than this percentage of its finished requests
            has failed.
        max_unknown: The batch stops after this number of calls that were not answered. They may
            have been billed.
        credentials: Name of a tencent-credentials block. If empty, the worker's environment is
            used.
        save_files_to: Folder for the files that the answers link to. If empty, they are not
            downloaded.
        max_windows: How many windows of two hours a request may use. Its files are uploaded again
            in each.
        on_unknown_outcome: What to do when an action was called and no answer came. Calling again
            may be billed again.
    """
    redaction.install()
    try:
        settings = DeliverySettings.load()
    except InvalidInput as error:
        return misconfigured(error)
    batch: Batch | None = None
    with TemporaryDirectory(prefix="faceid-batch-") as spool:
        try:
            with server_unavailable():
                settings = await settings_of_this_run(credentials)
                begun = await begin(manifest, settings)
            snapshot = await anyio.to_thread.run_sync(
                take_snapshot, begun.manifest, settings, Path(spool)
            )
            if snapshot.count == 0:
                message = "completed: nothing to do, no manifest matches"
                await emit_batch_event("completed", settings.service, message, None, None)
                return Completed(message=message)
            options = DeliveryOptions(
                settings.roots().resolve_folder("save_files_to", save_files_to)
                if save_files_to
                else None,
                max_windows,
                on_unknown_outcome,
                in_batch=True,
            )
            async with opened(
                snapshot,
                settings,
                credentials,
                options,
                results_location(results, settings, str(flow_run.id)),
                concurrency=concurrency,
                max_failed_percent=max_failed_percent,
                max_unknown=max_unknown,
                chain_began=begun.chain_began,
            ) as batch:
                await deliver_all(batch)
        except FaceIdError as error:
            with batch.shutdown if batch else nullcontext():
                return await finish_batch(batch, error, settings)
    with batch.shutdown:
        return await end_batch(batch)


@flow(name="deliver-shard", flow_run_name="requests {first} to {last}", persist_result=False)
async def deliver_shard(first: int, last: int) -> State[Any]:
    """Deliver the requests at positions ``first`` to ``last`` of the manifest, counted from 1.

    This flow runs only within ``deliver-batch``.
    """
    batch = AT_WORK.get()
    batch.shutdown.listen()
    await tag_shard()
    done = await batch.deliver_slice(first - 1, last - first + 1)
    return Completed(message=f"{done} of {last - first + 1} requests ended")


async def deliver_all(batch: Batch) -> None:
    """Deliver all requests of the batch in shards, until the batch stops.

    A shard is started when the previous one begins its requests, and then waits for its turn.
    """
    AT_WORK.set(batch)
    if watch := WATCH.get():
        watch(batch)
    with batch.shutdown:
        async with shown(batch), asyncio.TaskGroup() as shards:
            for start in range(0, batch.snapshot.count, SHARD):
                last = min(start + SHARD, batch.snapshot.count)
                shard = shards.create_task(run_shard(batch, start + 1, last))
                await batch.has_turn(start, shard)
                if not batch.goes_on:
                    break


async def run_shard(batch: Batch, first: int, last: int) -> None:
    """Run a shard. If the Prefect server refuses something, the batch begins no more requests."""
    try:
        with server_unavailable():
            await cast("Any", deliver_shard)(first=first, last=last)
    except ServiceUnavailable as error:
        batch.stopped = batch.stopped or error


@asynccontextmanager
async def opened(
    snapshot: ManifestSnapshot,
    settings: DeliverySettings,
    block: str,
    options: DeliveryOptions,
    results_at: str,
    *,
    concurrency: int,
    max_failed_percent: float,
    max_unknown: int,
    chain_began: datetime | None,
) -> AsyncGenerator[Batch]:
    """Yield a batch that is ready to be delivered, and sort its result lines on exit.

    ``block`` is the name of the credentials block, or empty; ``results_at`` is the folder of the
    result lines; ``concurrency``, ``max_failed_percent``, ``max_unknown`` and ``chain_began`` are
    those of ``Batch``. Raises ``InvalidInput`` if the settings are invalid or another batch writes
    to the folder, and ``StorageError`` if the storage cannot be used or the results cannot be
    written.
    """
    storage = await open_for_runs(settings)
    meter = Meter()
    paced = open_pacers(settings, storage, settings.account, priority=False)
    client_of_all = open_client(
        settings, block, meter.paced(paced, settings.rate), fail_fast_on_auth=True
    )
    with BatchResults(results_at, snapshot.folder) as results:
        try:
            async with client_of_all as client:
                yield Batch(
                    snapshot,
                    settings,
                    client,
                    RecordStore(storage, settings.service, settings.account),
                    options,
                    results,
                    meter,
                    concurrency=concurrency,
                    max_failed_percent=max_failed_percent,
                    max_unknown=max_unknown,
                    chain_began=chain_began,
                )
        finally:
            # The lines are sorted however the batch ends. This blocks on purpose, because a
            # cancellation could otherwise interrupt it.
            results.finish(snapshot.count)


async def end_batch(batch: Batch) -> State[Any]:
    """Schedule a run for the requests that wait, if there are any, and end the batch."""
    settings = batch.settings
    if batch.shutdown.heard:
        return await end_batch_early(batch)
    if isinstance(batch.stopped, ServiceUnavailable) and batch.stats.done == batch.stats.total:
        batch.stopped = None  # only the end of a shard could not be told to the Prefect server
    stopped, next_run = batch.stopped, None
    if batch.goes_on and batch.stats.status["waiting"]:
        try:
            with server_unavailable():
                next_run = await schedule_remainder(settings, batch.goes_on_at)
        except ServiceUnavailable as error:
            stopped = error
    if batch.failed_too_often:
        share = f"{batch.stats.failed_percent:.0f} % of {batch.stats.done} have failed"
        stopped = InvalidInput(
            "TooManyFailed", f"{share}, more than {batch.max_failed_percent:g} %"
        )
    if batch.unknown_too_often:
        said = f"{batch.unknown} calls were not answered, and max_unknown is {batch.max_unknown}"
        stopped = OutcomeUnknown(
            "TooManyUnknown", said, advice="The same manifest goes on from here."
        )
    return await finish_batch(batch, stopped, settings, next_run)


async def end_batch_early(batch: Batch) -> State[Any]:
    """End a batch that received a signal: as cancelled, or with its worker."""
    service = batch.settings.service
    await summarize(batch.stats, batch.meter.fastest())
    counts = f"{describe_counts(batch.stats)} [{service}]"
    message = f"{counts}; the same manifest goes on from here"
    state = await end_early(batch.shutdown, message)
    await emit_batch_event("cancelled", service, str(state.message), batch.stats, None)
    return state


async def finish_batch(
    batch: Batch | None,
    stopped: FaceIdError | None,
    settings: DeliverySettings,
    next_run: str | None = None,
) -> State[Any]:
    """Create the summary artifacts, emit the event, and return the final state of the run.

    ``batch`` is ``None`` if the batch could not begin. ``stopped`` is the error that stopped it, if
    there was one. ``next_run`` is the ID of the flow run that continues with the waiting requests,
    if there is one.
    """
    stats = batch and batch.stats
    if batch is not None:
        await summarize(batch.stats, batch.meter.fastest())
    service = f"[{settings.service}]"
    counts = describe_counts(stats) if stats else "nothing was sent"
    if stopped is not None:
        outcome = outcome_of(error_of(stopped))
        message = f"{outcome}: {stopped}; {counts} {service}"
        await emit_batch_event(outcome, settings.service, message, stats, next_run)
        return Failed(message=message)
    assert stats is not None
    outcome = "completed" if stats.status["verdict"] == stats.total else "partial"
    message = f"{outcome}: {counts} {service}"
    if batch is not None and batch.waits_for_limit:
        message += "".join(f"; {limit.message}" for limit in batch.limits.values())
    await emit_batch_event(outcome, settings.service, message, stats, next_run)
    return Completed(message=message, data=stats)
