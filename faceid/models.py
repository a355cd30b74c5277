"""The shapes that go from step to step: request, upload ticket, upload, answer, verdict, result.

All are frozen. Times are aware UTC datetimes. Whatever opens a file or an account is a
``SecretStr``: it prints as stars and has to be asked for by name.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from attrs import frozen
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from faceid.errors import ErrorKind, FaceIdError, WindowOver

Service = Literal["live", "emulator"]
Outcome = Literal[
    "verdict",
    "rerequested",
    "invalid-input",
    "unavailable",
    "windows-used-up",
    "outcome-unknown",
]
RunEnd = Outcome | Literal["crashed", "cancelled"]
"""An outcome, or one of Prefect's own ends: the run died, or a person cancelled it."""

REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
RequestId = Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]

MAX_WINDOWS = 1000
"""Twelve weeks. (A number that is too big for the database would break its list of runs.)"""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Credentials(_Shape):
    """An API key of the account; with ``token`` a temporary one."""

    secret_id: str
    secret_key: SecretStr
    token: SecretStr | None = None


class Request(_Shape):
    """One thing to be verified, as the caller gave it. Checked by ``faceid.validation``."""

    request_id: RequestId
    target_action: str
    region: str
    resources: dict[str, str] = Field(repr=False)
    """The API's URL field to a location: a local path or any fsspec URL."""
    action_parameters: dict[str, str] = Field(default={}, repr=False)


class ResourceFile(_Shape):
    """A file that was opened and measured once, when the input was checked."""

    field: str
    location: str = Field(repr=False)
    size: int
    """Bytes."""
    md5: str
    """32 hexadecimal digits, as the API's ``*Md5`` fields want it."""


class CheckedRequest(_Shape):
    """A request that may be sent: everything about it that can be checked was checked."""

    request: Request
    files: tuple[ResourceFile, ...]
    parameters: dict[str, Any] = Field(repr=False)
    """The target action's parameters as they are sent, files excepted."""

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def target_action(self) -> str:
        return self.request.target_action

    @property
    def region(self) -> str:
        return self.request.region


# The next three are handed from task to task, and so are attrs classes and no pydantic models:
# Prefect looks into models and dataclasses, and draws an edge for every string in them that it
# has seen before. What it cannot look into, it knows by itself alone.


@frozen
class UploadTicket:
    """What CreateUploadUrl gave for one resource."""

    field: str
    upload_url: SecretStr
    resource_url: SecretStr
    issued_at: datetime
    """On the server's clock."""
    expires_at: datetime
    """On the server's clock: the same deadline for upload and download."""
    tencent_request_id: str

    def require_open(self, now: datetime, margin: timedelta) -> None:
        """Raises ``WindowOver`` when no more than the margin is left of the ticket's life.

        Args:
            now: The time on the server's clock.
            margin: What must be left for the work to come; never more than a tenth of the
                ticket's life is asked for.
        """
        needed = min(margin, (self.expires_at - self.issued_at) / 10)
        left = self.expires_at - now
        if left <= needed:
            raise WindowOver(
                "WindowOver",
                f"resource {self.field}: the upload ticket has {max(left.total_seconds(), 0):.0f} "
                f"seconds left, and more than {needed.total_seconds():.0f} are needed",
            )


@frozen
class Upload:
    """A file that stands in the store until its ticket expires."""

    ticket: UploadTicket
    md5: str
    """32 hexadecimal digits."""

    @property
    def field(self) -> str:
        return self.ticket.field


@frozen
class OpenWindow:
    """The uploads of a request, all of which have enough of their life left."""

    uploads: tuple[Upload, ...]


class Reply(_Shape):
    """The API's answer to a call: the fields beside ``RequestId``, or a verdict's code.

    ``code`` is set when the verdict came as an error. ``fields`` may carry faces and people's
    data: it is never printed.
    """

    tencent_request_id: str
    fields: dict[str, Any] = Field(default_factory=dict, repr=False)
    code: str | None = None
    message: str = ""


class Verdict(_Shape):
    """The reading of an answer. ``passed`` is null where the action gives no verdict."""

    passed: bool | None
    result: str | None
    description: str | None = None
    similarity: float | None = None
    """0 to 100; says nothing about ``passed``."""


class ResultError(_Shape):
    """Why a request has no verdict."""

    code: str
    message: str
    kind: ErrorKind


class DeliveryResult(_Shape):
    """The result object of a delivery (design §5.5). Holds nothing secret."""

    request_id: str
    service: Service
    status: Literal["verdict", "failed", "waiting"]
    target_action: str
    verdict: Verdict | None = None
    error: ResultError | None = None
    tencent_request_ids: list[str] = []
    windows: int = 0
    """The last window's number."""
    calls: int = 0
    """Target-action requests sent and not throttled, unanswered ones included."""
    started_at: datetime
    finished_at: datetime
    flow_run_id: str | None = None


class DeliveryFailed(FaceIdError):
    """A delivery that ended without a verdict; ``result`` is its result object."""

    def __init__(self, result: DeliveryResult) -> None:
        assert result.error is not None
        super().__init__(result.error.code, result.error.message)
        self.result = result

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
