"""Retries of the steps within a run. Prefect makes them, so that the dashboard shows every retry.

The class of an error determines whether trying again can help (``faceid.errors.NextStep``). The
delays grow and have jitter, so that steps that failed together are not retried together. A step
waits for about ``FACEID_WAIT_IN_RUN`` seconds in total. An outage that takes longer is left to a
later run (``flows.delivery.follow_ups``), so that the waiting run does not occupy a worker's slot.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypedDict, TypeGuard

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from faceid.errors import FaceIdError, NextStep
from tasks.settings import DeliverySettings

DELAYS: list[float] = [1.0, 2.0, 4.0, 8.0, 15.0, 30.0]
"""Delays before the retries, in seconds: one minute in total. The last delay is used for any
further retries. The list is kept short because Prefect includes it in each of a step's events."""

MAX_RETRIES = 50
"""Maximum number of retries of a step, whatever ``FACEID_WAIT_IN_RUN`` is."""

_WORTH_RETRYING = {NextStep.RETRY, NextStep.DECIDE, NextStep.WAIT, NextStep.CHECK_RESOURCE}

WatchRetries = Callable[[FaceIdError, float], None]
"""Function that is called before each retry, with the error and ``FACEID_WAIT_IN_RUN``."""
WATCH_RETRIES: ContextVar[WatchRetries | None] = ContextVar("WATCH_RETRIES", default=None)
"""The function to call before retries, with which the commands say why nothing seems to happen."""


def is_passing(error: object) -> TypeGuard[FaceIdError]:
    """Return whether an error may be temporary, so that trying again can help."""
    return isinstance(error, FaceIdError) and error.next_step in _WORTH_RETRYING


def worth_retrying(_task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether Prefect should retry a step, whose failed attempt has this run and state.

    It should, if the error may be temporary and the delays so far, including the next one, are at
    most ``FACEID_WAIT_IN_RUN`` seconds.
    """
    # The delays count without their jitter, so that the number of attempts is always the same.
    waited = sum(DELAYS[: run.run_count]) + DELAYS[-1] * max(0, run.run_count - len(DELAYS))
    error, wait_in_run = state.data, DeliverySettings.load().wait_in_run
    if not is_passing(error) or waited > wait_in_run:
        return False
    if watch := WATCH_RETRIES.get():
        watch(error, wait_in_run)
    return True


class Retries(TypedDict):
    """Type of ``RETRIES``: Prefect's task options of these names."""

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
"""The options that control the retries of a step, for ``@task(**RETRIES)``."""
