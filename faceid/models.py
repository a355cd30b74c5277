"""Data models of a delivery: request, upload ticket, upload, answer, verdict and result.

All models are frozen. Times are timezone-aware UTC datetimes. Values that grant access to a file or
an account (keys, tokens, presigned URLs) are ``SecretStr``, which prints as asterisks.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from attrs import frozen
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from faceid.errors import KEY_NAMES, ErrorKind, FaceIdError, WindowOver

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
"""How a run ended: with an outcome, because its process died, or because it was cancelled."""

REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
RequestId = Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]

EXPIRY_MARGIN = timedelta(seconds=60)
"""Time that a window must have left before a call, because the action downloads the files during
the call."""

MAX_WINDOWS = 1000
"""Maximum number of windows of a delivery: 1,000 windows of two hours are twelve weeks. (Without a
limit, a number too large for a database column would break the list of runs.)"""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Credentials(_Shape):
    """An API key of the account; a temporary one if it has a ``token``."""

    secret_id: str
    secret_key: SecretStr
    token: SecretStr | None = None
    names: dict[str, str] = KEY_NAMES
    """What to call ``secret_id``, ``secret_key`` and ``token`` in advice to a person, such as the
    variables that they were read from."""


class Request(_Shape):
    """A request to verify one set of files, as the caller gave it.

    ``faceid.validation`` checks it against the table of target actions.
    """

    request_id: RequestId
    target_action: str
    region: str
    resources: dict[str, str] = Field(repr=False)
    """Maps the API's URL fields to locations: local paths or fsspec URLs."""
    action_parameters: dict[str, str] = Field(default={}, repr=False)


class ResourceFile(_Shape):
    """A resource's file, with the size and MD5 that it had when the request was checked."""

    field: str
    location: str = Field(repr=False)
    size: int
    """Size in bytes."""
    md5: str
    """32 hexadecimal digits, as required by the API's ``*Md5`` fields."""


class CheckedRequest(_Shape):
    """A request that is ready to be sent: its parameters and its files have been checked."""

    request: Request
    files: tuple[ResourceFile, ...]
    parameters: dict[str, Any] = Field(repr=False)
    """The target action's parameters as they are sent, without the resources."""

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def target_action(self) -> str:
        return self.request.target_action

    @property
    def region(self) -> str:
        return self.request.region


# The next three are attrs classes and not pydantic models: workflow engines look for dependencies
# inside the models and dataclasses that are passed between tasks, and would take equal strings in
# them for connections. They do not look inside attrs classes.


@frozen
class UploadTicket:
    """An upload ticket: the answer of CreateUploadUrl for one resource."""

    field: str
    upload_url: SecretStr
    resource_url: SecretStr
    issued_at: datetime
    """Time of issue, on the server's clock."""
    expires_at: datetime
    """Deadline for both upload and download, on the server's clock."""
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
    """An uploaded file, which the store keeps until its ticket expires."""

    ticket: UploadTicket
    md5: str
    """32 hexadecimal digits."""

    @property
    def field(self) -> str:
        return self.ticket.field


@frozen
class OpenWindow:
    """The uploads of a request, none of which is about to expire."""

    uploads: tuple[Upload, ...]


class Reply(_Shape):
    """The API's answer to a call: its fields without ``RequestId``, or the code of a verdict.

    ``code`` is set if the service returned the verdict as an error. ``fields`` may hold images of
    faces and other personal data, so it is left out of the representation.
    """

    tencent_request_id: str
    fields: dict[str, Any] = Field(default_factory=dict, repr=False)
    code: str | None = None
    message: str = ""


class Verdict(_Shape):
    """The verdict in an answer. ``passed`` is ``None`` if the action gives no verdict."""

    passed: bool | None
    result: str | None
    description: str | None = None
    similarity: float | None = None
    """Similarity score from 0 to 100; does not determine ``passed``."""


class ResultError(_Shape):
    """The error because of which a request has no verdict."""

    code: str
    message: str
    kind: ErrorKind


class DeliveryResult(_Shape):
    """The result object of a delivery. Contains no secrets."""

    request_id: str
    service: Service
    status: Literal["verdict", "failed", "waiting"]
    target_action: str
    verdict: Verdict | None = None
    error: ResultError | None = None
    tencent_request_ids: list[str] = []
    windows: int = 0
    """Number of windows opened so far."""
    calls: int = 0
    """Number of target-action calls sent, including unanswered but not throttled ones."""
    started_at: datetime
    finished_at: datetime
    flow_run_id: str | None = None


class DeliveryFailed(FaceIdError):
    """Raised when a delivery ends without a verdict; ``result`` is its result object."""

    def __init__(self, result: DeliveryResult) -> None:
        assert result.error is not None
        super().__init__(result.error.code, result.error.message)
        self.result = result

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
