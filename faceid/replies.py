"""Parsing of replies: the API's JSON envelope, the store's XML errors and an answer's verdict.

These are pure functions of bytes. Every reply of the API becomes either a ``Reply`` (an answer, or
a verdict that came as an error code) or exactly one class of ``faceid.errors``.
"""

from datetime import UTC, datetime
from typing import Any, cast
from xml.etree import ElementTree

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from faceid.actions import TargetAction
from faceid.errors import (
    FaceIdError,
    NoAnswer,
    error_class,
    known_error_class,
    store_error_class,
)
from faceid.models import Reply, UploadTicket, Verdict


def read_reply(status: int, body: bytes, host: str) -> Reply:
    """Parse a reply of the API, and return the answer or the verdict in it.

    ``status`` is the HTTP status; ``host`` is named in errors. Raises the ``FaceIdError`` that
    corresponds to the reply's error code. Raises ``NoAnswer`` for any other reply than the
    documented envelope with status 200: it came from a gateway or was damaged, and it is unknown
    whether the action was executed.
    """
    if status != 200:
        raise NoAnswer(f"HTTP {status}", "the reply came from a gateway, not the API", host=host)
    try:
        response: Any = orjson.loads(body)["Response"]
        request_id = response["RequestId"]
        error: Any = response.get("Error")
        if not isinstance(request_id, str) or not isinstance(error, dict | None):
            raise TypeError
        failure = cast("dict[str, Any] | None", error)
        code, message = (
            (failure["Code"], failure.get("Message", "")) if failure is not None else ("", "")
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NoAnswer(
            "MalformedReply", "the reply does not have the API's format", host=host
        ) from None
    if failure is None:
        fields = {name: value for name, value in response.items() if name != "RequestId"}
        return Reply(tencent_request_id=request_id, fields=fields)
    code, message = str(code), str(message)
    kind = error_class(code)
    if kind is None:
        return Reply(tencent_request_id=request_id, code=code, message=message)
    raise kind(code, message, tencent_request_id=request_id, host=host)


class _TicketFields(BaseModel):
    model_config = ConfigDict(strict=True)

    UploadUrl: str
    ResourceUrl: str
    ExpiredTimestamp: int


def read_ticket(reply: Reply, field: str, *, issued_at: datetime, host: str) -> UploadTicket:
    """Return the upload ticket in a reply of CreateUploadUrl.

    ``field`` is the resource field that the ticket is for, ``issued_at`` the time on the server's
    clock, and ``host`` is named in errors. Raises ``NoAnswer`` if a field of the reply is missing
    or malformed.
    """
    try:
        fields = _TicketFields.model_validate(reply.fields)
        expires_at = datetime.fromtimestamp(fields.ExpiredTimestamp, UTC)
    except (ValidationError, OverflowError, ValueError, OSError):
        raise NoAnswer(
            "MalformedReply",
            "a field in the reply of CreateUploadUrl is missing or malformed",
            tencent_request_id=reply.tencent_request_id,
            host=host,
        ) from None
    return UploadTicket(
        field=field,
        upload_url=SecretStr(fields.UploadUrl),
        resource_url=SecretStr(fields.ResourceUrl),
        issued_at=issued_at,
        expires_at=expires_at,
        tencent_request_id=reply.tencent_request_id,
    )


def read_store_refusal(status: int, body: bytes, host: str) -> FaceIdError:
    """Return the error for a reply of the object store whose HTTP status is not 2xx.

    ``host`` is named in the error. If the body is not the XML of the store, the error's code is
    ``HTTP`` and the status.
    """
    code, message = f"HTTP {status}", "the object store refused the request"
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - expat limits entity expansion
        code = root.findtext("Code") or code
        message = root.findtext("Message") or message
    except ElementTree.ParseError:
        pass  # an HTML page of a gateway, or an empty body
    return store_error_class(status, code, message)(code, message, host=host)


def read_verdict(action: TargetAction, reply: Reply) -> Verdict:
    """Return the verdict in an answer of a target action.

    The service gives a verdict either as an error code or in the field ``Result`` (documented).
    Raises the ``FaceIdError`` that corresponds to a value of ``Result`` if it reports a failure,
    such as an unavailable register or a failed download, and ``NoAnswer`` if the field is missing.
    """
    if reply.code is not None:
        return Verdict(passed=False, result=reply.code, description=reply.message or None)
    if not action.reading.passed:
        return Verdict(passed=None, result=None)
    result = reply.fields.get("Result")
    description = _text(reply.fields.get("Description"))
    if not isinstance(result, str):
        raise NoAnswer(
            "MalformedReply",
            "the answer has no Result",
            tencent_request_id=reply.tencent_request_id,
        )
    if result not in action.reading.passed:
        _raise_unless_verdict(action, reply, result, description or "")
    similarity: Any = reply.fields.get("Sim")
    return Verdict(
        passed=result in action.reading.passed,
        result=result,
        description=description,
        similarity=float(similarity) if isinstance(similarity, int | float) else None,
    )


def _raise_unless_verdict(
    action: TargetAction, reply: Reply, result: str, description: str
) -> None:
    # Not all values of `Result` are documented. Only those that are known to be failures are
    # treated as errors.
    code = action.reading.error_codes.get(result, result)
    kind = known_error_class(code)
    if kind is not None:
        raise kind(code, description, tencent_request_id=reply.tencent_request_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def field_of(reply: Reply, path: str) -> Any:
    """Return the value at a dotted name in an answer, such as ``BestFrame.Url``; else ``None``."""
    value: Any = reply.fields
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(name)
    return value
