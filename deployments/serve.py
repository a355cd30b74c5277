"""Registers the deployments, and executes their runs, each in a process of its own.

``python -m deployments.serve`` is the worker of the local stack, which has no work pool. It uses
the Prefect server at ``PREFECT_API_URL`` and runs until it is stopped.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
from cyclopts import App
from prefect import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Scheduled

from deployments import grace
from deployments.registration.register import register
from faceid import redaction
from flows.upkeep.dead_runs import silence

SWEEP = "sweep/default"
"""The deployment of the flow ``sweep``."""

app = App(name="deployments.serve", help=__doc__)


class _Runner(Runner):
    def handle_sigterm(self, *_: object) -> None:
        # Prefect's handler calls the asynchronous `stop` from the event loop but never awaits it.
        raise KeyboardInterrupt


class _Registered(RunnerDeployment):
    """A deployment that is already registered, so that applying it only returns its ID."""

    deployment_id: UUID

    async def aapply(self, *_: Any, **__: Any) -> UUID:
        return self.deployment_id


async def sweep_soon(deployment_id: UUID) -> None:
    """Schedule two sweeps, in case the previous worker died while it was executing runs.

    ``deployment_id`` is that of ``sweep/default``. The first sweep is due now. The second is due
    when the runs that the previous worker had not begun can be taken for dead.
    """
    now = datetime.now(UTC)
    async with get_client() as client:
        for due in (now, now + silence()):
            state = Scheduled(scheduled_time=due)
            await client.create_flow_run_from_deployment(deployment_id, state=state)


@app.default
async def serve(*, limit: int = 4, ready_file: Path | None = None) -> None:
    """Register the deployments, and execute their runs until this process is stopped.

    Parameters
    ----------
    limit
        How many runs to execute at the same time.
    ready_file
        File to write once runs can be triggered.
    """
    redaction.install()
    grace.install()
    runner = _Runner(name="faceid", limit=limit, pause_on_shutdown=False)
    registered = await register(pool=False)
    for name, deployment_id in registered.deployments.items():
        flow, _, own = name.partition("/")
        await runner.aadd_deployment(
            _Registered(name=own, flow_name=flow, deployment_id=deployment_id)
        )
    await sweep_soon(registered.deployments[SWEEP])
    if ready_file:
        await anyio.Path(ready_file).write_text("ready")
    await runner.start()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(app.run_async())
