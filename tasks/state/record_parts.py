"""The parts of a record (``tasks.state.records``). They are immutable, and replaced as a whole."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from faceid.models import RunEnd


class _Part(BaseModel, frozen=True):
    """A part of a record. Parts are immutable, and are replaced as a whole."""


class Intent(_Part, frozen=True):
    """The intent to call the action, kept until the call is answered, refused or withdrawn."""

    window: int
    """Number of the window in which the call is made."""
    at: datetime
    """When the intent was stored (UTC)."""


class Origin(_Part, frozen=True):
    """The deployment and parameters of a run, from which a follow-up can be started."""

    deployment: str
    """Name of the deployment, as ``<flow>/<deployment>``. Its ID would change with a new database
    of the Prefect server."""
    parameters: dict[str, Any] = Field(repr=False)
    """The parameters of the flow run."""
    job_variables: dict[str, Any] | None = Field(default=None, repr=False)
    """The job variables of the flow run, if it has any."""
    work_queue: str | None = None
    """The work queue of the flow run, if it has one."""


class FollowUp(_Part, frozen=True):
    """The run that continues a request, scheduled or about to be scheduled."""

    attempt: int
    """Number of the follow-up among all follow-ups of the request, from 1."""
    previous: str
    """ID of the flow run that the follow-up continues or replaces."""
    due: datetime
    """When the follow-up is to start (UTC)."""
    flow_run_id: str | None = None
    """ID of the follow-up's flow run; ``None`` until Prefect has scheduled it."""


class Backoff(_Part, frozen=True):
    """The successive setbacks of a request, such as outages and runs that died."""

    since: datetime
    """When the first of the setbacks happened (UTC)."""
    count: int = 0
    """Number of setbacks since then, including the first."""


class RunEntry(_Part, frozen=True):
    """A flow run that claimed the request."""

    flow_run_id: str
    """ID of the flow run."""
    window: int
    """Number of the window in which the run ended or, until it ends, in which it began."""
    outcome: RunEnd | None = None
    """How the run ended; ``None`` while it is at work, or if it died and the sweep has not noticed
    it yet."""
    calls: int = 0
    """Number of calls of the target action that the run has sent, as ``Record.calls`` counts."""
