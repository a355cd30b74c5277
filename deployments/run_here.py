"""Running a flow in this process, recorded at PREFECT_API_URL or in a temporary server."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from deployments.stack import temporary_prefect_server
from faceid.command import stderr

T = TypeVar("T")


def run_here(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Brings a server where there is none, for as long as it takes."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            stderr.print("PREFECT_API_URL is not set: recording in a temporary Prefect server")
            api_url = stack.enter_context(temporary_prefect_server(os.environ))
            stack.enter_context(temporary_settings({PREFECT_API_URL: api_url}))
        try:
            return asyncio.run(run())
        finally:
            APILogHandler().flush()  # while the server is there
