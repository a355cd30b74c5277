"""Registers the deployments and runs them, each run in a process of its own.

``python -m deployments.serve``: the runner of the local stack, where there is no work pool. It
uses the Prefect server of ``PREFECT_API_URL`` and stays until it is ended.
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

from deployments.registration.register import register
from faceid import redaction
from flows.upkeep.dead_runs import silence

SWEEP = "sweep/default"

app = App(name="deployments.serve", help=__doc__)


class _Runner(Runner):
    def handle_sigterm(self, *_: object) -> None:
        # Prefect's own calls its asynchronous stop from the loop and never awaits it.
        raise KeyboardInterrupt


class _Registered(RunnerDeployment):
    """A deployment that stands on the server: the runner has only to be told which."""

    deployment_id: UUID

    async def aapply(self, *_: Any, **__: Any) -> UUID:
        return self.deployment_id


async def sweep_soon(deployment_id: UUID) -> None:
    """The worker before this one may have died with requests in its hands: what had begun is
    found at once, and what had not by its silence."""
    now = datetime.now(UTC)
    async with get_client() as client:
        for due in (now, now + silence()):
            state = Scheduled(scheduled_time=due)
            await client.create_flow_run_from_deployment(deployment_id, state=state)


@app.default
async def serve(*, limit: int = 4, ready_file: Path | None = None) -> None:
    """
    Parameters
    ----------
    limit
        Runs at the same time.
    ready_file
        Is written when runs can be triggered.
    """
    redaction.install()
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
