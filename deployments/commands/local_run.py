"""Runs a flow in this process, recorded on the server at ``PREFECT_API_URL`` or a temporary one."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from prefect import get_client
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)

from deployments.stack import temporary_prefect_server
from faceid.errors import FaceIdError
from faceid.outputs import stderr
from flows.delivery.shutdown import SAY
from flows.server.events import NOBODY_LISTENS
from flows.server.runs import is_of_server, server_errors
from tasks.retries import WATCH_RETRIES

T = TypeVar("T")


def local_run(
    run: Callable[[], Coroutine[Any, Any, T]], on_stop: Callable[[], object] | None = None
) -> T:
    """Run a coroutine that runs a flow, and return its result.

    ``on_stop`` is called if the flow is told to end before its work is done.

    If ``PREFECT_API_URL`` is not set, a temporary Prefect server is started for the time of the
    run. If a step fails and is tried again, stderr says so, once for each error code. Raises
    ``StorageError`` if the server cannot be reached, rejects our credentials or answers a call with
    an error, ``KeyboardInterrupt`` if the process is told to end while the flow begins, and
    ``StackError`` if the temporary server does not start.
    """
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            stderr.print(
                "PREFECT_API_URL is not set: starting a temporary Prefect server, which takes "
                "some seconds"
            )
            api_url = stack.enter_context(temporary_prefect_server(os.environ))
            stack.callback(NOBODY_LISTENS.reset, NOBODY_LISTENS.set(True))
            auth = PREFECT_SERVER_API_AUTH_STRING.value()
            stack.enter_context(
                temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: auth})
            )
        with server_errors():
            asyncio.run(_come_in())

        def say(line: str) -> None:
            stderr.print(line, markup=False)
            if on_stop:
                on_stop()

        SAY.set(say)
        for name in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).addFilter(_is_news)
        try:
            return asyncio.run(_telling_retries(run))
        except TerminationSignal:
            # SIGTERM came before the flow handles signals itself, or after that.
            raise KeyboardInterrupt from None
        except Exception as error:
            # Prefect's client gives up on a server that is down for long, and at once on one that
            # answers 500, as in a restart of its database.
            if not is_of_server(error):
                raise
            with server_errors():
                raise
        finally:
            APILogHandler().flush()  # before the server is stopped


_TOLD_ANYWAY = (
    "Finished in state ",
    *(
        f"Encountered exception during execution: {error}"
        for error in (
            "PrefectHTTPStatusError(",
            "ConnectError(",
            "RuntimeError('Failed to reach API",
        )
    ),
)
"""How records begin in which Prefect logs the end of a run, or that its server has failed it."""


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a record of Prefect's says what the command does not say itself."""
    return not record.getMessage().startswith(_TOLD_ANYWAY)


async def _come_in() -> None:
    async with get_client() as client:
        await client.read_flow_runs(limit=1)


async def _telling_retries(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    # Steps are retried for a minute. Without a word, the command would seem to hang.
    told: set[str] = set()

    def tell(error: FaceIdError, seconds: float) -> None:
        if error.code in told:
            return
        told.add(error.code)
        where = f" ({error.host})" if error.host else ""
        stderr.print(
            f"faceid: {error.code}: {error.message}{where}; trying again for up to about "
            f"{seconds:g} s (FACEID_WAIT_IN_RUN)",
            markup=False,
        )

    WATCH_RETRIES.set(tell)
    return await run()
