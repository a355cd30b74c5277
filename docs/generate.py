"""Writes the parts of the reference pages that are generated from the code (``make docs``).

A page marks such a part with ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a key of
``PARTS``. ``tests/docs/test_generated.py`` fails if a part is not what the code says.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from prefect.utilities.callables import parameter_schema

from faceid import errors
from faceid.actions import TARGET_ACTIONS, Parameter, ResourceField, TargetAction
from faceid.command import app
from faceid.emulator import faults
from faceid.errors import FaceIdError, NextStep
from faceid.validation import personal_parameters
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.forget import forget
from flows.parameters import strict_schema
from tasks.settings import DeliverySettings

DOCS = Path(__file__).parent
AUTOMATIONS = DOCS.parent / "deployments" / "registration" / "automations.yaml"

_PART = re.compile(
    r"(?P<head>^<!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end>^<!-- end -->$)",
    re.DOTALL | re.MULTILINE,
)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head), *map(list, rows)]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    return "\n".join(lines)


def _code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def _prose(text: str) -> str:
    """Return a docstring as Markdown in one line."""
    return " ".join(text.replace("``", "`").split())


def commands() -> str:
    import_module("deployments.cli")  # registers the commands
    text = app.generate_docs(heading_level=1)
    # They are no commands to be run: `console` would have tests/docs run them.
    text = text.replace("```console\n", "```text\n").replace(" *[default: False]*", "")
    text = text.replace(' *[default: ""]*', "")
    # Cyclopts takes the name of this module for a part of the command.
    text = re.sub(r"^(faceid \S+) -m \S+", r"\1", text, flags=re.MULTILINE)
    _, *sections = text.split("## faceid ")
    # Cyclopts lists `emulator` first, because the library defines it.
    return "".join(f"## faceid {section}" for section in (*sections[1:], sections[0])).strip()


def settings() -> str:
    def rows() -> Iterator[list[str]]:
        for name, field in DeliverySettings.model_fields.items():
            alias: Any = field.validation_alias
            variable = alias.choices[0] if alias else f"FACEID_{name.upper()}"
            default = field.get_default(call_default_factory=True)
            default = getattr(default, "get_secret_value", lambda default=default: default)()
            shown = (
                ""
                if default in ("", None, (), {})
                else _code(f"{default:g}" if isinstance(default, float) else default)
            )
            yield [_code(variable), shown, _prose(field.description or "")]

    return _table(["variable", "default", "meaning"], rows())


def _parameters(flow: Any) -> Callable[[], str]:
    def part() -> str:
        schema = strict_schema(parameter_schema(flow.fn).model_dump())
        rows: list[list[str]] = []
        for name, field in schema["properties"].items():
            default = field.get("default")
            shown = "" if default in (None, "", {}) else _code(json.dumps(default).strip('"'))
            if name in schema["required"]:
                shown = "required"
            rows.append([_code(name), shown, _prose(field.get("description", ""))])
        return _table(["parameter", "default", "meaning"], rows)

    return part


def target_actions() -> str:
    return "\n\n".join(_action(action) for action in TARGET_ACTIONS.values())


def _action(action: TargetAction) -> str:
    rate = f"{action.rate:g} per second" if action.rate else "not documented"
    lines = [f"### {action.name}", ""]
    if action.notice:
        lines += [f"{action.notice[:1].upper()}{action.notice[1:]}.", ""]
    lines += [
        f"- Regions: {', '.join(map(_code, action.regions))}",
        f"- Rate: {rate}",
        f"- Positive verdict: {_reading(action)}",
    ]
    if action.files:
        lines.append(
            f"- Files in the answer: {', '.join(_code(file.url) for file in action.files)}"
        )
    if action.reading.error_codes:
        pairs = action.reading.error_codes.items()
        failures = ", ".join(f"{_code(value)} as {_code(code)}" for value, code in pairs)
        lines.append(f"- Values of `Result` that are errors and no verdict: {failures}")
    if personal := sorted(personal_parameters(action)):
        names = ", ".join(map(_code, personal))
        lines.append(f"- Personal data, accepted only from a manifest: {names}")
    resources = [[_code(field.name), _resource(field)] for field in action.resources]
    parameters = [[_code(field.name), _parameter(field)] for field in action.parameters]
    lines += ["", _table(["resource or parameter", "what it takes"], resources + parameters)]
    return "\n".join(lines)


def _reading(action: TargetAction) -> str:
    results = " or ".join(map(_code, action.reading.passed))
    return f"`Result` is {results}" if results else "none; the action only answers"


def _resource(field: ResourceField) -> str:
    *others, last = field.formats or ("any format",)
    parts = [f"{', '.join(others)} or {last}" if others else last]
    if field.max_base64_bytes:
        parts.append(f"at most {field.max_base64_bytes // 2**20} MiB after base64 encoding")
    if field.download_seconds:
        parts.append(f"the service must be able to fetch it within {field.download_seconds:g} s")
    if field.md5_field:
        parts.append(f"its MD5 is sent as {_code(field.md5_field)}")
    return ("" if field.required else "optional; ") + "; ".join(parts)


def _parameter(field: Parameter) -> str:
    types = {"boolean": "`true` or `false`", "object": "a JSON object", "json-text": "JSON text"}
    values = ", ".join(map(_code, field.values))
    expects = field.expects or values or types.get(field.type, "text")
    return ("" if field.required else "optional; ") + expects


def _error_classes(of: type[FaceIdError] = FaceIdError) -> Iterator[type[FaceIdError]]:
    for cls in of.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from _error_classes(cls)


def error_classes() -> str:
    rows = (
        [_code(cls.__name__), _code(cls.kind), _code(cls.next_step.name), _advice(cls)]
        for cls in _error_classes()
    )
    return _table(["class", "`kind`", "`next_step`", "advice"], rows)


def next_steps() -> str:
    def classes(step: NextStep) -> str:
        return ", ".join(_code(cls.__name__) for cls in _error_classes() if cls.next_step is step)

    rows = ([_code(step.name), step.value, classes(step)] for step in NextStep)
    return _table(["`NextStep`", "printed as", "of the classes"], rows)


def _advice(cls: type[FaceIdError]) -> str:
    return cls.default_advice.format_map(errors.KEY_NAMES)


def automations() -> str:
    found = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    rows = (
        [_code(one["name"]), " ".join(one["description"].split()), _trigger(one["trigger"])]
        for one in found
    )
    return _table(["automation", "what it notices", "fires on"], rows)


def _trigger(trigger: dict[str, Any]) -> str:
    events = " or ".join(map(_code, trigger["expect"]))
    if trigger["posture"] == "Proactive":
        after = " or ".join(map(_code, trigger["after"]))
        return f"{after}, unless {events} follows within {trigger['within']} s"
    count = trigger.get("threshold", 1)
    return events if count == 1 else f"{count} times {events} within {trigger['within']} s"


def fault_kinds() -> str:
    return _table(["`do`", "what happens"], ([_code(form), text] for form, text in faults.KINDS))


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "deliver-parameters": _parameters(deliver),
    "deliver-batch-parameters": _parameters(deliver_batch),
    "forget-parameters": _parameters(forget),
    "target-actions": target_actions,
    "error-classes": error_classes,
    "next-steps": next_steps,
    "automations": automations,
    "faults": fault_kinds,
}


def fill(page: str) -> str:
    """Return the page with its generated parts as the code has them now."""
    return _PART.sub(lambda part: f"{part['head']}\n{PARTS[part['name']]()}\n\n{part['end']}", page)


def generated_pages() -> list[Path]:
    """Return the pages that have generated parts."""
    return [page for page in sorted(DOCS.rglob("*.md")) if _PART.search(page.read_text())]


def main() -> None:
    for page in generated_pages():
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    main()
