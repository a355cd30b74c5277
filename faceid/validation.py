"""Validation of a request before anything is sent: its fields, its parameters and its files."""

from collections.abc import Mapping
from typing import Any, Self

from attrs import frozen
from pydantic import ValidationError

from faceid.actions import TargetAction, check_parameters, find_action
from faceid.errors import InvalidInput, reason_of
from faceid.files.roots import Roots
from faceid.files.sources import Patience, measure_source
from faceid.models import CheckedRequest, Request
from faceid.settings import FaceIdSettings


def read_request(**fields: Any) -> Request:
    """Return a ``Request`` with a caller's fields.

    Raises ``InvalidInput``, naming the field, if a field is missing, unknown or malformed.
    """
    try:
        return Request(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        reason = "must be a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -"
        if name != "request_id":
            reason = reason_of(first)
        raise InvalidInput("InvalidRequest", f"{name}: {reason}") from None


@frozen
class ValidatedRequest:
    """A request that has passed every check except those of its files."""

    request: Request
    """The request as the caller gave it."""
    action: TargetAction
    """The target action of the request."""
    parameters: dict[str, Any]
    """The target action's parameters as they are sent, without the resources."""
    locations: dict[str, str]
    """Maps resource fields to locations that ``faceid.files.resources.open_location`` accepts."""


@frozen
class RequestValidator:
    """Validates requests against the table of target actions and the resource roots.

    The table and the roots are loaded once for many requests. Create a new validator for each pass
    over a manifest, because ``roots`` caches where symbolic links lead.
    """

    actions: Mapping[str, TargetAction]
    """The target actions, by name."""
    roots: Roots
    """The roots that locations may point into."""
    from_manifest: bool
    """Whether the requests come from a manifest. Such requests may contain secrets, because they
    are kept in a file of the caller and not in a database: locations may be presigned URLs (with a
    query or user info), and parameters may contain personal data."""

    @classmethod
    def load(cls, settings: FaceIdSettings, *, from_manifest: bool = False) -> Self:
        """Create a validator from the settings.

        Raises ``InvalidInput`` if the file of ``FACEID_ACTIONS`` cannot be read or is invalid.
        """
        return cls(settings.target_actions(), settings.roots(), from_manifest)

    def check(self, request: Request, base: str = "") -> ValidatedRequest:
        """Check everything about a request except its files, and open no file.

        Relative locations are resolved against the folder or URL ``base``, or against the working
        folder if ``base`` is empty. Raises ``InvalidInput``, which says what is wrong, where, and
        what is expected.
        """
        action = find_action(request.target_action, self.actions)
        if not request.region:
            raise InvalidInput(
                "UnsupportedRegion",
                f"the region is missing: {action.name} can be used in {', '.join(action.regions)}",
            )
        if request.region not in action.regions:
            raise InvalidInput(
                "UnsupportedRegion",
                f"region {request.region!r} is not supported: {action.name} can be used in "
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
    """Return the names of an action's parameters with personal data, including inline files.

    These parameters are accepted only from a manifest.
    """
    inline = [field.inline for field in action.resources if field.inline]
    own = {parameter.name for parameter in action.parameters}
    return frozenset((*action.personal_parameters, *inline)) - own


def validate_request(
    request: Request, settings: FaceIdSettings, *, from_manifest: bool = False
) -> ValidatedRequest:
    """Check everything about one request except its files, and open no file.

    Relative locations are resolved against the working folder. Raises ``InvalidInput``, which says
    what is wrong, where, and what is expected.
    """
    return RequestValidator.load(settings, from_manifest=from_manifest).check(request)


async def check_files(validated: ValidatedRequest, patience: Patience) -> CheckedRequest:
    """Read each file of a request, check its size and format, and return the checked request.

    This reads the files completely, one after the other. Raises ``InvalidInput``, naming the field,
    if a file cannot be read, takes too long or is not accepted.
    """
    files = [
        await measure_source(field, validated.locations[field.name], patience)
        for field in validated.action.resources
        if field.name in validated.locations
    ]
    return CheckedRequest(
        request=validated.request, files=tuple(files), parameters=validated.parameters
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
            f"{action.name} has no resource {name}: it takes {_wanted(action)}",
        )
    for field in action.resources:
        if field.required and field.name not in resources:
            raise InvalidInput(
                "MissingResource",
                f"resource {field.name} is missing: {action.name} takes {_wanted(action)}",
            )


def _wanted(action: TargetAction) -> str:
    return ", ".join(
        field.name if field.required else f"{field.name} (optional)" for field in action.resources
    )
