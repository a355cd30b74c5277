"""Registers everything with a Prefect server, or reports what is missing or different there.

This covers the block type, the work pool with its queues, the deployments in
``deployments/prefect.yaml``, and the automations in ``automations.yaml``. Registering again changes
nothing. What people change in the dashboard is kept: schedules, limits of the pool and its queues,
job variables, and whether something is paused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.registration.automations import register_automations
from deployments.registration.definitions import (
    Definition,
    WorkPool,
    WorkQueue,
    code_version,
    read_definitions,
)
from tasks.credentials import TencentCredentials


@dataclass
class Registration:
    """The result of a registration."""

    deployments: dict[str, UUID] = field(default_factory=dict[str, UUID])
    """IDs of the deployments on the server, by name, such as ``deliver/default``."""
    changes: list[str] = field(default_factory=list[str])
    """One line for each object that was created or changed or, without ``write``, would be. A line
    begins with the kind of the object, such as ``deployment``."""


async def register(*, pool: bool, write: bool = True) -> Registration:
    """Bring the server at ``PREFECT_API_URL`` up to date with this checkout.

    With ``pool``, runs go to the work pool and its workers; otherwise ``deployments.serve``
    executes them. With ``write=False``, nothing is changed, and the result says what would be.
    Raises ``InvalidInput`` if ``automations.yaml`` is invalid or names a block that does not exist.
    """
    definitions = read_definitions()
    done = Registration()
    async with get_client() as client:
        done.changes += await _block_type(client, write)
        if pool:
            work_pool = definitions.definitions.work_pool
            done.changes += await _work_pool(client, work_pool, write)
            for queue in definitions.definitions.work_queues:
                done.changes += await _work_queue(client, queue, work_pool.name, write)
        for definition in definitions.deployments:
            await _deployment(client, definition, pool, write, done)
    done.changes += [f"automation {name}" for name in await register_automations(write=write)]
    return done


async def _block_type(client: PrefectClient, write: bool) -> list[str]:
    slug = TencentCredentials.get_block_type_slug()
    checksum = TencentCredentials._calculate_schema_checksum()  # pyright: ignore[reportPrivateUsage]  # Prefect has no public one
    try:
        await client.read_block_schema_by_checksum(checksum)
    except ObjectNotFound:
        changes = [f"block type {slug}"]
    else:
        changes = []
    if write:
        await TencentCredentials.aregister_type_and_schema()
    return changes


async def _work_pool(client: PrefectClient, pool: WorkPool, write: bool) -> list[str]:
    try:
        await client.read_work_pool(pool.name)
    except ObjectNotFound:
        if write:
            template = ProcessWorker.get_default_base_job_template()
            await client.create_work_pool(
                WorkPoolCreate(**pool.model_dump(), base_job_template=template)
            )
        return [f"work pool {pool.name}"]
    return []


async def _work_queue(client: PrefectClient, queue: WorkQueue, pool: str, write: bool) -> list[str]:
    try:
        await client.read_work_queue_by_name(queue.name, work_pool_name=pool)
    except ObjectNotFound:
        if write:
            await client.create_work_queue(**queue.model_dump(), work_pool_name=pool)
        return [f"work queue {pool}/{queue.name}"]
    return []


async def _deployment(
    client: PrefectClient, definition: Definition, pool: bool, write: bool, done: Registration
) -> None:
    name = definition.full_name
    fields = _fields(definition, pool)
    try:
        found = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        done.changes.append(f"deployment {name}")
        if write:
            done.deployments[name] = await client.create_deployment(
                flow_id=await client.create_flow_from_name(definition.flow.name),
                name=definition.name,
                schedules=[schedule.to_create() for schedule in definition.schedules],
                **fields,
            )
        return
    done.deployments[name] = found.id
    present = _present(found)
    different = [key for key, value in fields.items() if present[key] != value]
    if different:
        done.changes.append(f"deployment {name}: {', '.join(different)}")
        if write:
            await client.update_deployment(found.id, DeploymentUpdate(**fields))


def _fields(definition: Definition, pool: bool) -> dict[str, Any]:
    """Return the fields of a deployment that this checkout determines, by Prefect's names."""
    limit = definition.concurrency_limit
    return {
        "version": code_version(),
        "description": definition.description,
        "tags": definition.tags,
        "entrypoint": definition.entrypoint,
        "path": None,
        "pull_steps": [],
        "parameter_openapi_schema": definition.parameter_schema(),
        "enforce_parameter_schema": True,
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": limit
        and limit.model_dump(mode="json", exclude={"limit"}, exclude_none=True),
        "work_pool_name": definition.work_pool.name if pool else None,
        "work_queue_name": definition.work_pool.work_queue_name if pool else None,
    }


def _present(found: DeploymentResponse) -> Mapping[str, Any]:
    """Return the fields of a deployment on the server, in the same form as those of ``_fields``."""
    limit = found.global_concurrency_limit
    options = found.concurrency_options
    return {
        **found.model_dump(exclude={"concurrency_limit"}),
        "pull_steps": found.pull_steps or [],
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options and options.model_dump(mode="json", exclude_none=True),
    }
