"""Finds and deletes the flow runs of a request in Prefect, with their steps, logs and artifacts.

The request ID is in the parameters of a run from the start, and in its name and tags once the run
has begun. Two accounts may use the same request ID; the runs of the other account are left alone.
"""

import contextlib
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    Operator,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from flows.server.runs import PAGE, list_runs, server_errors, tag_of
from tasks.credentials import block_of, settings_of
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tasks.state.records import Record

SETTLING_SECONDS = 10.0
"""Seconds until a run's last steps and logs are certainly in the server's database.

The server writes task runs in groups, every five seconds by default. If the flow run of one of them
has been deleted by then, the whole group fails, and steps of other runs are lost.
"""

LOGS_SECONDS = 10.0
"""Seconds to wait for the server to delete logs, which it does in the background."""


class RequestRuns:
    """Finds and deletes the runs of the flow ``deliver`` for requests.

    Every method raises ``StorageError`` if a call to the Prefect server fails.
    """

    def __init__(self, client: PrefectClient) -> None:
        self.client = client
        """Client of the Prefect server."""
        self.unknown = 0
        """Number of runs in records that did not exist on this server."""
        self.logs_left = 0
        """Number of deleted runs that still had logs after ``LOGS_SECONDS``."""
        self._untagged: dict[str, list[FlowRun]] = defaultdict(list)

    async def look(self) -> None:
        """Read the runs without a request tag. Call this once, before ``of``.

        These runs have not begun, or were cancelled, refused or killed before they began. Only
        their parameters have the request ID, and the server cannot filter runs by parameters.
        """
        untagged = FlowRunFilterStateType(not_any_=[StateType.RUNNING, StateType.COMPLETED])
        for run in await self._runs(FlowRunFilter(state=FlowRunFilterState(type=untagged))):
            if tag_of(run, "request") is None:
                self._untagged[_request_id(run)].append(run)

    async def ended(self, before: datetime) -> set[str]:
        """Return the IDs of all requests with a run that ended before this time."""
        # Prefect annotates times with a class of its own, but accepts any datetime.
        ended = FlowRunFilter(end_time=FlowRunFilterEndTime(before_=cast("Any", before)))
        return {_request_id(run) for run in await self._runs(ended)}

    async def of(self, store: RecordStore, request_id: str, record: Record | None) -> list[FlowRun]:
        """Return the runs of a request that exist on the server.

        ``store`` is that of the request's service and account, and ``record`` the request's record,
        if there is one. Call ``look`` first.
        """
        named = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[f"request:{request_id}"]),
            name=FlowRunFilterName(any_=[f"deliver {request_id}"]),
        )
        named.operator = Operator.or_
        found = {run.id: run for run in await self._runs(named)}
        found |= {run.id: run for run in self._untagged.get(request_id, [])}
        ours, others = ids_in(record), await _ids_of_others(store, request_id)
        return [
            run
            for run in found.values()
            if run.id in ours or (run.id not in others and await self._is_of(store, run))
        ]

    async def _is_of(self, store: RecordStore, run: FlowRun) -> bool:
        """Return whether a run that no record names belongs to the store's service and account."""
        settings = await settings_of(block_of(run.parameters))
        service = tag_of(run, "service") or settings.service
        return (service, settings.account) == (store.service, store.account)

    async def delete(self, request_id: str, runs: list[FlowRun], record: Record | None) -> int:
        """Delete the runs in ``runs`` and in the record, and return how many of them existed.

        A shard of a batch, which also has steps of other requests, is not deleted; only the steps
        of this request are.
        """
        ids = {run.id for run in runs} | ids_in(record)
        shards = await self._shards(ids)
        await _settled(runs, record if shards else None)
        for run_id in shards:
            await self._delete_steps(run_id, request_id)
        deleted = [run_id for run_id in ids - shards if await self._delete(run_id)]
        self.unknown += len(ids - shards) - len(deleted)
        if deleted:
            await self._wait_for_logs(deleted)
        return len(deleted)

    async def _shards(self, run_ids: set[UUID]) -> set[UUID]:
        """Return those of the IDs that belong to shards of a batch."""
        with server_errors():
            named = FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids)))
            return {run.id for run in await list_runs(self.client, ["deliver-shard"], named)}

    async def _delete_steps(self, run_id: UUID, request_id: str) -> None:
        """Delete the steps of the request from a run that also has steps of other requests."""
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        like = TaskRunFilter(name=TaskRunFilterName(like_=f" {request_id}"))
        with server_errors():
            steps = await self.client.read_task_runs(
                flow_run_filter=mine, task_run_filter=like, limit=PAGE
            )
            for step in steps:
                # A comma and the number of the window may follow the ID. The comparison is exact,
                # because other request IDs may contain this one.
                if step.name.partition(",")[0].endswith(f" {request_id}"):
                    with contextlib.suppress(ObjectNotFound):
                        await self.client.delete_task_run(step.id)

    async def _delete(self, run_id: UUID) -> bool:
        with server_errors():
            # The server does not delete a run's artifacts with the run, not even if the run is
            # deleted in the dashboard.
            mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
            while artifacts := await self.client.read_artifacts(artifact_filter=mine):
                for artifact in artifacts:
                    with contextlib.suppress(ObjectNotFound):
                        await self.client.delete_artifact(artifact.id)
            try:
                await self.client.delete_flow_run(run_id)
            except ObjectNotFound:
                return False
            return True

    async def _wait_for_logs(self, run_ids: list[UUID]) -> None:
        logs = LogFilter(flow_run_id=LogFilterFlowRunId(any_=run_ids))
        with server_errors(), anyio.move_on_after(LOGS_SECONDS) as patience:
            while await self.client.read_logs(logs, limit=1):  # noqa: ASYNC110 - the server's
                await anyio.sleep(0.05)
        self.logs_left += len(run_ids) if patience.cancelled_caught else 0

    async def _runs(self, runs: FlowRunFilter) -> list[FlowRun]:
        with server_errors():
            return await list_runs(self.client, ["deliver"], runs)


def _request_id(run: FlowRun) -> str:
    return str(run.parameters.get("request_id", ""))


def ids_in(record: Record | None) -> set[UUID]:
    """Return the IDs of the runs in a record: those that claimed the request, and its follow-up."""
    if record is None:
        return set()
    ids = [run.flow_run_id for run in record.runs]
    ids += [record.follow_up.flow_run_id] if record.follow_up else []
    return {UUID(flow_run_id) for flow_run_id in ids if flow_run_id}


async def _ids_of_others(store: RecordStore, request_id: str) -> set[UUID]:
    """Return the IDs of the runs in other accounts' records of a request with the same ID."""
    accounts = await anyio.to_thread.run_sync(
        store.storage.folders, f"{layout.RECORDS}/{store.service}"
    )
    others = [
        RecordStore(store.storage, store.service, account)
        for account in accounts
        if account != store.account
    ]
    return {run_id for other in others for run_id in ids_in(await other.load(request_id))}


async def _settled(runs: list[FlowRun], record: Record | None) -> None:
    """Wait until everything about the runs is certainly in the server's database.

    With ``record``, this also waits for the steps of the run that wrote the record last.
    """
    now = datetime.now(UTC)
    # A run without an end time may have ended at this moment.
    ends = [run.end_time or now for run in runs if run.start_time]
    ends += [record.updated_at] if record else []
    if ends:
        since = max(0.0, (now - max(ends)).total_seconds())
        await anyio.sleep(max(0.0, SETTLING_SECONDS - since))
