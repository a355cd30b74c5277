"""Detects flow runs whose process has died.

The open-source Prefect server does not notice if the process of a run is killed: the run stays
Running forever, or Pending if its flow had not begun, or Cancelling. A run that is alive sends a
heartbeat every ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY`` seconds. A run that has missed three
heartbeats is taken for dead and marked as Crashed, so that the dashboard, automations and
``flows.sweep`` see that it died. If somebody has cancelled it, it is marked as Cancelled, and no
other run continues it.
"""

from collections import Counter
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
from prefect.states import Cancelled, Crashed

from flows.server.runs import list_runs

OUR_FLOWS = ["deliver", "deliver-batch", "deliver-shard", "sweep", "forget"]
"""Names of the flows whose runs are checked."""

HEARTBEATS_MISSED = 3
"""Number of heartbeats that a run must miss to be taken for dead."""
DEFAULT_HEARTBEAT = 180
"""Seconds between two heartbeats that are assumed if heartbeats are disabled. They then only
determine how long a run may be Pending."""

DIED = "The sweep found that the run's process has died."
"""Message of the state of a run that is marked."""


def silence() -> timedelta:
    """Return for how long a run must have sent no heartbeat to be taken for dead."""
    heartbeat = get_current_settings().flows.heartbeat_frequency or DEFAULT_HEARTBEAT
    return timedelta(seconds=HEARTBEATS_MISSED * heartbeat)


async def mark_dead_runs(
    client: PrefectClient, is_at_work: Callable[[FlowRun], Awaitable[bool]]
) -> Counter[str]:
    """Mark silent runs as Crashed, or as Cancelled, and return how often each was done.

    A silent run is not marked if ``is_at_work`` returns ``True`` for it: a run that holds its
    request's lock is alive, even if its heartbeats are lost.
    """
    at_work = FlowRunFilterState(
        type=FlowRunFilterStateType(
            any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        )
    )
    marked: Counter[str] = Counter()
    for run in await list_runs(client, OUR_FLOWS, FlowRunFilter(state=at_work)):
        if await _is_silent(client, run) and not await is_at_work(run):
            if run.state and run.state.is_cancelling():
                state = Cancelled(message=f"cancelled: {DIED}")
                await client.set_flow_run_state(run.id, state, force=True)
                marked["marked Cancelled"] += 1
            else:
                await mark_crashed(client, run.id)
                marked["marked Crashed"] += 1
    return marked


async def mark_crashed(client: PrefectClient, flow_run_id: UUID) -> None:
    """Set the state of a flow run to Crashed."""
    await client.set_flow_run_state(flow_run_id, Crashed(message=DIED), force=True)


async def crashed_runs(client: PrefectClient, flow: str, since: datetime) -> list[FlowRun]:
    """Return the runs of a flow's deployments that have crashed after ``since``."""
    # Prefect annotates times with a class of its own, but accepts any datetime.
    crashed = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        end_time=FlowRunFilterEndTime(after_=cast("Any", since)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
    )
    return await list_runs(client, [flow], crashed)


async def delete_late_runs(client: PrefectClient, flow: str, but: UUID) -> None:
    """Delete the overdue runs of a flow that a schedule created, except the run ``but``.

    These runs would only repeat what the current run does.
    """
    late = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=cast("Any", datetime.now(UTC))),
    )
    for run in await list_runs(client, [flow], late):
        if run.auto_scheduled and run.id != but:
            await client.delete_flow_run(run.id)


async def _is_silent(client: PrefectClient, run: FlowRun) -> bool:
    """Return whether a run has sent no heartbeat for so long that it is taken for dead."""
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
