"""``faceid results``: prints the result lines of a batch's run, wherever it was started."""

import asyncio
from typing import NamedTuple
from uuid import UUID

import orjson
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from faceid.command import Exit
from faceid.errors import InvalidInput, StorageError
from faceid.outputs import print_result, stderr
from flows.batch.chain import last_of_chain
from flows.batch.results import read_lines, results_location
from flows.server.runs import server_errors
from tasks.settings import DeliverySettings


class _Found(NamedTuple):
    """Where a batch's result lines are, and whether the batch is complete."""

    location: str
    """Path or URL of the folder with the result lines."""
    is_complete: bool | None
    """Whether every request has its verdict; ``None`` if there is no Prefect server to ask."""


def results(run: str) -> None:
    """Print the result lines of a batch's run, or the lines so far if the run has not ended.

    If the run left requests to a later run, the lines of the later run are printed, which cover
    both. The exit code is 0 if every request has its verdict, and otherwise 1.

    Parameters
    ----------
    run
        ID of the flow run, as in its URL in the dashboard.
    """
    try:
        run_id = UUID(run)
    except ValueError:
        raise InvalidInput("InvalidRequest", f"{run!r} is not a flow run ID") from None
    found = asyncio.run(_find(run_id, DeliverySettings.load()))
    all_have_verdicts = _print(found)
    complete = all_have_verdicts if found.is_complete is None else found.is_complete
    raise Exit(0 if complete else 1)


def _print(found: _Found) -> bool:
    """Print the result lines, and return whether there are any and all of them have a verdict."""
    statuses: set[str] = set()
    try:
        for line in read_lines(found.location):
            statuses.add(orjson.loads(line)["status"])
            print_result(line.decode().rstrip("\n"))
    except FileNotFoundError:
        raise InvalidInput("UnknownRun", "this run has no result lines here") from None
    except OSError as error:
        raise StorageError(
            "CannotRead", f"the result lines cannot be read ({error.strerror})"
        ) from None
    return statuses == {"verdict"}


async def _find(run_id: UUID, settings: DeliverySettings) -> _Found:
    if not PREFECT_API_URL.value():
        stderr.print("PREFECT_API_URL is not set: looking only in FACEID_STORAGE")
        return _Found(results_location("", settings, str(run_id)), None)
    run = await _last_run(run_id)
    if run.id != run_id:
        stderr.print(f"the batch continued in run {run.id}: these are its lines")
    if run.state and not run.state.is_final():
        stderr.print("the run has not ended: these are its lines so far")
    given = str(run.parameters.get("results", ""))
    location = results_location(given, settings, str(run.id))
    return _Found(location, "outcome:completed" in run.tags)


async def _last_run(run_id: UUID) -> FlowRun:
    with server_errors():
        async with get_client() as client:
            try:
                run = await client.read_flow_run(run_id)
                flow = await client.read_flow(run.flow_id)
            except ObjectNotFound:
                raise InvalidInput(
                    "UnknownRun", f"the Prefect server has no run {run_id}"
                ) from None
            if flow.name != "deliver-batch":
                raise InvalidInput("UnknownRun", f"{run_id} is a run of {flow.name}, not a batch")
            return await last_of_chain(client, run)
