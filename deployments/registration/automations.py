"""Registers the automations in ``automations.yaml`` with the Prefect server.

``python -m deployments.registration.automations`` does only this, and prints the names of the
automations that it has created, changed or removed.

Changes that people make in the dashboard are kept. Each automation has a tag with a digest of its
content at registration. If the content no longer matches the digest, somebody has changed the
automation, and it is left alone, as is every automation without such a tag. Whether an automation
is enabled is never changed.
"""

import asyncio
import hashlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

import jinja2
import orjson
import yaml
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import (
    ActionTypes,
    ActionTypesOrUnknown,
    CallWebhook,
    SendNotification,
)
from prefect.events.schemas.automations import (
    Automation,
    AutomationCore,
    CompositeTrigger,
    Trigger,
    TriggerTypes,
)
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from faceid.command import fail
from faceid.errors import InvalidInput, reason_of

FILE = Path(__file__).with_name("automations.yaml")
"""The file with the automations."""
MARK = "as-registered:"
"""Beginning of the tag with the digest of an automation."""
_PAGE = 200
"""Number of objects in a page: the maximum that Prefect's API returns at once."""


def _whole(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a trigger; raise ``ValueError`` for unknown fields, which Prefect would ignore.

    Otherwise, a trigger whose field ``expect`` is misspelled would fire for every event.
    """
    trigger: Trigger = validate(value)
    _check_fields(trigger, value)
    return trigger


def _check_fields(trigger: Trigger, given: dict[str, Any]) -> None:
    if unknown := given.keys() - type(trigger).model_fields.keys():
        raise ValueError(f"no such field: {', '.join(sorted(unknown))}")
    if isinstance(trigger, CompositeTrigger):
        for part, part_given in zip(trigger.triggers, given["triggers"], strict=True):
            _check_fields(part, part_given)


def _template(text: str) -> str:
    try:
        jinja2.Environment().parse(text)  # noqa: S701 - rendered by the server, not as HTML
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not a valid template: {error.message}") from None
    return text


Template = Annotated[str, AfterValidator(_template)]
"""A Jinja template, which the Prefect server renders."""


class _Entry(BaseModel):
    """An automation in the file: some of Prefect's fields, and what its actions are built from."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Name of the automation, by which it is found on the server."""
    description: str
    """Description of what has happened when the automation is triggered."""
    trigger: Annotated[TriggerTypes, WrapValidator(_whole)]
    """The trigger, with Prefect's fields."""
    message: Template | None = None
    """Text of the notification, if it is not that of the file."""
    webhook: str | None = None
    """The Webhook block to call, instead of sending a notification."""
    payload: Template = ""
    """Body of the call of the webhook."""
    actions: list[ActionTypes] | None = None
    """Actions with Prefect's fields, which replace the notification if given."""


class _File(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")

    notify: str = ""
    """The notification blocks to use."""
    message: Template
    """Text of the notifications of automations without a text of their own."""
    automations: list[_Entry]
    """The automations."""

    @field_validator("automations")
    @classmethod
    def _names_differ(cls, automations: list[_Entry]) -> list[_Entry]:
        for name, count in Counter(entry.name for entry in automations).items():
            if count > 1:
                raise ValueError(f"{name!r} is defined {count} times")
        return automations


async def register_automations(file: Path = FILE, *, write: bool = True) -> list[str]:
    """Create, update and remove automations so that they match the file.

    Automations that somebody has changed on the server are left alone. Returns the names of the
    automations that were created, changed or removed; a second call returns none. With
    ``write=False``, nothing is changed, and the names are those of the automations that would be.
    Raises ``InvalidInput`` if the file is invalid or names a block that does not exist.
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
            if _is_ours_to_change(found, automation):
                touched.append(entry.name)
                if write:
                    await _bring_up_to(client, found, automation)
        for left in there:
            # The automation is from an earlier version of the file, or its block was deleted, or it
            # is a duplicate from a concurrent call.
            if _mark_of(left) == _digest(left):
                touched.append(left.name)
                if write:
                    await client.delete_automation(left.id)
    return touched


def _read(file: Path) -> _File:
    try:
        return _File.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = reason_of(first)
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
    """Return the automation of an entry; ``None`` if the entry's Webhook block does not exist."""
    actions: list[ActionTypesOrUnknown] = [*(entry.actions or [])]
    if entry.webhook is not None:
        found = _of_slot(entry.webhook, blocks, "webhook")
        if not found:
            return None
        actions += [CallWebhook(block_document_id=id_, payload=entry.payload) for id_ in found]
    elif entry.actions is None:
        body = entry.message or file.message
        actions += [
            SendNotification(block_document_id=id_, subject=entry.name, body=body)
            for id_ in _of_slot(file.notify, blocks, "notify")
        ]
    automation = AutomationCore(
        name=entry.name, description=entry.description, trigger=entry.trigger, actions=actions
    )
    automation.tags = ["faceid", MARK + _digest(automation)]
    return automation


def _of_slot(slot: str, blocks: list[BlockDocument], what: str) -> list[UUID]:
    """Return the sorted IDs of the blocks that ``slot`` names.

    ``slot`` is ``<type>/<name>``, or only ``<name>`` for all blocks of this name whose type is
    ``what`` or that have the capability ``what``. Raises ``InvalidInput`` if ``slot`` has a type
    and there is no such block.
    """
    kind, _, name = slot.rpartition("/")
    found: list[UUID] = []
    for block in blocks:
        slug = block.block_type and block.block_type.slug
        can = block.block_schema.capabilities if block.block_schema else []
        if block.name == name and (slug == kind if kind else what in (slug, *can)):
            found.append(block.id)
    if kind and not found:
        raise InvalidInput("Automations", f"there is no block {slot}: create it in the dashboard")
    return sorted(found)


def _is_ours_to_change(found: Automation | None, wanted: AutomationCore) -> bool:
    """Return whether an automation must be created, or updated because only the file has changed.

    ``found`` is the automation on the server, and ``wanted`` the one in the file.
    """
    return found is None or _mark_of(found) == _digest(found) != _digest(wanted)


async def _bring_up_to(
    client: PrefectClient, found: Automation | None, wanted: AutomationCore
) -> None:
    """Create the automation, or update the one on the server.

    Raises ``InvalidInput`` if the server refuses it.
    """
    try:
        if found is None:
            await client.create_automation(wanted)
            return
        wanted.enabled = found.enabled
        # Prefect's client sends only fields that were set explicitly, which an action's type was
        # not. Validating the dumped model sets all fields.
        complete = AutomationCore.model_validate(wanted.model_dump(exclude={"owner_resource"}))
        await client.update_automation(found.id, complete)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 422:
            raise
        raise _wrong(FILE, f"{wanted.name}: {error.response.text}") from None


def _mark_of(automation: Automation) -> str | None:
    marks = [tag.removeprefix(MARK) for tag in automation.tags if tag.startswith(MARK)]
    return marks[0] if marks else None


def _digest(automation: AutomationCore) -> str:
    """Return a digest of everything in an automation that the file determines."""
    decided = {"name", "description", "trigger", "actions"}
    content = automation.model_dump(mode="json", include=decided)
    text = orjson.dumps(_in_order(content), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def _in_order(value: Any) -> Any:
    """Return a JSON value with all lists sorted, because the server returns sets in any order."""
    if isinstance(value, dict):
        return {key: _in_order(part) for key, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return sorted((_in_order(part) for part in cast("list[Any]", value)), key=orjson.dumps)
    return value


def main() -> None:
    """Register the automations, and print the names of those that were touched."""
    try:
        changed = asyncio.run(register_automations())
    except InvalidInput as error:
        fail(str(error))
    for name in changed or ["nothing to change"]:
        print(name)  # noqa: T201 - results go to stdout


if __name__ == "__main__":
    main()
