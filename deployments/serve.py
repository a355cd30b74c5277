"""Registers the deployments and runs them, each run in a process of its own.

``python -m deployments.serve``: the runner of the local stack, where there is no work pool. It
uses the Prefect server of ``PREFECT_API_URL`` and stays until it is ended.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import anyio
from cyclopts import App
from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.states import Scheduled
from prefect.types.entrypoint import EntrypointType

from faceid import redaction
from flows.dead_runs import silence
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.forget import forget
from flows.form import closed
from flows.sweep import sweep
from tasks.credentials import TencentCredentials

SWEEP_SECONDS = 180
"""Between two sweeps. What a dead worker dropped waits so long at most, and its heartbeats."""

app = App(name="deployments.serve", help=__doc__)


class _Runner(Runner):
    def handle_sigterm(self, *_: object) -> None:
        # Prefect's own calls its asynchronous stop from the loop and never awaits it.
        raise KeyboardInterrupt


async def close_schema(deployment_id: UUID) -> None:
    """Makes the API refuse what a run would: see ``flows.form``. Unknown names would crash it."""
    async with get_client() as client:
        deployment = await client.read_deployment(deployment_id)
        schema = closed(deployment.parameter_openapi_schema or {})
        await client.update_deployment(
            deployment_id, DeploymentUpdate(parameter_openapi_schema=schema)
        )


async def sweep_soon(deployment_id: UUID) -> None:
    """The worker before this one may have died with requests in its hands: what had begun is
    found at once, and what had not by its silence."""
    now = datetime.now(UTC)
    async with get_client() as client:
        for due in (now, now + silence()):
            state = Scheduled(scheduled_time=due)
            await client.create_flow_run_from_deployment(deployment_id, state=state)


async def deployments() -> list[RunnerDeployment]:
    """The deployments of design §5.4, by module path: a file path would depend on a folder."""
    return [
        await deliver.ato_deployment(
            "default",
            description="One request, from its files to its verdict.",
            tags=["faceid"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        await deliver_batch.ato_deployment(
            "default",
            description="The requests of a manifest, each to its verdict.",
            tags=["faceid"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        await sweep.ato_deployment(
            "default",
            description="Upkeep: requests whose run died get another.",
            tags=["faceid"],
            interval=SWEEP_SECONDS,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        await forget.ato_deployment(
            "default",
            description="Retention: erases what is stored about requests that nobody touched for "
            "so long. Off until its schedule is switched on.",
            tags=["faceid"],
            schedule=Cron("0 3 * * *", timezone="UTC", active=False),
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    ]


async def keep_schedules(deployment: RunnerDeployment) -> None:
    """A schedule made or switched on in the dashboard stays: Prefect would replace it by ours."""
    async with get_client() as client:
        with suppress(ObjectNotFound):
            await client.read_deployment_by_name(deployment.full_name)
            deployment.schedules = None
            deployment.model_fields_set.discard("schedules")


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
    await TencentCredentials.aregister_type_and_schema()
    runner = _Runner(name="faceid", limit=limit, pause_on_shutdown=False)
    for deployment in await deployments():
        await keep_schedules(deployment)
        deployment_id = await runner.aadd_deployment(deployment)
        await close_schema(deployment_id)
        if deployment.flow_name == sweep.name:
            await sweep_soon(deployment_id)
    if ready_file:
        await anyio.Path(ready_file).write_text("ready")
    await runner.start()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(app.run_async())
