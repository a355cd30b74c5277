"""Flow runs as the Prefect server lists them, and the one that is at work here."""

import contextlib
from collections.abc import Generator

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError

from faceid.errors import FaceIdError, StorageError
from faceid.settings import FaceIdSettings
from tasks.credentials import load_settings

PAGE = 200
"""As many as the API gives at a time."""


async def list_runs(client: PrefectClient, flows: list[str], runs: FlowRunFilter) -> list[FlowRun]:
    """All runs of these flows that pass the filter. Whole, as pages shift when runs are deleted."""
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=flows)),
            flow_run_filter=runs,
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found


def tag_of(run: FlowRun, name: str) -> str | None:
    """The value of the run's tag ``name:value``."""
    tags = (tag.partition(":") for tag in run.tags)
    return next((value for found, _, value in tags if found == name), None)


async def settings_of_this_run(block: str) -> FaceIdSettings:
    """The settings of the current flow run, which was given that block, or none.

    Raises as ``load_settings``.
    """
    settings = await load_settings(block)
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return settings.deployed() if context.flow_run.deployment_id else settings


@contextlib.contextmanager
def server_errors() -> Generator[None]:
    """Turns whatever the way to the server raises into ``StorageError``."""
    try:
        yield
    except FaceIdError:
        raise
    except Exception as error:
        if isinstance(error, PrefectHTTPStatusError):
            why = f"{error.response.status_code} {error.response.reason_phrase}"
        elif isinstance(error, RuntimeError):  # of Prefect's client, as it comes in
            why = "no answer, or another version's"
        else:
            why = type(error).__name__
        message = f"the Prefect server cannot be asked ({why})"
        raise StorageError("PrefectUnavailable", message) from None
