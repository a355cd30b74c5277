"""Runs of ``deliver`` in this process, and what the server recorded about them."""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun

from faceid.models import DeliveryResult


class Delivered(NamedTuple):
    """How a run ended, as seen by its caller and in the dashboard."""

    state: State[Any]
    result: DeliveryResult
    run: FlowRun


Deliver = Callable[..., Coroutine[Any, Any, Delivered]]


async def artifact_of(run: FlowRun) -> Any:
    async with get_client() as client:
        (artifact,) = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"result-{run.id}"]))
        )
    return artifact


async def task_runs_of(run: FlowRun) -> list[TaskRun]:

    async with get_client() as client:
        return await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        )
