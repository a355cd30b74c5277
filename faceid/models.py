"""Data models of a delivery: request, upload ticket, upload, answer, verdict and result.

All models are frozen. Times are timezone-aware UTC datetimes. Values that grant access to a file or
an account (keys, tokens, presigned URLs) are ``SecretStr``, which prints as asterisks.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from attrs import frozen
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from faceid.errors import KEY_NAMES, ErrorKind, FaceIdError, WindowOver

Service = Literal["live", "emulator"]
"""The service that a request is delivered to: the vendor's, or an emulator of it."""
Outcome = Literal[
    "verdict",
    "rerequested",
    "invalid-input",
    "unavailable",
    "windows-used-up",
    "outcome-unknown",
]
"""Outcome of a run: a verdict, a request that is left to a later run (``rerequested``), or the
reason why the request failed."""
RunEnd = Outcome | Literal["crashed", "cancelled"]
"""How a run ended: with an outcome, because its process died, or because it was cancelled."""

REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Regular expression for request IDs."""
RequestId = Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]
"""A request ID that matches the pattern."""

EXPIRY_MARGIN = timedelta(seconds=60)
"""Time that a window must have left before a call, because the action downloads the files during
the call."""

MAX_WINDOWS = 1000
"""Largest number of windows that a caller may allow for a request: 1,000 windows of two hours are
twelve weeks. (Without a limit, a number that is too large for a column of Prefect's database would
break the list of runs.)"""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def check_key_part(value: Any) -> Any:
    """Return a secret ID, secret key or token without blanks and line breaks at its ends.

    Raises ``ValueError``, without the value, if it has characters that cannot be sent in a header.
    """
    is_secret = isinstance(value, SecretStr)
    text = value.get_secret_value() if is_secret else value
    if not isinstance(text, str):
        return value
    text = text.strip()
    if not all(" " < character <= "~" for character in text):
        raise ValueError("must consist of printable ASCII characters, without blanks")
    return SecretStr(text) if is_secret else text


class Credentials(_Shape):
    """An API key of the account."""

    secret_id: str
    """The key's ID, which is sent with every call."""
    secret_key: SecretStr
    """The secret that signs the calls."""
    token: SecretStr | None = None
    names: dict[str, str] = KEY_NAMES
    """What to call ``secret_id``, ``secret_key`` and ``token`` in advice to a person, such as the
    variables that they were read from."""

    _no_stray_characters = field_validator("secret_id", "secret_key", "token", mode="before")(
        check_key_part
    )


class Request(_Shape):
    """A request to verify one set of files, as the caller gave it.

    ``faceid.validation`` checks it against the table of target actions.
    """

    request_id: RequestId
    """The caller's ID for the request. A request with the same ID and input is delivered once."""
    target_action: str
    """Name of the action that judges the files."""
    region: str
    """Region in which the files are uploaded and the action is called."""
    resources: dict[str, str] = Field(repr=False)
    """Maps the action's resource fields, such as ``ImageUrl``, to locations: local paths or fsspec
    URLs."""
    action_parameters: dict[str, str] = Field(default={}, repr=False)
    """Maps the action's other parameters to their values, all as text."""


class ResourceFile(_Shape):
    """A resource's file, with the size and MD5 that it had when the request was checked."""

    field: str
    """Name of the resource field, such as ``ImageUrl``."""
    location: str = Field(repr=False)
    """Absolute path or fsspec URL of the file."""
    size: int
    """Size in bytes."""
    md5: str
    """32 hexadecimal digits, as required by the API's ``*Md5`` fields."""


class CheckedRequest(_Shape):
    """A request that is ready to be sent: its parameters and its files have been checked."""

    request: Request
    """The request as the caller gave it."""
    files: tuple[ResourceFile, ...]
    """The file of each resource."""
    parameters: dict[str, Any] = Field(repr=False)
    """The target action's parameters as they are sent, without the resources."""

    @property
    def request_id(self) -> str:
        """The caller's ID for the request."""
        return self.request.request_id

    @property
    def target_action(self) -> str:
        """Name of the action that judges the files."""
        return self.request.target_action

    @property
    def region(self) -> str:
        """Region in which the files are uploaded and the action is called."""
        return self.request.region


# The next three classes are attrs classes and not pydantic models. Prefect looks for dependencies
# between tasks inside the models and dataclasses that are passed to them, and would take equal
# strings in two of them for a dependency. It does not look inside attrs classes.


@frozen
class UploadTicket:
    """An upload ticket: the answer of CreateUploadUrl for one resource."""

    field: str
    """Name of the resource field that the ticket was requested for."""
    upload_url: SecretStr
    """Presigned URL that takes the file with a PUT."""
    resource_url: SecretStr
    """Presigned URL of the uploaded file, which is given to the target action."""
    issued_at: datetime
    """Time of issue, on the server's clock."""
    expires_at: datetime
    """Time until which both URLs are valid, on the server's clock (documented)."""
    tencent_request_id: str
    """The service's ID of the call that returned the ticket."""

    def require_open(self, now: datetime, margin: timedelta) -> None:
        """Raise ``WindowOver`` unless the ticket is valid for longer than a margin.

        ``now`` is the time on the server's clock. ``margin`` is the time that the following work
        needs; a margin of more than a tenth of the ticket's lifetime is reduced to that.
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
    """An uploaded file, which the store keeps until the window is over (documented)."""

    ticket: UploadTicket
    """The ticket that the file was uploaded with."""
    md5: str
    """MD5 of the file, 32 hexadecimal digits."""

    @property
    def field(self) -> str:
        """Name of the resource field, such as ``ImageUrl``."""
        return self.ticket.field


@frozen
class OpenWindow:
    """The uploads of a request, which have been found to be valid for long enough for the call."""

    uploads: tuple[Upload, ...]
    """One upload for each resource of the request."""


class Reply(_Shape):
    """The API's answer to a call: either its fields, or a verdict that came as an error code."""

    tencent_request_id: str
    """The service's ID of the call, from the field ``RequestId``."""
    fields: dict[str, Any] = Field(default_factory=dict, repr=False)
    """The other fields of the answer; empty if ``code`` is set. They may contain images of faces
    and other personal data, so the representation omits them."""
    code: str | None = None
    """The error code that is the verdict; ``None`` if the answer has fields."""
    message: str = ""
    """The service's message for ``code``."""


class Verdict(_Shape):
    """The verdict in an answer."""

    passed: bool | None
    """Whether the verdict is positive; ``None`` if the action gives no verdict."""
    result: str | None
    """The error code or value of ``Result`` that is the verdict; ``None`` if the action gives no
    verdict."""
    description: str | None = None
    """The service's description of the verdict, if there is one."""
    similarity: float | None = None
    """Similarity of the faces from 0 to 100 (documented), if the answer states it. It does not
    determine ``passed``."""


class ResultError(_Shape):
    """The error because of which a request has no verdict."""

    code: str
    """The service's error code, or one of ours."""
    message: str
    """Description of the error in one line, with advice."""
    kind: ErrorKind
    """The kind of the error, which determines the outcome of the run."""


class DeliveryResult(_Shape):
    """The result object of a delivery. It covers all runs of the request and has no secrets."""

    request_id: str
    """The caller's ID for the request."""
    service: Service
    """The service that the request was delivered to. An emulator's verdict is not a real one."""
    status: Literal["verdict", "failed", "waiting"]
    """Whether the request has its verdict, has failed, or is left to a later run."""
    target_action: str
    """Name of the action that judges the files."""
    verdict: Verdict | None = None
    """The verdict; ``None`` unless ``status`` is ``verdict``."""
    error: ResultError | None = None
    """Why the request failed; ``None`` unless ``status`` is ``failed``."""
    tencent_request_ids: list[str] = []
    """The service's IDs of the calls for the request, oldest first."""
    windows: int = 0
    """Number of windows opened so far."""
    calls: int = 0
    """Number of calls of the target action so far. Calls that were not answered count, throttled
    calls do not."""
    started_at: datetime
    """When the current run began to deliver the request."""
    finished_at: datetime
    """When the current run ended its work on the request."""
    flow_run_id: str | None = None
    """ID of the current flow run."""


class DeliveryFailed(FaceIdError):
    """Raised when a delivery has failed. ``result`` is its result object."""

    def __init__(self, result: DeliveryResult) -> None:
        assert result.error is not None
        super().__init__(result.error.code, result.error.message)
        self.result = result

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
