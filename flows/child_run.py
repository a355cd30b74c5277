"""A flow run inside another, on a server that is busy.

Prefect makes a task run for each child run, and on SQLite its server answers that with 503 whenever
something was written meanwhile, which is most of the time while a batch is at work. Prefect's
client then waits for 2, 4, 8, ... seconds and gives up after six tries; a batch cannot stand still
for so long, nor fail for it. So the two are made here, and tried again at once.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from prefect import Flow, Task, get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending

from faceid.errors import ServiceUnavailable

PATIENCE = 120.0
"""Seconds until the server's refusal is the batch's failure."""

PAUSE = 0.2
"""Seconds between two tries."""

T = TypeVar("T")


async def run_child(flow: Flow[..., Any], **parameters: Any) -> None:
    """Runs the flow as a child of the current one."""
    async with get_client(httpx_settings={"event_hooks": {"response": [_hear]}}) as client:
        # It stands for the child in its parent's graph.
        task = Task(name=flow.name, fn=flow.fn)
        parent = await _patiently(lambda: task.create_run(client, parameters=parameters))
        child = await _patiently(
            lambda: client.create_flow_run(
                flow, parameters=parameters, state=Pending(), parent_task_run_id=parent.id
            )
        )
    await cast("Any", run_flow(flow, child, parameters))


class _Busy(Exception):
    """The server says to come again."""


async def _hear(response: Any) -> None:
    if response.status_code in (429, 503):
        raise _Busy


async def _patiently(create: Callable[[], Coroutine[Any, Any, T]]) -> T:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await create()
        except _Busy:
            if time.monotonic() > deadline:
                raise ServiceUnavailable("ServerBusy", "the Prefect server is too busy") from None
        await asyncio.sleep(PAUSE)
