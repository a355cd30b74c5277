"""Detects flow runs whose process has died.

Nothing in the open-source Prefect server notices that a process was killed: its run stays Running
forever, or Pending if it was killed before its flow began. A live run sends a heartbeat every
``PREFECT_FLOWS_HEARTBEAT_FREQUENCY`` seconds. A run that has missed three of them is taken for dead
and marked Crashed, so that the dashboard, automations and ``flows.sweep`` see it.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.settings import get_current_settings
from prefect.states import Crashed

from flows.server.runs import list_runs

OUR_FLOWS = ["deliver", "deliver-batch", "deliver-shard", "sweep", "forget"]

HEARTBEATS_MISSED = 3
DEFAULT_HEARTBEAT = 180
"""Heartbeat frequency assumed where heartbeats are disabled, in seconds.

It determines how long a run may be Pending.
"""


def silence() -> timedelta:
    """Return how long a run must be silent to be taken for dead."""
    heartbeat = get_current_settings().flows.heartbeat_frequency or DEFAULT_HEARTBEAT
    return timedelta(seconds=HEARTBEATS_MISSED * heartbeat)


async def mark_dead_runs(
    client: PrefectClient, is_at_work: Callable[[FlowRun], Awaitable[bool]]
) -> int:
    """Mark silent runs as Crashed, and return how many.

    ``is_at_work`` can overrule the silence: a run that holds its request's lock is alive even if
    its heartbeats are lost.
    """
    at_work = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
    )
    marked = 0
    for run in await list_runs(client, OUR_FLOWS, FlowRunFilter(state=at_work)):
        if await _is_silent(client, run) and not await is_at_work(run):
            await mark_crashed(client, run.id)
            marked += 1
    return marked


async def mark_crashed(client: PrefectClient, flow_run_id: UUID) -> None:
    """Set the run's state to Crashed."""
    message = "Its process is gone; found by the sweeper."
    await client.set_flow_run_state(flow_run_id, Crashed(message=message), force=True)


async def crashed_runs(client: PrefectClient, flow: str, since: datetime) -> list[FlowRun]:
    """Return the runs of the flow's deployments that have crashed since then."""
    # Prefect annotates times with its own class, but accepts any datetime.
    crashed = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        end_time=FlowRunFilterEndTime(after_=cast("Any", since)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
    )
    return await list_runs(client, [flow], crashed)


async def delete_late_runs(client: PrefectClient, flow: str, but: UUID) -> None:
    """Delete the flow's overdue runs that a schedule created, except ``but``.

    They would only repeat what the current run has just done.
    """
    late = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=cast("Any", datetime.now(UTC))),
    )
    for run in await list_runs(client, [flow], late):
        if run.auto_scheduled and run.id != but:
            await client.delete_flow_run(run.id)


async def _is_silent(client: PrefectClient, run: FlowRun) -> bool:
    assert run.state is not None
    if _is_young(run.state):
        return False
    if run.state.is_pending():
        return True
    if get_current_settings().flows.heartbeat_frequency is None:
        return False
    since = datetime.now(UTC) - silence()
    heartbeats = EventFilter(
        occurred=EventOccurredFilter(since=cast("Any", since)),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
    )
    page = await client.read_events(heartbeats, limit=1)
    return not page.events


def _is_young(state: State[Any]) -> bool:
    return state.timestamp > datetime.now(UTC) - silence()
