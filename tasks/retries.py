"""Who retries what: Prefect's task retries own backoff, so that every retry shows in the dashboard.

An error's class says whether trying again can help (``faceid.errors.NextStep``). The delays grow
and are jittered, so that runs that failed together do not come back together. A run waits
``FACEID_WAIT_IN_RUN`` seconds in all; what takes longer is for a later run
(``flows.delivery.follow_ups``), so that nobody sits in a worker's slot.
"""

from collections.abc import Callable
from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from faceid.errors import FaceIdError, NextStep
from faceid.settings import FaceIdSettings

DELAYS: list[float] = [1.0, 2.0, 4.0, 8.0, 15.0, 30.0]
"""Seconds before each retry: a minute in all; before any more, the last of them again. No longer
than it must be, as it stands in each of a step's events."""

MAX_RETRIES = 50

_WORTH_RETRYING = {NextStep.RETRY, NextStep.WAIT, NextStep.CHECK_RESOURCE}


def is_passing(error: object) -> bool:
    """Whether the error may pass by itself, so that trying again can help."""
    return isinstance(error, FaceIdError) and error.next_step in _WORTH_RETRYING


def worth_retrying(_task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Prefect's ``retry_condition_fn``: it has to be a plain function."""
    # Counted by the delays as they stand there, jitter aside: the same number of tries each time.
    waited = sum(DELAYS[: run.run_count]) + DELAYS[-1] * max(0, run.run_count - len(DELAYS))
    return is_passing(state.data) and waited <= FaceIdSettings.load().wait_in_run


class Retries(TypedDict):
    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


RETRIES: Retries = {
    "retries": MAX_RETRIES,
    "retry_delay_seconds": DELAYS,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}
"""For ``@task(**RETRIES)``."""
