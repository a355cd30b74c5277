"""The contents of ``deployments/prefect.yaml``.

Parsing is strict: a field that would not be registered is an error.
"""

import hashlib
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema as schema_of
from pydantic import BaseModel, ConfigDict

from faceid import __version__
from flows.parameters import strict_schema

FILE = Path(__file__).parents[1] / "prefect.yaml"
"""The file with the definitions."""
PACKAGES = ("faceid", "tasks", "flows", "deployments")
"""The packages whose code determines the version of a deployment."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Strict):
    """A schedule that a new deployment gets. It has either ``cron`` or ``interval``."""

    cron: str | None = None
    """Times of the runs, as a cron expression."""
    interval: timedelta | None = None
    """Time between two runs; in the file, a number of seconds."""
    timezone: str | None = None
    """Time zone of the schedule; UTC if ``None``."""
    active: bool = True
    """Whether the schedule is switched on at first."""

    def to_create(self) -> DeploymentScheduleCreate:
        """Return the schedule in the form in which Prefect's API takes it."""
        if self.interval is not None:
            schedule = IntervalSchedule(interval=self.interval, timezone=self.timezone)
        else:
            schedule = CronSchedule(cron=self.cron or "", timezone=self.timezone)
        return DeploymentScheduleCreate(schedule=schedule, active=self.active)


class PoolOfDeployment(_Strict):
    """The work pool and the queue that a deployment's runs go to."""

    name: str
    """Name of the work pool."""
    work_queue_name: str = "default"
    """Name of the queue."""


class Definition(_Strict):
    """A deployment of a flow."""

    name: str
    """Name of the deployment, without that of the flow."""
    entrypoint: str
    """Module path of the flow. A file path would depend on the working folder."""
    description: str
    """Description in the dashboard."""
    tags: list[str]
    """Tags of the deployment and its runs."""
    work_pool: PoolOfDeployment
    """Where the runs go if there is a work pool."""
    schedules: list[Schedule] = []
    """The schedules of a new deployment."""
    concurrency_limit: ConcurrencyLimitConfig | None = None
    """How many runs may execute at the same time; ``None`` for any number."""

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow at the entrypoint, whose module is imported."""
        return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)

    @property
    def full_name(self) -> str:
        """Names of the flow and the deployment, such as ``deliver/default``."""
        return f"{self.flow.name}/{self.name}"

    def parameter_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the flow's parameters.

        With this schema, Prefect's API refuses unknown parameters, which would otherwise crash the
        run, and values that the run would refuse.
        """
        return strict_schema(schema_of(self.flow).model_dump(mode="json", exclude_unset=True))


class WorkQueue(_Strict):
    """A queue of the work pool."""

    name: str
    """Name of the queue."""
    description: str
    """Description in the dashboard."""
    concurrency_limit: int
    """How many runs of the queue may execute at the same time."""
    priority: int
    """Priority of the queue; 1 is the highest."""


class WorkPool(_Strict):
    """The work pool."""

    name: str
    """Name of the work pool."""
    type: Literal["process"]
    """Type of the work pool: its workers execute each run in a process."""
    description: str
    """Description in the dashboard."""


class _Ours(_Strict):
    work_pool: WorkPool
    work_queues: list[WorkQueue]


class Definitions(_Strict):
    """The contents of ``prefect.yaml``."""

    name: str
    """Name of the project."""
    pull: list[Any]
    """Prefect's steps for getting the code; empty, because it is installed with the worker."""
    definitions: _Ours
    """The work pool and its queues."""
    deployments: list[Definition]
    """The deployments."""


@cache
def read_definitions() -> Definitions:
    """Return the contents of ``prefect.yaml``, which is read once per process.

    Raises ``ValidationError`` if the file is invalid.
    """
    return Definitions.model_validate(yaml.safe_load(FILE.read_text()))


@cache
def code_version(checkout: Path = FILE.parents[1]) -> str:
    """Return the version of a checkout: that of the package, and a digest of all Python files."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((checkout / package).rglob("*.py")):
            digest.update(f"{path.relative_to(checkout)}\0".encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
