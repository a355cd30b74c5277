"""A whole verification in one window: tickets, uploads, expiry check, call and verdict.

This is ``FaceIdClient.verify``, for programs that keep no record of their requests. The flows do
the same, a step at a time, and add what it leaves out: retries, caching, and a new window when the
first one runs out.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from faceid.actions import TargetAction
from faceid.files.roots import Roots
from faceid.files.sources import Patience
from faceid.models import EXPIRY_MARGIN, Reply, Request, ResourceFile, Upload, Verdict
from faceid.replies import read_verdict
from faceid.validation import RequestValidator, check_files

if TYPE_CHECKING:
    from faceid.client import FaceIdClient


@frozen
class Verification:
    """The verdict of a target action, and the answer that it was read from."""

    verdict: Verdict
    answer: Reply = field(repr=False)
    """The whole answer. It may hold images of faces and other personal data."""
    uploads: tuple[Upload, ...]
    """The uploaded files. The service keeps them until their tickets expire."""


async def verify(
    client: "FaceIdClient",
    action: TargetAction,
    region: str,
    files: Mapping[str, str | Path],
    parameters: Mapping[str, str],
    patience: Patience,
) -> Verification:
    """Verify files with a target action: see ``FaceIdClient.verify``."""
    # The program that calls this names the files, so any location is accepted.
    validator = RequestValidator({action.name: action}, Roots.of(("/",)), from_manifest=True)
    validated = validator.check(
        Request(
            request_id="verify",
            target_action=action.name,
            region=region,
            resources={field: str(location) for field, location in files.items()},
            action_parameters=dict(parameters),
        )
    )
    checked = await check_files(validated, patience)
    uploads = await _upload_all(client, action.name, region, checked.files)
    for upload in uploads:
        upload.ticket.require_open(client.server_now(), EXPIRY_MARGIN)
    fields = call_fields(action, checked.parameters, uploads)
    answer = await client.call(action.name, region, fields)
    return Verification(read_verdict(action, answer), answer, uploads)


async def _upload_all(
    client: "FaceIdClient", action: str, region: str, files: Iterable[ResourceFile]
) -> tuple[Upload, ...]:
    """Upload the files in parallel. If one fails, cancel the others and raise its error."""

    async def upload(file: ResourceFile) -> Upload:
        ticket = await client.create_upload_url(action, region, file.field)
        await client.put_resource(ticket, file)
        return Upload(ticket, file.md5)

    tasks: list[asyncio.Task[Upload]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(upload(file)) for file in files]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tuple(task.result() for task in tasks)


def call_fields(
    action: TargetAction, parameters: Mapping[str, Any], uploads: Iterable[Upload]
) -> dict[str, Any]:
    """Return the fields of a call: the parameters, and each upload's URL and MD5."""
    fields = dict(parameters)
    for upload in uploads:
        fields[upload.field] = upload.ticket.resource_url.get_secret_value()
        resource = action.resource(upload.field)
        if resource and resource.md5_field:
            fields[resource.md5_field] = upload.md5
    return fields
