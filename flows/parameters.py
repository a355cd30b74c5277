"""What the dashboard's form offers, and what the API refuses before there is a run.

JSON schema that the server alone reads, made from the table of target actions. Python has no part
in it: its refusal would be a run that Prefect fails with words of its own, where the flow has a
clear line to say. What comes past the schema (a schedule's parameters, a caller who switches it
off) the flow checks again.

The form shows an error beside the field that it is about, and so each resource and each parameter
of an action has a field of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from faceid.actions import TARGET_ACTIONS, Parameter, ResourceField, TargetAction
from faceid.errors import InvalidInput
from faceid.models import MAX_WINDOWS, REQUEST_ID_PATTERN
from faceid.settings import FaceIdSettings

Schema = dict[str, Any]

_END = r"$(?!\n)"
"""The end of a text: ``$`` alone lets a line break follow."""

# It opens the file to whoever reads it, and parameters stand in clear in Prefect's database. What a
# link is, and what is in it, is as `faceid.files.resources` sees it.
_NO_LINK: Schema = {
    "not": {
        "description": "a link with a query or a password",
        "type": "string",
        "pattern": r"^(?!(file|local)://)(?=.*://)(.*?://[^/?#]*@|[^#]*\?)",
    }
}


def _text(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


RequestIdText = Annotated[str, _text(pattern=REQUEST_ID_PATTERN.replace("$", _END))]
# braces are for the date alone
ManifestText = Annotated[str, _text(pattern=rf"^([^{{\x00-\x1f]|{{date}})+{_END}", **_NO_LINK)]
FolderText = Annotated[str, _text(pattern=rf"^[^\x00-\x1f]*{_END}", **_NO_LINK)]
# as Prefect lets blocks be named
BlockName = Annotated[str, _text(pattern=rf"^[a-z0-9-]*{_END}")]
MaxWindows = Annotated[int, Field(ge=1, le=MAX_WINDOWS)]


_NEEDED = ("request_id", "target_action", "region", "resources", "manifest")
"""The form and the API ask for them. To Python they have a default: a schedule may be made without
parameters, and its run is to say what is missing."""


def _known_actions() -> Mapping[str, TargetAction]:
    """The table of target actions, with what FACEID_ACTIONS adds to it.

    Settings that are wrong do not keep a flow from being imported: its run says what is wrong.
    """
    try:
        return FaceIdSettings.load().target_actions()
    except InvalidInput:
        return TARGET_ACTIONS


def strict_schema(schema: Schema) -> Schema:
    """The schema of a flow's parameters as its deployment should have it: it takes those alone, and
    an action's resources and parameters with that action only."""
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
    """What the other fields must hold where this action is chosen."""
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
    """What a parameter must be for each value of the one that it depends on."""
    for value, pattern in parameter.patterns.items():
        if parameter.depends_on:
            own = {parameter.name: {"pattern": f"^({pattern}){_END}"}}
            needed = [parameter.name] if pattern else []
            yield _where(parameter.depends_on, value, {"properties": own, "required": needed})


def _where(name: str, value: str, then: Schema) -> Schema:
    # Without `required`, which Prefect takes out of a schema to check a deployment's defaults: a
    # condition on what is not given would be met.
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
    """An object with a field for each member of any action; says which actions want it."""
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
    # Prefect lets a field that is not required be null, whatever its type; not so a pattern's.
    return _text(properties=properties, patternProperties={"": {"type": "string"}})


_ACTIONS = _known_actions()

if TYPE_CHECKING:
    TargetActionName = str
    Region = str
else:
    # The dashboard's form shows a Literal as a list to choose from.
    TargetActionName = Literal[tuple(_ACTIONS)]
    Region = Literal[
        tuple(sorted({region for action in _ACTIONS.values() for region in action.regions}))
    ]

Resources = Annotated[dict[str, str], _form(lambda action: action.resources, _resource)]
ActionParameters = Annotated[dict[str, str], _form(lambda action: action.parameters, _parameter)]
