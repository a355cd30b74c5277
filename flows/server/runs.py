"""Flow runs on the Prefect server: lists, the current run's settings, and errors of the server."""

import contextlib
from collections.abc import Generator

from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError

from faceid.errors import FaceIdError, ServiceUnavailable, StorageError
from faceid.http import HTTPError
from tasks.credentials import CHECK_PREFECT, load_settings
from tasks.settings import DeliverySettings

PAGE = 200
"""Number of flow runs in a page: the maximum that Prefect's API returns at once."""


async def list_runs(client: PrefectClient, flows: list[str], runs: FlowRunFilter) -> list[FlowRun]:
    """Return all runs of the flows with these names that match the filter ``runs``.

    All pages are read before this returns, because pages shift when runs are deleted.
    """
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
    """Return the value of a run's tag ``<name>:<value>``; ``None`` if the run has no such tag."""
    tags = (tag.partition(":") for tag in run.tags)
    return next((value for found, _, value in tags if found == name), None)


async def settings_of_this_run(block: str) -> DeliverySettings:
    """Return the settings of the current flow run.

    ``block`` is the name of the credentials block that the run was given, or empty. In a run of a
    deployment, locations are restricted to the configured roots. Raises ``InvalidInput`` if the
    settings or the block are invalid, and ``ServiceUnavailable`` if the block cannot be read.
    """
    settings = await load_settings(block)
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return settings.deployed() if context.flow_run.deployment_id else settings


@contextlib.contextmanager
def server_errors() -> Generator[None]:
    """Turn any error of a call to the Prefect server into ``StorageError``, within the context."""
    try:
        yield
    except FaceIdError:
        raise
    except Exception as error:
        raise StorageError("PrefectUnavailable", _said(error), advice=CHECK_PREFECT) from None


@contextlib.contextmanager
def server_unavailable() -> Generator[None]:
    """Turn errors of calls to the Prefect server into ``ServiceUnavailable``, within the context.

    Unlike in that of ``server_errors``, other things may be done in the context. Their errors are
    left as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_of_server(error):
            raise
        raise ServiceUnavailable("PrefectUnavailable", _said(error), advice=CHECK_PREFECT) from None


@contextlib.contextmanager
def best_effort(what: str) -> Generator[None]:
    """Log errors of calls to the Prefect server as a warning, because the run can do without them.

    ``what`` says what does not happen then, such as "the run is not tagged".
    """
    try:
        with server_unavailable():
            yield
    except ServiceUnavailable as error:
        get_run_logger().warning("%s: %s", what, error)


def is_of_server(error: Exception) -> bool:
    """Return whether an error is one that Prefect's client raises for its server."""
    # RuntimeError is raised if the client does not reach the server when it is entered.
    is_unreached = isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API")
    return is_unreached or isinstance(error, HTTPError)


def _said(error: Exception) -> str:
    if isinstance(error, PrefectHTTPStatusError):
        why = f"{error.response.status_code} {error.response.reason_phrase}"
    elif isinstance(error, RuntimeError):
        why = "no answer, or an incompatible version"
    else:
        why = type(error).__name__
    return f"a call to the Prefect server failed ({why})"
