"""``faceid results``: the result lines of a batch run that was started elsewhere."""

import asyncio
from typing import NamedTuple
from uuid import UUID

import orjson
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from faceid.command import Exit, stderr
from faceid.errors import InvalidInput, StorageError
from faceid.settings import FaceIdSettings
from flows.batch.chain import last_of_chain
from flows.batch.results import read_lines, results_location
from flows.server.runs import server_errors


class _Found(NamedTuple):
    """Where a batch's lines are, and what is known of its end."""

    location: str
    is_complete: bool | None
    """Whether all of its requests have their verdict; ``None`` without a server to ask."""


def results(run: str) -> None:
    """Print the result lines of a batch run: all of them, or those that are there so far.

    Where the run left requests to a later one, the lines of that one: they cover both.

    Parameters
    ----------
    run
        The ID of the flow run, as in the dashboard's address.
    """
    try:
        run_id = UUID(run)
    except ValueError:
        raise InvalidInput("InvalidRequest", f"{run!r} is no flow run's ID") from None
    found = asyncio.run(_find(run_id, FaceIdSettings.load()))
    all_have_verdicts = _print(found)
    complete = all_have_verdicts if found.is_complete is None else found.is_complete
    raise Exit(0 if complete else 1)


def _print(found: _Found) -> bool:
    """Says whether each line has a verdict, and there is one at least."""
    statuses: set[str] = set()
    try:
        for line in read_lines(found.location):
            statuses.add(orjson.loads(line)["status"])
            print(line.decode(), end="")  # noqa: T201 - results go to stdout
    except FileNotFoundError:
        raise InvalidInput("UnknownRun", "there are no result lines of this run here") from None
    except OSError as error:
        raise StorageError("CannotRead", f"the result lines ({error.strerror})") from None
    return statuses == {"verdict"}


async def _find(run_id: UUID, settings: FaceIdSettings) -> _Found:
    if not PREFECT_API_URL.value():
        stderr.print("PREFECT_API_URL is not set: looking in FACEID_STORAGE alone")
        return _Found(results_location("", settings, str(run_id)), None)
    run = await _last_run(run_id)
    if run.id != run_id:
        stderr.print(f"the batch went on in the run {run.id}: these are its lines")
    if run.state and not run.state.is_final():
        stderr.print("the run is still at work: these are its lines so far")
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
                    "UnknownRun", f"the Prefect server knows no run {run_id}"
                ) from None
            if flow.name != "deliver-batch":
                raise InvalidInput("UnknownRun", f"{run_id} is a run of {flow.name}, and no batch")
            return await last_of_chain(client, run)
