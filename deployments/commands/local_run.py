"""Runs a flow in this process, recorded on the server at ``PREFECT_API_URL`` or a temporary one."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from prefect import get_client
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)

from deployments.stack import temporary_prefect_server
from faceid.command import stderr
from flows.server.runs import server_errors

T = TypeVar("T")


def local_run(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that runs a flow, and return its result.

    If ``PREFECT_API_URL`` is not set, a temporary Prefect server is started for the time of the
    run. Raises ``StorageError`` if the server cannot be reached or rejects our credentials, and
    ``StackError`` if the temporary server does not start.
    """
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            stderr.print(
                "PREFECT_API_URL is not set: starting a temporary Prefect server, which takes "
                "some seconds"
            )
            api_url = stack.enter_context(temporary_prefect_server(os.environ))
            auth = PREFECT_SERVER_API_AUTH_STRING.value()
            stack.enter_context(
                temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: auth})
            )
        with server_errors():
            asyncio.run(_come_in())
        try:
            return asyncio.run(run())
        finally:
            APILogHandler().flush()  # before the server is stopped


async def _come_in() -> None:
    async with get_client() as client:
        await client.read_flow_runs(limit=1)
