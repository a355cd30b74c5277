"""Automations as code: ``automations.yaml``, brought to the Prefect server.

A person may change one in the dashboard. Each carries, in a tag, a digest of how it was registered:
one that differs from it has been changed by somebody, and is left as it is, and so is any that has
no such tag. The switch is always a person's.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

import jinja2
import orjson
import yaml
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.events.schemas.automations import (
    Automation,
    AutomationCore,
    Trigger,
    TriggerTypes,
)
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from faceid.errors import InvalidInput

FILE = Path(__file__).with_name("automations.yaml")
MARK = "as-registered:"
_PAGE = 200


def _whole(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Prefect drops what it does not know. A trigger without its `expect` would fire each time."""
    trigger: Trigger = validate(value)
    given = cast("dict[str, Any]", value)
    if unknown := given.keys() - type(trigger).model_fields.keys():
        raise ValueError(f"no such field: {', '.join(sorted(unknown))}")
    for part in given.get("triggers", []):
        _whole(part, TypeAdapter[Any](TriggerTypes).validate_python)
    return trigger


def _template(text: str) -> str:
    try:
        jinja2.Environment().parse(text)  # noqa: S701 - rendered by the server, and no HTML
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"no valid template: {error.message}") from None
    return text


Template = Annotated[str, AfterValidator(_template)]


class _Entry(BaseModel):
    """An automation of the file: Prefect's own fields, and what becomes its action."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    trigger: Annotated[TriggerTypes, WrapValidator(_whole)]
    message: Template | None = None
    webhook: str | None = None
    payload: Template = ""
    actions: list[ActionTypes] | None = None
    """Where they are given, nobody else is told."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    notify: str = ""
    message: Template
    automations: list[_Entry]


async def register_automations(file: Path = FILE) -> list[str]:
    """Makes and changes what the file says, as far as nobody else has changed it.

    Gives the names of those that were made, changed or removed: none when it is called again.
    Raises ``InvalidInput`` where the file is wrong, or names a block that is not there.
    """
    wanted = _read(file)
    async with get_client() as client:
        blocks = await _all_blocks(client)
        there = await _all_automations(client)
        touched: list[str] = []
        for entry in wanted.automations:
            automation = _as_automation(entry, wanted, blocks)
            found = next((one for one in there if one.name == entry.name), None)
            if automation is None:
                continue
            if found is not None:
                there.remove(found)
            if await _brought_up_to(client, found, automation):
                touched.append(entry.name)
        for left in there:
            # Of an earlier file, or of a block that is gone; or made twice, by two at a time.
            if _mark_of(left) == _digest(left):
                await client.delete_automation(left.id)
                touched.append(left.name)
    return touched


def _read(file: Path) -> _File:
    try:
        return _File.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise _wrong(file, f"{where}: {said}" if where else said) from None
    except yaml.YAMLError as error:
        raise _wrong(file, " ".join(str(error).split())) from None


def _wrong(file: Path, what: str) -> InvalidInput:
    return InvalidInput("Automations", f"{file.name}: {what}")


async def _all_blocks(client: PrefectClient) -> list[BlockDocument]:
    found: list[BlockDocument] = []
    while page := await client.read_block_documents(
        limit=_PAGE, offset=len(found), include_secrets=False
    ):
        found += page
    return found


async def _all_automations(client: PrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := await client.read_automations(limit=_PAGE, offset=len(found)):
        found += page
    return found


def _as_automation(
    entry: _Entry, file: _File, blocks: list[BlockDocument]
) -> AutomationCore | None:
    """``None`` for one that calls a webhook that is not there."""
    if entry.actions is not None:
        actions = entry.actions
    elif entry.webhook is not None:
        actions = [
            CallWebhook(block_document_id=block, payload=entry.payload)
            for block in _of_slot(entry.webhook, blocks, "webhook")
        ]
        if not actions:
            return None
    else:
        body = entry.message or file.message
        actions = [
            SendNotification(block_document_id=block, subject=entry.name, body=body)
            for block in _of_slot(file.notify, blocks, "notify")
        ]
    automation = AutomationCore(
        name=entry.name, description=entry.description, trigger=entry.trigger, actions=actions
    )
    automation.tags = ["faceid", MARK + _digest(automation)]
    return automation


def _of_slot(slot: str, blocks: list[BlockDocument], what: str) -> list[UUID]:
    """The blocks of this name that are, or can do, what is asked for.

    One that is named with its type has to be there.
    """
    kind, _, name = slot.rpartition("/")
    found: list[UUID] = []
    for block in blocks:
        slug = block.block_type and block.block_type.slug
        can = block.block_schema.capabilities if block.block_schema else []
        if block.name == name and (slug == kind if kind else what in (slug, *can)):
            found.append(block.id)
    if kind and not found:
        raise InvalidInput("Automations", f"there is no block {slot}: make it in the dashboard")
    return sorted(found)


async def _brought_up_to(
    client: PrefectClient, found: Automation | None, wanted: AutomationCore
) -> bool:
    """Whether it had to be made, or changed where nobody else had changed it."""
    try:
        if found is None:
            await client.create_automation(wanted)
            return True
        now = _digest(found)
        if now == _digest(wanted) or _mark_of(found) != now:
            return False
        wanted.enabled = found.enabled
        # Prefect's client sends what was set only, and what an action is, is its default.
        complete = AutomationCore.model_validate(wanted.model_dump(exclude={"owner_resource"}))
        await client.update_automation(found.id, complete)
        return True
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 422:
            raise
        raise _wrong(FILE, f"{wanted.name}: {error.response.text}") from None


def _mark_of(automation: Automation) -> str | None:
    marks = [tag.removeprefix(MARK) for tag in automation.tags if tag.startswith(MARK)]
    return marks[0] if marks else None


def _digest(automation: AutomationCore) -> str:
    """Of all that the file decides on."""
    content = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    text = orjson.dumps(_in_order(content), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def _in_order(value: Any) -> Any:
    """Sets come from the server in any order."""
    if isinstance(value, dict):
        return {key: _in_order(part) for key, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return sorted((_in_order(part) for part in cast("list[Any]", value)), key=orjson.dumps)
    return value
