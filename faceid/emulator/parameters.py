"""Checks of an API call's parameters against the table of target actions.

That unknown parameters are refused is documented. The order of the checks is assumed: missing
parameters, unknown parameters, wrong types, wrong values.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from faceid.actions import CREATE_UPLOAD_URL, Parameter, TargetAction
from faceid.emulator.refusals import Refusal

# Lower case is documented; that upper case is accepted, too, is assumed.
_MD5 = re.compile("[0-9A-Fa-f]{32}")
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
        """Check the parameters of a call. Raises ``Refusal`` for the first one that is wrong."""
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
                # documented: a call needs either the URL or the inline field
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
    """Return the refusal of a call that lacks this parameter."""
    return Refusal("MissingParameter", f"The request is missing the parameter `{name}`.")


def wrong_value(name: str) -> Refusal:
    """Return the refusal of a call with a wrong value of this parameter."""
    return Refusal("InvalidParameterValue", f"The value of the parameter `{name}` is wrong.")


def _pattern(parameter: Parameter, given: Mapping[str, Any]) -> str | None:
    """Return the pattern for a parameter's value in a call.

    The pattern is empty if the call may not have the parameter, and ``None`` if any value matches.
    """
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

    ``actions`` has the names of the target actions. Raises ``Refusal`` for the first parameter that
    is wrong; the code for an unknown ``TargetAction`` is assumed.
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
