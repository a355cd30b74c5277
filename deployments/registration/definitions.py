"""The content of ``deployments/prefect.yaml``.

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
PACKAGES = ("faceid", "tasks", "flows", "deployments")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Strict):
    """A schedule that a new deployment gets."""

    cron: str | None = None
    interval: timedelta | None = None
    timezone: str | None = None
    active: bool = True

    def to_create(self) -> DeploymentScheduleCreate:
        if self.interval is not None:
            schedule = IntervalSchedule(interval=self.interval, timezone=self.timezone)
        else:
            schedule = CronSchedule(cron=self.cron or "", timezone=self.timezone)
        return DeploymentScheduleCreate(schedule=schedule, active=self.active)


class PoolOfDeployment(_Strict):
    """The work pool and the queue that a deployment's runs go to."""

    name: str
    work_queue_name: str = "default"


class Definition(_Strict):
    """A deployment of a flow."""

    name: str
    entrypoint: str
    """A module path, because a file path would depend on the working folder."""
    description: str
    tags: list[str]
    work_pool: PoolOfDeployment
    schedules: list[Schedule] = []
    concurrency_limit: ConcurrencyLimitConfig | None = None

    @property
    def flow(self) -> Flow[..., Any]:
        return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)

    @property
    def full_name(self) -> str:
        """Flow name and deployment name, such as ``deliver/default``."""
        return f"{self.flow.name}/{self.name}"

    def parameter_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the flow's parameters.

        It is closed: the API refuses unknown names, which would otherwise crash the run, and the
        values that the run would refuse.
        """
        return strict_schema(schema_of(self.flow).model_dump(mode="json", exclude_unset=True))


class WorkQueue(_Strict):
    name: str
    description: str
    concurrency_limit: int
    priority: int


class WorkPool(_Strict):
    name: str
    type: Literal["process"]
    description: str


class _Ours(_Strict):
    work_pool: WorkPool
    work_queues: list[WorkQueue]


class Definitions(_Strict):
    """The whole of ``prefect.yaml``."""

    name: str
    pull: list[Any]
    definitions: _Ours
    deployments: list[Definition]


@cache
def read_definitions() -> Definitions:
    """Read ``prefect.yaml``, once per process. Raises ``ValidationError`` if it is invalid."""
    return Definitions.model_validate(yaml.safe_load(FILE.read_text()))


@cache
def code_version(checkout: Path = FILE.parents[1]) -> str:
    """Return the version of a checkout: the package's version and a digest of its Python files."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((checkout / package).rglob("*.py")):
            digest.update(f"{path.relative_to(checkout)}\0".encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
