"""Who retries what: Prefect's task retries own backoff, so that every retry shows in the dashboard.

An error's class says whether trying again can help (``faceid.errors.NextStep``). The delays grow
and are jittered, so that runs that failed together do not come back together.
"""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from faceid.errors import FaceIdError, NextStep

DELAYS: list[float] = [1, 2, 4, 8, 15, 30]
"""Seconds before each retry: a minute in all."""

JITTER = 0.5

_WORTH_RETRYING = {NextStep.RETRY, NextStep.WAIT, NextStep.CHECK_RESOURCE}


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's ``retry_condition_fn``: it has to be a plain function."""
    error = state.data
    return isinstance(error, FaceIdError) and error.next_step in _WORTH_RETRYING
