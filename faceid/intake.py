"""Checking a request whole, before anything is sent: its form, its parameters, its files."""

from typing import Any

from attrs import frozen
from pydantic import ValidationError

from faceid.actions import TargetAction, check_parameters, find_action
from faceid.errors import InvalidInput
from faceid.models import CheckedRequest, Request
from faceid.resources import measure, resolve_location
from faceid.settings import FaceIdSettings


def read_request(**fields: Any) -> Request:
    """A ``Request`` from what a caller gave. Raises ``InvalidInput`` that names the field."""
    try:
        return Request(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        reason = "must be a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -"
        if name != "request_id":
            reason = first["msg"]
        raise InvalidInput("InvalidRequest", f"{name}: {reason}") from None


@frozen
class Form:
    """A request of which everything was checked but its files."""

    request: Request
    action: TargetAction
    parameters: dict[str, Any]
    """As they are sent."""
    locations: dict[str, str]
    """By field, as ``faceid.resources.open_location`` takes them."""


def check_form(request: Request, settings: FaceIdSettings) -> Form:
    """Checks what can be checked without opening a file.

    Raises ``InvalidInput`` that says what, where and what would be right.
    """
    action = find_action(request.target_action, settings.target_actions())
    if request.region not in action.regions:
        raise InvalidInput(
            "UnsupportedRegion",
            f"region {request.region!r}: {action.name} can be used in {', '.join(action.regions)}",
        )
    _check_fields(action, request.resources)
    return Form(
        request=request,
        action=action,
        parameters=check_parameters(action, request.action_parameters),
        locations={
            name: resolve_location(name, location, settings.resource_roots)
            for name, location in request.resources.items()
        },
    )


def check_files(form: Form) -> CheckedRequest:
    """Opens each file and measures it, once.

    Reads them whole: call it from a worker thread. Raises ``InvalidInput`` by the field.
    """
    return CheckedRequest(
        request=form.request,
        files=tuple(
            measure(field, form.locations[field.name])
            for field in form.action.resources
            if field.name in form.locations
        ),
        parameters=form.parameters,
    )


def _check_fields(action: TargetAction, resources: dict[str, str]) -> None:
    wanted = ", ".join(
        field.name if field.required else f"{field.name} (optional)" for field in action.resources
    )
    for name in resources:
        if name in action.md5_fields:
            raise InvalidInput(
                "InvalidResource", f"resource {name} is computed from the file; leave it out"
            )
        if action.resource(name) is None:
            raise InvalidInput(
                "InvalidResource", f"resource {name} is none of {action.name}: it wants {wanted}"
            )
    for field in action.resources:
        if field.required and field.name not in resources:
            raise InvalidInput(
                "MissingResource", f"resource {field.name} is missing: {action.name} wants {wanted}"
            )
