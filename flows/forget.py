"""The flow ``forget``, which erases what is stored about requests, as ``faceid forget`` does.

A request leaves flow runs in Prefect, result lines of batches, files that its answer linked to,
cached steps, and its record. The record is removed last, because it says where the others are. If
forgetting is interrupted, forgetting the request again therefore continues. A request that a run is
at work on is left alone.

A request ID alone may identify a person, and the runs of this flow are not forgotten. The flow
therefore reports counts and no request IDs.
"""

import contextlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import anyio.to_thread
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed
from pydantic import Field, ValidationError

from faceid import redaction
from faceid.errors import FaceIdError, InvalidInput, StorageError
from flows.delivery.outcome import misconfigured
from flows.upkeep.request_runs import RequestRuns
from flows.upkeep.result_lines import DELETE_MANUALLY, forget_lines
from flows.upkeep.spilled import take_up_all
from tasks.cache import cached_steps
from tasks.credentials import services_in_use
from tasks.save_files import draft_path
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.claims import LockBusy, fail_if_locked, request_lock
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.shared_storage import open_for_runs
from tasks.state.spill import open_spill, take_up
from tasks.state.storage import Storage

AGE_PATTERN = r"^[0-9]+[dhms]$"
"""Regular expression for ages: a number and a unit."""
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}

# Only the form and the API check the pattern. If pydantic checked it, the run would crash, whereas
# the flow itself reports a clear message.
Age = Annotated[str, Field(json_schema_extra={"pattern": AGE_PATTERN})]
"""Type of ages, such as ``30d``."""

# The fields of a record that are kept together with the verdict: those of the result line, and
# those by which the same input is recognized.
_RESULT_LINE = {"request_id", "target_action", "verdict", "window", "tencent_request_ids"}
_IDENTITY = {"region", "request_digest", "input_digest", "generation", "fence", "updated_at"}


@flow(name="forget", flow_run_name="forget older than {older_than}", persist_result=False)
async def forget(older_than: Age = "30d", keep_verdict: bool = False) -> State[Any]:
    """Erase what is stored about requests that are finished and have not been touched lately.

    Args:
        older_than: Minimum time since a request was last touched, such as 30d, 12h, 90m or 45s.
        keep_verdict: Whether to keep the verdict, so that triggering the same request again still
            returns it.
    """
    redaction.install()
    try:
        settings = DeliverySettings.load()
    except InvalidInput as error:
        return misconfigured(error)
    done: Counter[str] = Counter()
    try:
        before = moment(older_than)
        async with open_forgetting(settings, keep_verdict=keep_verdict) as forgetting:
            for store in await forgetting.stores():
                async for one in forgetting.older(store, before):
                    is_done = isinstance(one, Forgotten)
                    done["forgotten" if is_done else f"not forgotten ({one.code})"] += 1
    except FaceIdError as error:
        return Failed(message=str(error))
    said = ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
    ending = Completed if set(done) <= {"forgotten"} else Failed
    return ending(message=said or "nothing is old enough")


class Forgotten(NamedTuple):
    """What was erased for one request."""

    request_id: str
    """The ID of the request."""
    flow_runs: int
    """Number of deleted flow runs."""
    saved_files: int
    """Number of deleted files of its answer."""
    cached_steps: int
    """Number of removed cached steps."""
    verdict_kept: bool
    """Whether the record was reduced to the verdict, and not removed."""


class Left(NamedTuple):
    """Why a request was not forgotten."""

    code: str
    """Code of the error, which contains no request ID."""
    reason: str
    """Description of the error, which may contain the request ID."""


AT_WORK = "AtWork"
"""Code for a request that a run is at work on."""


@contextlib.asynccontextmanager
async def open_forgetting(
    settings: DeliverySettings, *, keep_verdict: bool, has_server: bool = True
) -> AsyncGenerator["Forgetting"]:
    """Open the storage and a client of the Prefect server, and yield a ``Forgetting``.

    With ``keep_verdict``, verdicts are kept. Without ``has_server``, no flow runs are deleted.
    Raises ``InvalidInput`` if the storage is misconfigured, and ``StorageError`` if it or the
    server cannot be used.
    """
    storage = await open_for_runs(settings)
    if not has_server:
        yield Forgetting(settings, storage, None, keep_verdict=keep_verdict)
        return
    async with get_client() as client:
        runs = RequestRuns(client)
        await runs.look()
        yield Forgetting(settings, storage, runs, keep_verdict=keep_verdict)


class Forgetting:
    """Forgets requests one by one.

    ``runs`` is ``None`` if there is no Prefect server from which to delete flow runs.
    """

    def __init__(
        self,
        settings: DeliverySettings,
        storage: Storage,
        runs: RequestRuns | None,
        *,
        keep_verdict: bool,
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.runs = runs
        self.keep_verdict = keep_verdict
        self.files_missing = 0
        """Number of saved files that were no longer where they had been saved."""
        self.batches_at_work = 0
        """Number of batches that were at work, whose result lines were left alone."""
        actions = settings.target_actions().values()
        self._spill = open_spill(settings, storage)
        self._fields = {field.name for action in actions for field in action.resources}

    async def stores(self) -> list[RecordStore]:
        """Return the record stores of all accounts, for every service that runs may use.

        Needs a Prefect server, whose blocks name the services.
        """
        assert self.runs is not None
        stores: list[RecordStore] = []
        for service in await services_in_use(self.runs.client):
            accounts = {self.settings.account, *self.storage.folders(f"{layout.RECORDS}/{service}")}
            stores += [RecordStore(self.storage, service, name) for name in sorted(accounts)]
        return stores

    async def forget(
        self, store: RecordStore, request_id: str, before: datetime | None = None
    ) -> Forgotten | None:
        """Erase what is stored about a request, and return what was erased.

        Returns ``None`` if nothing is stored. With ``before``, returns ``None`` also if the request
        is still open or has been touched since then. Raises ``LockBusy`` if a run is at work on the
        request, and ``StorageError`` if something cannot be erased; another call then continues.
        """
        async with request_lock(store, self.settings, request_id, fail_if_locked):
            if self.keep_verdict:
                record = await take_up(self._spill, store, request_id)
            else:
                record = await store.load(request_id)
            runs = await self.runs.of(store, request_id, record) if self.runs else []
            if before and not self._is_due(record, runs, before):
                return None
            spilled = await anyio.to_thread.run_sync(self._remove_spilled, store, request_id)
            if record is None:
                # An earlier removal of the record may have been interrupted.
                await anyio.to_thread.run_sync(store.close, request_id)
                if not runs and not spilled:
                    return None
            return await self._erase(store, request_id, record, runs)

    async def _erase(
        self, store: RecordStore, request_id: str, record: Record | None, runs: list[FlowRun]
    ) -> Forgotten:
        flow_runs = await self.runs.delete(request_id, runs, record) if self.runs else 0
        if record is None:
            return Forgotten(request_id, flow_runs, 0, 0, verdict_kept=False)
        saved_files = await anyio.to_thread.run_sync(self._delete_files, record)
        steps = await anyio.to_thread.run_sync(self._remove_steps, store, record)
        kept = verdict_alone(record) if self.keep_verdict else None
        if kept is None:
            await store.remove(record)
        else:
            kept.takes_the_place_of(record)
            await store.save(kept)
        return Forgotten(request_id, flow_runs, saved_files, steps, kept is not None)

    def _remove_spilled(self, store: RecordStore, request_id: str) -> int:
        return self._spill.remove(self._spill.of(store, request_id))

    def _delete_files(self, record: Record) -> int:
        deleted = 0
        failures: list[str] = []
        for path in map(Path, record.saved_files):
            try:
                draft_path(path).unlink(missing_ok=True)
                path.unlink()
                deleted += 1
            except (FileNotFoundError, NotADirectoryError):
                self.files_missing += 1
            except OSError as error:
                failures.append(f"{path} ({error.strerror})")
        if failures:
            raise StorageError(
                "CannotDelete", f"cannot delete {', '.join(failures)}", advice=DELETE_MANUALLY
            )
        return deleted

    def _remove_steps(self, store: RecordStore, record: Record) -> int:
        names = cached_steps(store, record, self._fields)
        return sum(self.storage.remove(name) for name in names)

    async def each(
        self, store: RecordStore, request_ids: Iterable[str]
    ) -> AsyncGenerator[Forgotten | Left]:
        """Forget the requests with these IDs in an account, and yield the result for each.

        Raises ``StorageError`` if result lines of batches cannot be removed.
        """
        wanted = dict.fromkeys(request_ids)
        await self._forget_lines(wanted)
        for request_id in wanted:
            one = await self._try(store, request_id)
            yield one or Left("Unknown", f"nothing is known about {request_id}")

    async def older(self, store: RecordStore, before: datetime) -> AsyncGenerator[Forgotten | Left]:
        """Forget the requests of an account that are finished and not touched since ``before``.

        Yields the result for each, except for requests that a run is at work on. Raises
        ``StorageError`` if the records cannot be listed or result lines cannot be removed.
        """
        # What is spilled of requests that were forgotten on another machine is removed here.
        async for error in take_up_all(self.settings, self.storage, store):
            if error is not None:
                yield Left(error.code, f"cannot be forgotten: {error}")
        due, others, unreadable = await anyio.to_thread.run_sync(self._read_all, store, before)
        for error in unreadable:
            yield Left(error.code, f"a record cannot be forgotten: {error}")
        if self.runs:
            # Requests that were refused have runs but no record.
            due |= await self.runs.ended(before) - others
        await self._forget_lines(due)
        for request_id in sorted(due):
            one = await self._try(store, request_id, before)
            if one and not (isinstance(one, Left) and one.code == AT_WORK):
                yield one

    async def _forget_lines(self, request_ids: Collection[str]) -> None:
        """Remove the result lines of requests, unless verdicts are kept.

        The lines are removed before the records. If this is interrupted, the records still say
        which requests are to be forgotten.
        """
        if request_ids and not self.keep_verdict:
            self.batches_at_work = await anyio.to_thread.run_sync(
                forget_lines, self.settings, request_ids
            )

    async def _try(
        self, store: RecordStore, request_id: str, before: datetime | None = None
    ) -> Forgotten | Left | None:
        try:
            return await self.forget(store, request_id, before)
        except LockBusy:
            reason = f"a run is at work on {request_id}: wait for its end, or cancel it"
            return Left(AT_WORK, reason)
        except FaceIdError as error:
            return Left(error.code, f"{request_id} is not forgotten: {error}")

    def _read_all(
        self, store: RecordStore, before: datetime
    ) -> tuple[set[str], set[str], list[StorageError]]:
        """Read all records of an account.

        Returns the IDs of the requests that are due, the IDs of the other requests, and the errors
        for records that cannot be read.
        """
        due: set[str] = set()
        others: set[str] = set()
        unreadable: list[StorageError] = []
        for name in self.storage.names(f"{layout.RECORDS}/{store.service}/{store.account}"):
            try:
                content = self.storage.read(name)
                if content is None:
                    continue  # removed in the meantime
                record = Record.model_validate(content)
            except StorageError as error:
                unreadable.append(error)
            except ValidationError:
                unreadable.append(StorageError("DamagedDocument", f"{name} is not a record"))
            else:
                (due if self._is_due(record, [], before) else others).add(record.request_id)
        return due, others, unreadable

    def _is_due(self, record: Record | None, runs: list[FlowRun], before: datetime) -> bool:
        if any(run.state and run.state.is_scheduled() for run in runs):
            return False  # another run of the request is scheduled
        if record is None:
            return all(run.end_time and run.end_time < before for run in runs)
        is_reduced = self.keep_verdict and verdict_alone(record) == record
        return record.updated_at < before and not record.is_open and not is_reduced


def verdict_alone(record: Record) -> Record | None:
    """Return a record reduced to its verdict and what identifies its input.

    Returns ``None`` if the record has no verdict.
    """
    if record.verdict is None:
        return None
    kept = record.model_dump(include=_RESULT_LINE | _IDENTITY)
    return Record(**kept, calls_before=record.calls, outcome="verdict")


def moment(older_than: str) -> datetime:
    """Return the time that was ``older_than`` ago, in UTC.

    Raises ``InvalidInput`` if ``older_than`` is not an age such as ``30d`` or ``12h``.
    """
    if re.fullmatch(AGE_PATTERN, older_than):
        with contextlib.suppress(OverflowError):
            age = timedelta(**{_UNITS[older_than[-1]]: int(older_than[:-1])})
            return datetime.now(UTC) - age
    raise InvalidInput(
        "InvalidRequest", f"{older_than!r} is not an age such as 30d, 12h, 90m or 45s"
    )
