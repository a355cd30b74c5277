"""``deliver-batch``: the requests of a manifest, each to its verdict, at the account's own speed.

::

    manifest ──> checked whole, kept ──> shards ──> each request as in ``flows.request``
                                            │
                                            └─ results as they come, books, one summary

The manifest is checked before anything is sent. Its requests are delivered in shards, child runs of
the flow ``deliver-shard`` in this process, so that the dashboard shows a few hundred at a time; the
next one begins when the last request of the one before has, so none waits for another's end.

Entry point ``flows.deliver_batch.deliver_batch``. Running the same manifest again delivers what has
no verdict yet.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
from prefect import flow, get_client
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from faceid import redaction
from faceid.errors import FaceIdError, InvalidInput
from faceid.resources import resolve_folder
from faceid.settings import FaceIdSettings
from faceid.spool import Spooled, take_in
from flows.batch import AT_WORK, Batch, Books
from flows.batch_results import BatchResults
from flows.batch_summary import summarize
from flows.outcome import add_tags, error_of, outcome_of
from flows.request import Terms
from flows.rerequest import create_from, delay_after, origin_of
from flows.runs import tag_of
from tasks.credentials import load_credentials, open_client
from tasks.delivery import OnUnknownOutcome
from tasks.pacing import open_pacers
from tasks.record import RecordStore
from tasks.storage import open_storage

SHARD = 200
"""Requests of one child run: as many as the dashboard shows well."""

PROGRESS_SECONDS = 2.0

Watch = Callable[[Batch], None]
WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)
"""Is told of the batch when it begins: the command's progress bar looks at its books."""


@flow(name="deliver-batch", flow_run_name="batch {manifest}", persist_result=False)
async def deliver_batch(
    manifest: str,
    results: str = "",
    concurrency: Annotated[int, Field(ge=1, le=256)] = 32,
    max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 100,
    credentials: str = "",
    save_files_to: str = "",
    max_windows: Annotated[int, Field(ge=1)] = 12,
    on_unknown_outcome: OnUnknownOutcome = "call_again",
) -> State[Any]:
    """Delivers every request of a manifest, and says what came of each.

    Args:
        manifest: A JSONL or CSV file that lists the requests: a path or any fsspec URL, a glob, or
            with {date} in it, which becomes the day the run was scheduled for.
        results: Folder for the result lines; empty: a folder of the run's own in FACEID_STORAGE.
        concurrency: How many requests are at work at a time.
        max_failed_percent: The batch stops when more than that have failed.
        credentials: Name of a tencent-credentials block; empty: the worker's environment.
        save_files_to: Folder for the files that the answers point to; empty: they are not fetched.
        max_windows: How many times at most files are uploaded afresh when two hours ran out.
        on_unknown_outcome: What to do when an action was called and no answer came. Calling again
            may be billed twice.
    """
    redaction.install()
    settings = FaceIdSettings.load()
    batch: Batch | None = None
    with TemporaryDirectory(prefix="faceid-batch-") as spool:
        try:
            located = await fill_in_date(manifest)
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(located).name.partition(".")[0]).strip("-")
            await add_tags(f"batch:{stem}", f"service:{settings.service}")
            spooled = await anyio.to_thread.run_sync(take_in, located, settings, Path(spool))
            if spooled.count == 0:
                await add_tags("outcome:completed")
                return Completed(message="completed: nothing to do, no manifest matches")
            terms = Terms(
                resolve_folder("save_files_to", save_files_to, settings.resource_roots)
                if save_files_to
                else None,
                max_windows,
                on_unknown_outcome,
                in_batch=True,
            )
            async with AsyncExitStack() as stack:
                batch = await stack.enter_async_context(
                    opened(
                        spooled,
                        settings,
                        credentials,
                        terms,
                        results_folder(results, settings),
                        concurrency=concurrency,
                        max_failed_percent=max_failed_percent,
                    )
                )
                await deliver_all(batch)
        except FaceIdError as error:
            return await report(batch.books if batch else None, error, settings)
    stopped = batch.stopped
    if batch.goes_on and batch.books.status["waiting"]:
        await leave_rest(located, settings)
    if batch.failed_too_often:
        share = f"{batch.books.failed_percent:.0f} % of {batch.books.done} have failed"
        stopped = InvalidInput("TooManyFailed", f"{share}, more than {max_failed_percent:g} %")
    return await report(batch.books, stopped, settings)


@flow(name="deliver-shard", flow_run_name="requests {first} to {last}", persist_result=False)
async def deliver_shard(first: int, last: int) -> State[Any]:
    """Some of a batch's requests, by their places in the manifest, from 1.

    Runs inside a batch only.
    """
    batch = AT_WORK.get()
    done = await batch.deliver_slice(first - 1, last - first + 1)
    return Completed(message=f"{done} of {last - first + 1} requests came to their end")


async def deliver_all(batch: Batch) -> None:
    """All shards, and a progress artifact meanwhile."""
    AT_WORK.set(batch)
    if watch := WATCH.get():
        watch(batch)
    progress = asyncio.create_task(_show_progress(batch))
    try:
        async with asyncio.TaskGroup() as shards:
            for start in range(0, batch.spooled.count, SHARD):
                last = min(start + SHARD, batch.spooled.count)
                shard = shards.create_task(_run_shard(start + 1, last))
                await batch.all_begun(start, shard)
                if not batch.goes_on:
                    break
    finally:
        progress.cancel()
    await _write_progress(batch)


async def _run_shard(first: int, last: int) -> None:
    await deliver_shard(first, last)


async def _show_progress(batch: Batch) -> None:
    while True:
        await _write_progress(batch)
        await asyncio.sleep(PROGRESS_SECONDS)


async def _write_progress(batch: Batch) -> None:
    percent = 100 * batch.books.done / batch.books.total
    if batch.progress_artifact is None:
        batch.progress_artifact = await acreate_progress_artifact(
            percent, key=f"progress-{flow_run.id}", description="Requests at their end"
        )
    else:
        await aupdate_progress_artifact(batch.progress_artifact, percent)


@asynccontextmanager
async def opened(
    spooled: Spooled,
    settings: FaceIdSettings,
    block: str,
    terms: Terms,
    folder: Path,
    *,
    concurrency: int,
    max_failed_percent: float,
) -> AsyncGenerator[Batch]:
    """A batch that is ready to be delivered. Its results are in order when this ends."""
    account, keys = await load_credentials(settings, block)
    storage = open_storage(settings)
    pacers = open_pacers(settings, storage, account, first=False)
    with BatchResults(folder, spooled.folder) as results:
        try:
            async with open_client(settings, block, keys, pacers, refused_for_good=True) as client:
                yield Batch(
                    spooled,
                    settings,
                    client,
                    RecordStore(storage, settings.service, account),
                    terms,
                    results,
                    concurrency=concurrency,
                    max_failed_percent=max_failed_percent,
                )
        finally:
            # However it ends, and in this thread: nothing may come between when it is cancelled.
            results.put_in_order(spooled.count)


def results_folder(given: str, settings: FaceIdSettings) -> Path:
    """Where the result lines go. Raises ``InvalidInput``."""
    if given:
        return resolve_folder("results", given, settings.resource_roots)
    folder = open_storage(settings).folder
    if folder is None:
        raise InvalidInput(
            "InvalidRequest", "results: name a folder on this machine; FACEID_STORAGE is on another"
        )
    return folder / "batches" / str(flow_run.id)


async def fill_in_date(manifest: str) -> str:
    """``{date}`` becomes the day that the run was scheduled for, by its schedule's own clock."""
    if "{date}" not in manifest:
        return manifest
    async with get_client() as client:
        run = await client.read_flow_run(flow_run.id)
        zone = await _zone_of(client, run)
    scheduled = run.expected_start_time or datetime.now(UTC)
    return manifest.replace("{date}", f"{scheduled.astimezone(zone):%Y-%m-%d}")


async def _zone_of(client: Any, run: FlowRun) -> ZoneInfo:
    """The time zone of the schedule that made the run; UTC where none did."""
    if run.deployment_id is None or run.created_by is None:
        return ZoneInfo("UTC")
    deployment = await client.read_deployment(run.deployment_id)
    zones = {entry.id: getattr(entry.schedule, "timezone", None) for entry in deployment.schedules}
    return ZoneInfo(zones.get(run.created_by.id) or "UTC")


async def leave_rest(located: str, settings: FaceIdSettings) -> None:
    """Leaves what waits to one run of the same manifest, later: it finds all other verdicts there.

    It comes later each time. A request that has waited for too long fails, so this has an end.
    Without a deployment nothing is scheduled: the same command continues.
    """
    async with get_client() as client:
        run = await client.read_flow_run(flow_run.id)
        origin = await origin_of(client, run)
        if origin is None:
            return
        before = tag_of(run, "attempt")
        attempt = int(before) + 1 if before and before.isdecimal() else 1
        due = datetime.now(UTC) + timedelta(seconds=delay_after(attempt - 1, settings))
        origin.parameters = {**origin.parameters, "manifest": located}
        kept = [tag for tag in run.tags if tag.startswith(("batch:", "service:"))]
        follow_up = await create_from(
            client,
            origin,
            key=hashlib.sha256(f"goes on from {run.id}".encode()).hexdigest(),
            due=due,
            name=run.name,
            tags=[*kept, f"previous:{run.id}", f"attempt:{attempt}"],
        )
    if follow_up is not None:
        await add_tags(f"next:{follow_up.id}")


async def report(
    books: Books | None, stopped: FaceIdError | None, settings: FaceIdSettings
) -> State[Any]:
    """Writes the summary where people look, and gives the state that the batch ends in."""
    if books is not None:
        await summarize(books)
    service = f"[{settings.service}]"
    counts = say(books) if books else "nothing was sent"
    if stopped is not None:
        outcome = outcome_of(error_of(stopped))
        await add_tags(f"outcome:{outcome}")
        return Failed(message=f"{outcome}: {stopped}; {counts} {service}")
    assert books is not None
    outcome = "completed" if books.status["verdict"] == books.total else "partial"
    await add_tags(f"outcome:{outcome}")
    return Completed(message=f"{outcome}: {counts} {service}", data=books)


def say(books: Books) -> str:
    """The counts, in words."""
    counts = [f"{books.status['verdict']} verdicts"]
    counts += [f"{books.status[status]} {status}" for status in ("failed", "waiting")]
    said = ", ".join(text for text in counts if not text.startswith("0 ") or "verdict" in text)
    left = books.total - books.done
    return f"{said} of {books.total} requests" + (f", {left} not begun" if left else "")
