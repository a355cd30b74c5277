"""``faceid batch``: delivers the requests of a manifest in this process."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TextIO, cast

from cyclopts import Parameter
from prefect.client.schemas.objects import State
from rich.progress import BarColumn, Progress, TextColumn

from deployments.commands.delivery_flags import DEFAULT_FLAGS, DeliveryFlags
from deployments.commands.local_run import local_run
from faceid.actions import CREATE_UPLOAD_URL
from faceid.command import Exit, one_line
from faceid.errors import FaceIdError, InvalidInput, StorageError
from faceid.files.sources import Patience
from faceid.manifests.snapshot import BadManifest, ManifestSnapshot, take_snapshot
from faceid.models import DeliveryResult
from faceid.outputs import BrokenOutput, opened, print_result, stderr
from faceid.validation import RequestValidator, check_files
from flows.batch.progress import describe
from flows.batch.results import FAILURES, RESULTS, read_lines
from flows.batch.runner import Batch, BatchStats
from flows.deliver_batch import WATCH, deliver_batch
from tasks.settings import DeliverySettings
from tasks.state.claims import has_verdict
from tasks.state.limits import open_limit
from tasks.state.record_store import RecordStore
from tasks.state.shared_storage import open_for_runs
from tasks.state.storage import open_storage

PLAIN_SECONDS = 10.0
"""Seconds between two progress lines if stderr is not a terminal."""


def batch(
    manifest: str,
    *,
    results: Path | None = None,
    failures: Path | None = None,
    check: Annotated[bool, Parameter(negative=())] = False,
    concurrency: int = 32,
    max_failed_percent: float = 100,
    max_unknown: int = 20,
    flags: DeliveryFlags = DEFAULT_FLAGS,
    require_passed: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Deliver every request of a manifest, and print a result line for each.

    Lines are printed in the order in which requests finish. Running the same manifest again
    delivers the requests that have no verdict yet.

    Parameters
    ----------
    manifest
        A JSONL or CSV file that lists the requests: a path, a glob or any fsspec URL. {date} is
        replaced by today's date in UTC.
    results
        File for the result lines, which are in the manifest's order once the batch has ended. If
        omitted, the lines are printed.
    failures
        File for the result lines of requests that failed.
    check
        Open every file, print how many calls and minutes the batch will take, and send nothing.
    concurrency
        How many requests to deliver at the same time, 1 to 256.
    max_failed_percent
        Stop when more than this percentage of the finished requests has failed.
    max_unknown
        Stop after this number of calls that were not answered. They may have been billed.
    require_passed
        Exit with code 3 if any verdict is negative.
    """
    if not 1 <= concurrency <= 256:
        raise InvalidInput("InvalidRequest", "--concurrency must be 1 to 256")
    if not 0 <= max_failed_percent <= 100:
        raise InvalidInput("InvalidRequest", "--max-failed-percent must be 0 to 100")
    if max_unknown < 1:
        raise InvalidInput("InvalidRequest", "--max-unknown must be 1 or more")
    settings = flags.load_settings()
    if not check:
        settings.credentials()
        with suppress(StorageError):  # the run will report the error, and be recorded as failed
            asyncio.run(open_for_runs(settings))
    manifest = manifest.replace("{date}", f"{datetime.now(UTC):%Y-%m-%d}")
    # The flow checks all of this again. It is checked here, too, so that mistakes are reported
    # before a Prefect server is started.
    with TemporaryDirectory(prefix="faceid-batch-") as folder:
        snapshot = _take_in(manifest, settings, Path(folder))
        _estimate(snapshot, settings)
        if check:
            raise Exit(asyncio.run(_check_all(snapshot, settings)))
        with suppress(StorageError):  # as above
            asyncio.run(_tell_limits(snapshot.per_action, settings))
    arguments: dict[str, Any] = {
        "manifest": manifest,
        "concurrency": concurrency,
        "max_failed_percent": max_failed_percent,
        "max_unknown": max_unknown,
        **flags.arguments(),
    }
    code = local_run(lambda: _run_flow(arguments, results, failures, require_passed=require_passed))
    raise Exit(code)


def _take_in(manifest: str, settings: DeliverySettings, folder: Path) -> ManifestSnapshot:
    try:
        return take_snapshot(manifest, settings, folder)
    except BadManifest as bad:
        for line in bad.lines:
            stderr.print(f"faceid: {line}", markup=False)
        raise


def _estimate(snapshot: ManifestSnapshot, settings: DeliverySettings) -> None:
    calls = {CREATE_UPLOAD_URL: snapshot.resources, **snapshot.per_action}
    minutes = max(count / (settings.rate(action) or 20) / 60 for action, count in calls.items())
    counts = ", ".join(f"{count:,} {action}" for action, count in calls.items())
    time_needed = "less than a minute" if minutes < 1 else f"{minutes:,.1f} minutes"
    stderr.print(f"{snapshot.count:,} requests: {counts}; {time_needed} at the API's rates")


async def _tell_limits(calls: Mapping[str, int], settings: DeliverySettings) -> None:
    """Print how many calls are left today, for each action with a limit.

    ``calls`` maps actions to the calls that the batch needs at most.
    """
    for action, count in calls.items():
        if action in settings.max_calls_per_day:
            limit = open_limit(settings, open_storage(settings), action)
            assert limit
            more = max(0, count - await limit.left())
            rest = f"; of {count:,} requests, {more:,} wait for the next day" if more else ""
            stderr.print(await limit.describe() + rest)


async def _check_all(snapshot: ManifestSnapshot, settings: DeliverySettings) -> int:
    """Open the files of every request that has no verdict yet, and return the exit code."""
    store = RecordStore(open_storage(settings), settings.service, settings.account)
    validator = RequestValidator.load(settings, from_manifest=True)
    wrong = done = 0
    calls: Counter[str] = Counter()
    for request in snapshot.entries():
        try:
            validated = validator.check(request)
            if await has_verdict(validated, store):
                done += 1
            else:
                await check_files(validated, Patience(settings.source_seconds))
                calls[request.target_action] += 1
        except FaceIdError as error:
            wrong += 1
            stderr.print(f"faceid: {request.request_id}: {one_line(error)}", markup=False)
    verdicts = f", {done:,} have their verdict" if done else ""
    stderr.print(
        f"{snapshot.count - wrong - done:,} requests can be sent, {wrong:,} cannot{verdicts}"
    )
    await _tell_limits(calls, settings)
    return 1 if wrong else 0


async def _run_flow(
    arguments: dict[str, Any],
    results: Path | None,
    failures: Path | None,
    *,
    require_passed: bool,
) -> int:
    watched: list[Batch] = []
    with ExitStack() as stack:
        for path in filter(None, (results, failures)):
            _check_can_write(path)
        lines = stack.enter_context(opened(results))

        def watch(batch: Batch) -> None:
            watched.append(batch)
            batch.tell = _teller(batch, lines)
            loop = asyncio.get_running_loop()
            stderr.on_break = lambda: loop.call_soon_threadsafe(batch.shutdown.begin)
            # The task is cancelled below, or when the event loop ends.
            background.add(asyncio.create_task(_show(batch.stats)))

        background: set[asyncio.Task[None]] = set()
        WATCH.set(watch)
        try:
            state: State[Any] = await cast("Any", deliver_batch)(**arguments, return_state=True)
        finally:
            stderr.on_break = None
            for task in background:
                task.cancel()
            for copy, name in ((results, RESULTS), (failures, FAILURES)):
                # Lines that went to a pipe or a device as they came are not sorted.
                if copy and watched and (copy.is_file() or not copy.exists()):
                    _copy(watched[0].results.location, name, copy)
    if watched:
        _say_failures(watched[0].stats)
    stderr.print(f"faceid: {state.message}", markup=False)
    return _exit_code(state, watched[0].stats if watched else None, require_passed=require_passed)


def _teller(batch: Batch, lines: TextIO | None) -> Callable[[DeliveryResult], None]:
    """Return a function that prints results until that is impossible, and then stops the batch."""

    def tell(result: DeliveryResult) -> None:
        try:
            print_result(result.model_dump_json(), lines)
        except BrokenOutput as broken:
            batch.tell = None
            if broken.reason:
                stderr.print(f"faceid: {broken.reason}", markup=False)
            batch.shutdown.begin()

    return tell


def _say_failures(stats: BatchStats) -> None:
    """Say how many requests failed with each code, because the result lines may be in a file."""
    for (_, code), failures in stats.failures.items():
        stderr.print(
            f"faceid: {failures.requests:,} failed with {code}, such as {failures.examples[0]}",
            markup=False,
        )


def _check_can_write(path: Path) -> None:
    """Raise ``InvalidInput`` if the file cannot be written, so that nothing is sent in vain."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidInput(
            "InvalidRequest", f"{path}: cannot be written; name a file in an existing folder"
        )


def _copy(location: str, name: str, to: Path) -> None:
    """Copy the results file ``name`` from the folder ``location``, whole or not at all.

    Raises ``StorageError`` if it cannot be read or the copy cannot be written.
    """
    draft = to.with_name(f".{to.name}.new")
    try:
        with draft.open("wb") as file:
            file.writelines(read_lines(location, name))
        draft.replace(to)
    except OSError as error:
        raise StorageError(
            "CannotSave",
            f"{to}: cannot be written ({error.strerror})",
            advice="The lines are kept: faceid results prints them.",
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def _exit_code(state: State[Any], stats: BatchStats | None, *, require_passed: bool) -> int:
    if state.is_cancelled():
        return 130
    if stats is None:
        return 0 if state.is_completed() else 2
    if state.is_failed() or stats.status["failed"]:
        return 1
    if stats.status["verdict"] < stats.total:
        return 4
    return 3 if require_passed and stats.verdicts["refused"] else 0


async def _show(stats: BatchStats) -> None:
    """Show a progress bar; if stderr is not a terminal, print a line every ``PLAIN_SECONDS``."""
    began = time.monotonic()
    if not stderr.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_SECONDS)
            stderr.print(describe(stats, time.monotonic() - began))
    text = TextColumn("{task.fields[said]}")
    with Progress(BarColumn(), text, console=stderr) as bar:
        task = bar.add_task("", total=stats.total, said="")
        while True:
            said = describe(stats, time.monotonic() - began)
            bar.update(task, completed=stats.done, said=said)
            await asyncio.sleep(0.5)
