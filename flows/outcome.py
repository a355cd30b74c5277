"""How a delivery ends, told in every place where someone may look: state, tags, artifact.

Runs end in Prefect's own states, ``Completed`` and ``Failed``. Names of our own would hide them
from the dashboard's filters and from automations on failed runs; what happened is the first word
of the state's message, a tag, and the result object in an artifact (design §5.4).
"""

from typing import Any

from prefect import get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from faceid.errors import DeliveryFailed, ErrorKind
from faceid.models import DeliveryResult, Outcome

_OUTCOME_OF_ERROR: dict[ErrorKind, Outcome] = {
    "input": "invalid-input",
    "conflict": "invalid-input",
    "account": "invalid-input",
    "unavailable": "unavailable",
    "storage": "unavailable",
    "expired": "windows-used-up",
    "unknown": "outcome-unknown",
}


def outcome_of(result: DeliveryResult) -> Outcome:
    if result.error is not None:
        return _OUTCOME_OF_ERROR[result.error.kind]
    return "verdict"


def verdict_word(result: DeliveryResult) -> str:
    """``passed``, ``refused`` or ``none``."""
    if result.verdict is None or result.verdict.passed is None:
        return "none"
    return "passed" if result.verdict.passed else "refused"


async def add_tags(*tags: str) -> None:
    """Adds to the tags of the current flow run; a tag ``name:…`` replaces one of the same name.

    Prefect's update replaces all tags, so those that stand there are sent along.
    """
    names = tuple(tag.partition(":")[0] + ":" for tag in tags)
    async with get_client() as client:
        current = await client.read_flow_run(flow_run.id)
        kept = [tag for tag in current.tags if not tag.startswith(names)]
        await client.update_flow_run(flow_run.id, tags=[*kept, *tags])


async def report(result: DeliveryResult) -> State[Any]:
    """Writes the result where people look, and gives the state that the run ends in.

    A ``Completed`` state carries the result object; a ``Failed`` one ``DeliveryFailed``, so that
    a plain Python call of the flow raises it.
    """
    outcome, word = outcome_of(result), verdict_word(result)
    await add_tags(f"outcome:{outcome}", f"verdict:{word}")
    await Artifact(
        type="table",
        key=f"result-{flow_run.id}",
        description=f"Delivery of request {result.request_id} to the {result.service} service",
        data=[result.model_dump(mode="json")],
    ).acreate()
    if result.error is not None:
        message = f"{outcome}: {result.error.message} [{result.service}]"
        return Failed(message=message, data=DeliveryFailed(result))
    assert result.verdict is not None
    said = {"passed": "passed", "refused": "not passed", "none": "answered, no verdict to give"}
    detail = f", {result.verdict.result}" if result.verdict.result else ""
    return Completed(
        message=f"{outcome}: {said[word]}{detail} [{result.service}]",
        data=result,
    )
