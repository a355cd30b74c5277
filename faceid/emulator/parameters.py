"""Checks of an API call's parameters against the table of actions.

That undefined parameters are rejected is documented. The order of the checks is assumed: missing
parameters, unknown parameters, wrong types, wrong values.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from faceid.actions import CREATE_UPLOAD_URL, Parameter, TargetAction
from faceid.emulator.refusals import Refusal

_MD5 = re.compile("[0-9A-Fa-f]{32}")  # documented; upper case is accepted, too (assumed)
_TYPES = {"string": str, "json-text": str, "boolean": bool, "object": dict}


class ParameterCheck:
    """Checks the parameters of the calls of one action."""

    def __init__(self, action: TargetAction) -> None:
        self._action = action
        self._parameters = {parameter.name: parameter for parameter in action.parameters}
        self._texts = {
            name
            for field in action.resources
            for name in (field.name, field.md5_field, field.inline)
            if name
        } | set(action.personal_parameters)

    def check(self, given: Mapping[str, Any]) -> None:
        """Check the parameters of a call. Raises ``Refusal``."""
        for name in self._missing(given):
            raise missing(name)
        for name in given:
            if name not in self._texts and name not in self._parameters:
                raise Refusal("UnknownParameter", f"The parameter `{name}` is not known.")
        for name, value in given.items():
            self._check_type(name, value)
        for name in self._action.md5_fields:
            if name in given and not _MD5.fullmatch(given[name]):
                raise wrong_value(name)
        for name in self._texts:
            if given.get(name) == "":
                raise wrong_value(name)  # assumed
        for parameter in self._parameters.values():
            _check_value(parameter, given)

    def _missing(self, given: Mapping[str, Any]) -> Iterator[str]:
        personal = self._action.personal_parameters
        if not (personal and all(name in given for name in personal)):
            for field in self._action.resources:
                # documented: either the URL or the inline field is required
                if field.required and field.name not in given and field.inline not in given:
                    yield field.name
                if field.md5_field and field.name in given and field.md5_field not in given:
                    yield field.md5_field
        for parameter in self._parameters.values():
            if parameter.name not in given and (parameter.required or _pattern(parameter, given)):
                yield parameter.name

    def _check_type(self, name: str, value: Any) -> None:
        kind = self._parameters[name].type if name in self._parameters else "string"
        if not isinstance(value, _TYPES[kind]):
            raise Refusal("InvalidParameter", f"The parameter `{name}` is not of the right type.")


def missing(name: str) -> Refusal:
    return Refusal("MissingParameter", f"The request is missing the parameter `{name}`.")


def wrong_value(name: str) -> Refusal:
    return Refusal("InvalidParameterValue", f"The value of the parameter `{name}` is wrong.")


def _pattern(parameter: Parameter, given: Mapping[str, Any]) -> str | None:
    """Return the pattern for a value: empty if none is allowed, ``None`` if any value is."""
    on = parameter.depends_on
    return parameter.patterns.get(str(given.get(on, "")) if on else "")


def _check_value(parameter: Parameter, given: Mapping[str, Any]) -> None:
    if parameter.name not in given:
        return
    value, pattern = given[parameter.name], _pattern(parameter, given)
    right = (
        (not parameter.values or value in parameter.values)
        and (pattern is None or re.fullmatch(pattern, value))
        and (parameter.type != "json-text" or _is_json_object(value))
    )
    if not right:
        raise wrong_value(parameter.name)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def check_create_upload_url(given: Mapping[str, Any], actions: Mapping[str, Any]) -> None:
    """Check the parameters of CreateUploadUrl.

    Raises ``Refusal``; its code for an unknown ``TargetAction`` is assumed.
    """
    if "TargetAction" not in given:
        raise missing("TargetAction")
    for name in given:
        if name != "TargetAction":
            raise Refusal(
                "UnknownParameter", f"{CREATE_UPLOAD_URL} does not know the parameter `{name}`."
            )
    if not isinstance(given["TargetAction"], str):
        raise Refusal("InvalidParameter", "The parameter `TargetAction` is not of the right type.")
    if given["TargetAction"] not in actions:
        raise wrong_value("TargetAction")
