"""Reading what the service sent: the API's JSON envelope, the store's XML, an answer's verdict.

Pure functions of bytes. Every reply whatsoever ends as exactly one of: a ``Reply`` (the action
answered, or gave a verdict as an error code), or one class of ``faceid.errors``.

Sources: fact sheet §1 (envelope), §3.5 (store), §0.3 and §6 (verdicts in two channels).
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
    """The API's answer. Raises the error that its code stands for.

    Anything but the documented envelope under HTTP 200 is ``NoAnswer``: a gateway spoke, or the
    answer was damaged, and whether the action was done is unknown.
    """
    if status != 200:
        raise NoAnswer(f"HTTP {status}", "the API did not answer, a gateway did", host=host)
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
        raise NoAnswer("MalformedReply", "the reply is not the API's", host=host) from None
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
    """The upload ticket in a reply of CreateUploadUrl; ``NoAnswer`` where it lacks a field."""
    try:
        fields = _TicketFields.model_validate(reply.fields)
        expires_at = datetime.fromtimestamp(fields.ExpiredTimestamp, UTC)
    except (ValidationError, OverflowError, ValueError, OSError):
        raise NoAnswer(
            "MalformedReply",
            "the reply of CreateUploadUrl lacks a field",
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
    """The error that a reply of the object store other than 2xx stands for."""
    code, message = f"HTTP {status}", "the object store refused"
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - expat itself bounds entity expansion
        code = root.findtext("Code") or code
        message = root.findtext("Message") or message
    except ElementTree.ParseError:
        pass  # a gateway's page, or no body at all
    return store_error_class(status, code, message)(code, message, host=host)


def read_verdict(action: TargetAction, reply: Reply) -> Verdict:
    """The verdict of an answer, whichever of its two channels it came through.

    Raises the error for values of ``Result`` that are no verdicts (a register that is down, a
    download that failed), and ``NoAnswer`` for an answer without the ``Result`` it should have.
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
    # `Result` is an open string: only what is known to be no verdict is treated as an error.
    code = action.reading.error_codes.get(result, result)
    kind = known_error_class(code)
    if kind is not None:
        raise kind(code, description, tencent_request_id=reply.tencent_request_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def field_of(reply: Reply, path: str) -> Any:
    """A field of an answer by its dotted name; ``None`` where the answer has none."""
    value: Any = reply.fields
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(name)
    return value
