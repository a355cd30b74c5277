"""How a delivery ends, told in every place where someone may look: state, tags, artifact, event.

Runs end in Prefect's own states, ``Completed`` and ``Failed``. Names of our own would hide them
from the dashboard's filters and from automations on failed runs; what happened is the first word
of the state's message, a tag, and the result object in an artifact.
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


class DeliveryOutcome(NamedTuple):
    """How a run of a request ended: with a verdict in its record, or with the reason for none."""

    record: Record | None = None
    """``None`` where the request was not even taken on."""
    failure: FaceIdError | None = None
    deferred: DeliveryDeferred | None = None
    unsaved: FaceIdError | None = None
    """Why the answer's files, which were asked for, could not be saved."""
    failed_before: bool = False
    """Whether nothing was done now: an earlier run failed, as the record says."""

    @property
    def was_at_its_end(self) -> bool:
        """Whether an earlier run had brought the request to its end, and nothing was done now."""
        if self.failed_before:
            return True
        runs = self.record.runs if self.record else ()
        return [run.outcome for run in runs].count("verdict") > 1


def outcome_of(error: ResultError | None, deferred: DeliveryDeferred | None = None) -> Outcome:
    if deferred is not None:
        return "rerequested"
    return "verdict" if error is None else _OUTCOME_OF_ERROR[error.kind]


def verdict_word(result: DeliveryResult) -> str:
    """``passed``, ``refused`` or ``none``."""
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
    """The result object of this run, from what the record says of the request's whole life."""
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
    return ResultError(code=failure.code, message=str(failure), kind=failure.kind)


async def add_tags(*tags: str) -> list[str]:
    """Adds to the tags of the current flow run; a tag ``name:…`` replaces one of the same name.

    Gives all that it has now. Prefect's update replaces all tags, so those that stand there are
    sent along. The new ones come first: the dashboard shows the first few of them.
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
    """The event of a request's end.

    A batch tells what it did itself, and not again what its manifest's earlier runs did.
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
    """The end of a run whose settings are wrong: which service it was meant for is not known."""
    return Failed(message=f"invalid-input: {error}", data=error)


async def finish_delivery(result: DeliveryResult, ending: DeliveryOutcome) -> State[Any]:
    """Writes the result where people look, and gives the state that the run ends in.

    A ``Completed`` state carries the result object; a ``Failed`` one ``DeliveryFailed``, so that
    a plain Python call of the flow raises it.
    """
    deferred = ending.deferred
    outcome, word = outcome_of(result.error, deferred), verdict_word(result)
    # A run that names a block which is not there ends before it has any tag.
    tags = [f"request:{result.request_id}", f"outcome:{outcome}", f"verdict:{word}"]
    if deferred and deferred.follow_up and deferred.follow_up.flow_run_id:
        tags.append(f"next:{deferred.follow_up.flow_run_id}")
    await add_tags(*tags)
    state = _state_of(result, ending)
    # The dashboard shows no more of the table's verdict than that it is an object.
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
        what = "the next run could not be scheduled yet: its deployment is gone"
    else:
        due = follow_up.due.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        what = f"next run {follow_up.flow_run_id} at {due}"
    return f"{what}; {deferred.reason.code}: {deferred.reason.message}"
