"""The outcome of a delivery, reported in the run's state, tags, artifact and event.

Runs end in Prefect's own states ``Completed`` and ``Failed``, because the dashboard's filters and
automations for failed runs would not find states with names of our own. The outcome is the first
word of the state's message and the value of a tag. The result object is in an artifact.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from prefect import get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from faceid.errors import ErrorKind, FaceIdError, InvalidInput
from faceid.models import DeliveryFailed, DeliveryResult, Outcome, ResultError, Service
from flows.delivery.follow_ups import DeliveryDeferred
from flows.server.events import emit_event
from flows.server.runs import best_effort
from tasks.state.records import Record

_OUTCOME_OF_ERROR: dict[ErrorKind, Outcome] = {
    "input": "invalid-input",
    "conflict": "invalid-input",
    "account": "invalid-input",
    "unavailable": "unavailable",
    "storage": "unavailable",
    "expired": "windows-used-up",
    "unknown": "outcome-unknown",
}


CUT_OFF = "CutOff"
"""Code of the reason for which a delivery is deferred whose run was told to end."""


class DeliveryOutcome(NamedTuple):
    """How a run of a request ended: with a verdict unless ``failure`` or ``deferred`` is set."""

    record: Record | None = None
    """The record of the request; ``None`` if the run did not claim the request."""
    failure: FaceIdError | None = None
    """Why the request failed."""
    deferred: DeliveryDeferred | None = None
    """Why the request is left to a later run, and to which."""
    unsaved: FaceIdError | None = None
    """Why the files of the answer could not be saved, if they were requested."""
    failed_before: bool = False
    """Whether the request failed in an earlier run, so that this run did nothing."""
    was_skipped: bool = False
    """Whether the request was not begun, because a limit for the day had been reached."""

    @property
    def was_cut_off(self) -> bool:
        """Whether the delivery was cancelled because its run was told to end."""
        return self.deferred is not None and self.deferred.reason.code == CUT_OFF

    @property
    def was_at_its_end(self) -> bool:
        """Whether an earlier run had completed the request, so that this run did nothing."""
        if self.failed_before:
            return True
        runs = self.record.runs if self.record else ()
        return [run.outcome for run in runs].count("verdict") > 1


def outcome_of(error: ResultError | None, deferred: DeliveryDeferred | None = None) -> Outcome:
    """Return the outcome of a run that ended with an error, was deferred, or has its verdict."""
    if deferred is not None:
        return "rerequested"
    return "verdict" if error is None else _OUTCOME_OF_ERROR[error.kind]


def verdict_word(result: DeliveryResult) -> str:
    """Return the verdict in a result as a word: ``passed``, ``refused`` or ``none``."""
    if result.verdict is None or result.verdict.passed is None:
        return "none"
    return "passed" if result.verdict.passed else "refused"


def result_of(
    ending: DeliveryOutcome,
    *,
    request_id: str,
    target_action: str,
    service: Service,
    started_at: datetime,
) -> DeliveryResult:
    """Return the result object of the current run, which covers all runs of the request so far.

    ``started_at`` is when the current run began with the request.
    """
    record, error = ending.record, ending.failure and error_of(ending.failure)
    if record and ending.failed_before:
        error = record.error
    status = "waiting" if ending.deferred else "verdict" if error is None else "failed"
    return DeliveryResult(
        request_id=request_id,
        service=service,
        status=status,
        target_action=target_action,
        verdict=record.verdict if record and status == "verdict" else None,
        error=error,
        tencent_request_ids=list(record.tencent_request_ids) if record else [],
        windows=record.window if record else 0,
        calls=record.calls if record else 0,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        flow_run_id=str(flow_run.id),
    )


def error_of(failure: FaceIdError) -> ResultError:
    """Return an error in the form in which results and records contain errors."""
    return ResultError(code=failure.code, message=str(failure), kind=failure.kind)


async def add_tags(*tags: str) -> list[str]:
    """Add tags to the current flow run, and return all of its tags.

    A tag ``name:…`` replaces existing tags of the same name. Prefect's API can only replace all
    tags, so the others are sent again. New tags come first, because the dashboard shows only the
    first few tags.
    """
    names = tuple(tag.partition(":")[0] + ":" for tag in tags)
    async with get_client() as client:
        current = await client.read_flow_run(flow_run.id)
        kept = [tag for tag in current.tags if not tag.startswith(names)]
        await client.update_flow_run(flow_run.id, tags=[*tags, *kept])
    return [*tags, *kept]


def emit_delivery_event(
    result: DeliveryResult, ending: DeliveryOutcome, *, in_batch: bool = False
) -> None:
    """Emit the event that reports how a run of a request ended.

    With ``in_batch``, no event is emitted for a request that an earlier run had completed.
    """
    if in_batch and ending.was_at_its_end:
        return
    deferred = ending.deferred
    reason = deferred.reason if deferred else result.error
    emit_event(
        f"delivery.{'rerequested' if deferred else result.status}",
        kind="request",
        name=result.request_id,
        service=result.service,
        labels={
            "scope": "in-batch" if in_batch else "request",
            "outcome": outcome_of(result.error, deferred),
            "target-action": result.target_action,
            "verdict": verdict_word(result),
            "result": result.verdict and result.verdict.result,
            "error-kind": reason and reason.kind,
            "error-code": reason and reason.code,
        },
        payload=result.model_dump(mode="json"),
        next_run=deferred and deferred.follow_up and deferred.follow_up.flow_run_id,
    )


def misconfigured(error: InvalidInput) -> State[Any]:
    """Return the final state of a run whose settings are invalid, and whose service is unknown."""
    return Failed(message=f"invalid-input: {error}", data=error)


async def finish_delivery(result: DeliveryResult, ending: DeliveryOutcome) -> State[Any]:
    """Report the result in tags, an artifact and an event, and return the final state of the run.

    The data of a ``Completed`` state is the result object. The data of a ``Failed`` state is a
    ``DeliveryFailed``, which is raised if the flow is called as a plain Python function.
    """
    deferred = ending.deferred
    outcome, word = outcome_of(result.error, deferred), verdict_word(result)
    # The request tag is added again, because a run whose block does not exist has no tags so far.
    tags = [f"request:{result.request_id}", f"outcome:{outcome}", f"verdict:{word}"]
    if deferred and deferred.follow_up and deferred.follow_up.flow_run_id:
        tags.append(f"next:{deferred.follow_up.flow_run_id}")
    with best_effort("the run is not tagged with its outcome"):
        await add_tags(*tags)
    state = _state_of(result, ending)
    # The description repeats the message, because the dashboard's table does not show what is in
    # the verdict.
    with best_effort("the run has no artifact"):
        await Artifact(
            type="table",
            key=f"result-{flow_run.id}",
            description=f"{state.message}, request {result.request_id}",
            data=[result.model_dump(mode="json")],
        ).acreate()
    emit_delivery_event(result, ending)
    return state


def _state_of(result: DeliveryResult, ending: DeliveryOutcome) -> State[Any]:
    deferred, outcome = ending.deferred, outcome_of(result.error, ending.deferred)
    service = f"[{result.service}]"
    if deferred is not None:
        return Completed(message=f"{outcome}: {_what_next(deferred)} {service}", data=result)
    if result.error is not None:
        message = f"{outcome}: {result.error.message} {service}"
        return Failed(message=message, data=DeliveryFailed(result))
    assert result.verdict is not None
    said = {"passed": "passed", "refused": "not passed", "none": "answered, no verdict to give"}
    detail = f", {result.verdict.result}" if result.verdict.result else ""
    message = f"{outcome}: {said[verdict_word(result)]}{detail} {service}"
    if ending.unsaved is not None:
        message += f"; its files were not saved: {ending.unsaved}"
    return Completed(message=message, data=result)


def _what_next(deferred: DeliveryDeferred) -> str:
    follow_up = deferred.follow_up
    if follow_up is None:
        what = "no run is scheduled; deliver the same request again"
    elif follow_up.flow_run_id is None:
        what = "the next run could not be scheduled yet; the sweep tries again"
    else:
        due = follow_up.due.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        what = f"next run {follow_up.flow_run_id} at {due}"
    return f"{what}; {deferred.reason.code}: {deferred.reason.message}"
