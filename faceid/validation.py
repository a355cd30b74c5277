"""Checking a request whole, before anything is sent: its form, its parameters, its files."""

from collections.abc import Mapping
from typing import Any, Self

from attrs import frozen
from pydantic import ValidationError

from faceid.actions import TargetAction, check_parameters, find_action
from faceid.errors import InvalidInput
from faceid.files.resources import measure
from faceid.files.roots import Roots
from faceid.models import CheckedRequest, Request
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
class ValidatedRequest:
    """A request of which everything was checked but its files."""

    request: Request
    action: TargetAction
    parameters: dict[str, Any]
    """As they are sent."""
    locations: dict[str, str]
    """By field, as ``faceid.files.resources.open_location`` takes them."""


@frozen
class RequestValidator:
    """What the form of requests is checked against, read once for many of them.

    Make new ones for each pass: see ``Roots``.
    """

    actions: Mapping[str, TargetAction]
    roots: Roots
    from_manifest: bool
    """Then a request stands in a file of the caller's, and not in Prefect's database, and may say
    more: a location may have a query or user info (a presigned link), and parameters may carry a
    person's data."""

    @classmethod
    def load(cls, settings: FaceIdSettings, *, from_manifest: bool = False) -> Self:
        """Raises ``InvalidInput`` when ``FACEID_ACTIONS`` is wrong."""
        return cls(settings.target_actions(), settings.roots(), from_manifest)

    def check(self, request: Request, base: str = "") -> ValidatedRequest:
        """As ``validate_request``; relative locations start from the folder ``base``."""
        action = find_action(request.target_action, self.actions)
        if request.region not in action.regions:
            raise InvalidInput(
                "UnsupportedRegion",
                f"region {request.region!r}: {action.name} can be used in "
                f"{', '.join(action.regions)}",
            )
        _check_fields(action, request.resources)
        return ValidatedRequest(
            request=request,
            action=action,
            parameters=self._check_parameters(action, request.action_parameters),
            locations={
                name: self.roots.resolve(
                    f"resource {name}", location, base=base, links=self.from_manifest
                )
                for name, location in request.resources.items()
            },
        )

    def _check_parameters(self, action: TargetAction, given: dict[str, str]) -> dict[str, Any]:
        personal = personal_parameters(action) if self.from_manifest else frozenset[str]()
        try:
            checked = check_parameters(
                action, {name: value for name, value in given.items() if name not in personal}
            )
        except RecursionError:
            raise InvalidInput(
                "InvalidParameterValue", "a parameter is nested too deeply"
            ) from None
        return checked | {n: value for n, value in given.items() if n in personal and value}


def personal_parameters(action: TargetAction) -> frozenset[str]:
    """The parameters that carry a person's data: taken from a manifest only."""
    inline = [field.inline for field in action.resources if field.inline]
    own = {parameter.name for parameter in action.parameters}
    return frozenset((*action.personal_parameters, *inline)) - own


def validate_request(
    request: Request, settings: FaceIdSettings, *, from_manifest: bool = False
) -> ValidatedRequest:
    """Checks what can be checked without opening a file.

    Raises ``InvalidInput`` that says what, where and what would be right.
    """
    return RequestValidator.load(settings, from_manifest=from_manifest).check(request)


def check_files(validated: ValidatedRequest) -> CheckedRequest:
    """Opens each file and measures it, once.

    Reads them whole: call it from a worker thread. Raises ``InvalidInput`` by the field.
    """
    return CheckedRequest(
        request=validated.request,
        files=tuple(
            measure(field, validated.locations[field.name])
            for field in validated.action.resources
            if field.name in validated.locations
        ),
        parameters=validated.parameters,
    )


def _check_fields(action: TargetAction, resources: dict[str, str]) -> None:
    for name in resources:
        if action.resource(name) is not None:
            continue
        if name in action.md5_fields:
            raise InvalidInput(
                "InvalidResource", f"resource {name} is computed from the file; leave it out"
            )
        raise InvalidInput(
            "InvalidResource",
            f"resource {name} is none of {action.name}: it wants {_wanted(action)}",
        )
    for field in action.resources:
        if field.required and field.name not in resources:
            raise InvalidInput(
                "MissingResource",
                f"resource {field.name} is missing: {action.name} wants {_wanted(action)}",
            )


def _wanted(action: TargetAction) -> str:
    return ", ".join(
        field.name if field.required else f"{field.name} (optional)" for field in action.resources
    )
