"""JSON schemas of the flows' parameters, for the dashboard's form and the checks of Prefect's API.

The schemas are built from the table of target actions. Only the Prefect server applies them. If
pydantic applied them, too, Prefect would crash a run with invalid parameters, whereas the flow
reports a clear message. The flow checks everything again, because some parameters bypass the
schema: those of a schedule, and those of a caller who disables validation.

The form shows an error beside the field that it concerns. Each resource and each parameter of an
action is therefore a separate field.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from faceid.actions import TARGET_ACTIONS, Parameter, ResourceField, TargetAction
from faceid.errors import InvalidInput
from faceid.models import MAX_WINDOWS, REQUEST_ID_PATTERN
from tasks.settings import DeliverySettings

Schema = dict[str, Any]
"""A JSON schema."""

_END = r"$(?!\n)"
"""Pattern for the end of a text; ``$`` alone would also match before a final line break."""

# Anybody who has a URL with a query or a password can read the file, and Prefect's database stores
# parameters in clear text. The pattern recognizes the same URLs as `faceid.files.roots`.
#
# Prefect's message for a value that is refused depends on the keyword. That of `not` would show the
# pattern, and quote the URL with its secret; that of `const` shows only the text below.
_NO_LINK: Schema = {
    "if": {
        "type": "string",
        "pattern": r"^(?!(file|local)://)(?=.*://)(.*?://[^/?#]*@|[^#]*\?)",
    },
    "then": {
        "const": "a location that is not a link with a query or a password, which only a manifest "
        "may contain"
    },
}


def _text(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


RequestIdText = Annotated[str, _text(pattern=REQUEST_ID_PATTERN.replace("$", _END))]
"""Type of request IDs."""
# An opening brace is only allowed in {date}.
ManifestText = Annotated[str, _text(pattern=rf"^([^{{\x00-\x1f]|{{date}})+{_END}", **_NO_LINK)]
"""Type of locations of manifests."""
FolderText = Annotated[str, _text(pattern=rf"^[^\x00-\x1f]*{_END}", **_NO_LINK)]
"""Type of locations of folders, which may be empty."""
# Prefect allows these characters in names of blocks.
BlockName = Annotated[str, _text(pattern=rf"^[a-z0-9-]*{_END}")]
"""Type of names of credentials blocks, which may be empty."""
MaxWindows = Annotated[int, Field(ge=1, le=MAX_WINDOWS)]
"""Type of the largest number of windows that a request may use."""


_NEEDED = ("request_id", "target_action", "region", "resources", "manifest")
"""Parameters that the form and the API require.

They have a default in Python, because a schedule can be created without parameters, and its run
should then report what is missing.
"""


def _known_actions() -> Mapping[str, TargetAction]:
    """Return the target actions, including those of ``FACEID_ACTIONS``.

    If the settings are invalid, these are the built-in target actions, so that the flows can still
    be imported. Their runs then report what is wrong.
    """
    try:
        return DeliverySettings.load().target_actions()
    except InvalidInput:
        return TARGET_ACTIONS


def strict_schema(schema: Schema) -> Schema:
    """Return the schema that a flow's deployment should have, given Prefect's schema of the flow.

    The returned schema accepts no unknown parameters. It accepts the resources and parameters of a
    target action only together with that action.
    """
    properties = {
        name: {
            key: value for key, value in field.items() if key != "default" or name not in _NEEDED
        }
        for name, field in schema.get("properties", {}).items()
    }
    rules = [_rule(action) for action in _ACTIONS.values()] if "target_action" in properties else []
    return {
        **schema,
        "properties": properties,
        "required": [name for name in _NEEDED if name in properties],
        "additionalProperties": False,
        **({"allOf": rules} if rules else {}),
    }


def _rule(action: TargetAction) -> Schema:
    """Return a rule about the other fields that applies if this action is chosen."""
    needed = [parameter.name for parameter in action.parameters if parameter.required]
    fields: Schema = {
        "region": {"enum": sorted(action.regions)},
        "resources": {
            "propertyNames": {"enum": [field.name for field in action.resources]},
            "required": [field.name for field in action.resources if field.required],
        },
        "action_parameters": {
            "allOf": [
                {
                    "propertyNames": {"enum": [parameter.name for parameter in action.parameters]},
                    "required": needed,
                },
                *(rule for parameter in action.parameters for rule in _dependent(parameter)),
            ],
        },
    }
    then = {"properties": fields, "required": ["action_parameters"] if needed else []}
    return _where("target_action", action.name, then)


def _dependent(parameter: Parameter) -> Iterable[Schema]:
    """Yield a rule about a parameter for each value of the parameter that it depends on."""
    for value, pattern in parameter.patterns.items():
        if parameter.depends_on:
            own = {parameter.name: {"pattern": f"^({pattern}){_END}"}}
            needed = [parameter.name] if pattern else []
            yield _where(parameter.depends_on, value, {"properties": own, "required": needed})


def _where(name: str, value: str, then: Schema) -> Schema:
    # Without the double negation, the condition would also hold if the value is missing. Adding
    # `required` would not help, because Prefect removes `required` from a schema when it checks a
    # deployment's defaults.
    return {"if": {"not": {"properties": {name: {"not": {"const": value}}}}}, "then": then}


def _resource(fields: list[ResourceField]) -> Schema:
    formats = dict.fromkeys(name for field in fields for name in field.formats)
    return {"description": ", ".join(formats), "pattern": f"^[^\\x00-\\x1f]+{_END}", **_NO_LINK}


def _parameter(parameters: list[Parameter]) -> Schema:
    values = dict.fromkeys(value for one in parameters for value in one.values)
    if all(one.type == "boolean" for one in parameters):
        values = ("true", "false")
    is_json = any(one.type in ("object", "json-text") for one in parameters)
    said = parameters[0].expects or ("a JSON object" if is_json else "")
    return {
        "description": said[:1].upper() + said[1:],
        **({"enum": list(values)} if values else {}),
    }


def _depends(member: Parameter | ResourceField) -> bool:
    return isinstance(member, Parameter) and member.depends_on is not None


def _form(
    members: Callable[[TargetAction], Iterable[Any]], describe: Callable[[list[Any]], Schema]
) -> Any:
    """Return the schema of an object with a field for each resource or parameter of any action.

    ``members`` returns the resources or the parameters of an action, and ``describe`` the schema
    of a field. The description of a field names the actions that have the field.
    """
    found: dict[str, dict[str, Any]] = {}
    for action in _ACTIONS.values():
        for member in members(action):
            more = "" if member.required or _depends(member) else " (optional)"
            found.setdefault(member.name, {})[action.name + more] = member
    properties: Schema = {}
    for position, (name, wanted) in enumerate(found.items()):
        own = describe(list(wanted.values()))
        said = [own.pop("description"), f"For {', '.join(wanted)}."]
        properties[name] = {
            "type": "string",
            "title": name,
            "position": position,
            "description": ". ".join(filter(None, said)),
            **own,
        }
    # Prefect allows null for optional properties, whatever their type, but not for properties with
    # a pattern. `patternProperties` therefore excludes null.
    return _text(properties=properties, patternProperties={"": {"type": "string"}})


_ACTIONS = _known_actions()

if TYPE_CHECKING:
    TargetActionName = str
    Region = str
else:
    # The dashboard's form shows a Literal as a drop-down list.
    TargetActionName = Literal[tuple(_ACTIONS)]
    Region = Literal[
        tuple(sorted({region for action in _ACTIONS.values() for region in action.regions}))
    ]

Resources = Annotated[dict[str, str], _form(lambda action: action.resources, _resource)]
"""Type of resources: a mapping of resource fields to locations."""
ActionParameters = Annotated[dict[str, str], _form(lambda action: action.parameters, _parameter)]
"""Type of action parameters: a mapping of names to values, all as text."""
