"""Who retries what: Prefect's task retries own backoff, so that every retry shows in the dashboard.

An error's class says whether trying again can help (``faceid.errors.NextStep``). The delays grow
and are jittered, so that runs that failed together do not come back together.
"""

from collections.abc import Callable
from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from faceid.errors import FaceIdError, NextStep

DELAYS: list[float] = [1, 2, 4, 8, 15, 30]
"""Seconds before each retry: a minute in all."""

_WORTH_RETRYING = {NextStep.RETRY, NextStep.WAIT, NextStep.CHECK_RESOURCE}


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's ``retry_condition_fn``: it has to be a plain function."""
    error = state.data
    return isinstance(error, FaceIdError) and error.next_step in _WORTH_RETRYING


class Retries(TypedDict):
    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


RETRIES: Retries = {
    "retries": len(DELAYS),
    "retry_delay_seconds": DELAYS,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}
"""For ``@task(**RETRIES)``."""
