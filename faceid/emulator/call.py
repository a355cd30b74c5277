"""API calls that have passed every check of the gateway, and the action CreateUploadUrl."""

from dataclasses import dataclass
from typing import Any

from faceid.emulator.emulation import Emulation
from faceid.emulator.tickets import upload_key


@dataclass(frozen=True)
class Call:
    """An API call that has passed every check of the gateway."""

    name: str
    """Name of the action that is called."""
    request_id: str
    """``RequestId`` of the answer: the Tencent request ID."""
    host: str
    """The ``Host`` header of the call, which is used in the URLs of the answer."""
    region: str
    """Region of the call; empty if the action requires no region and the call has none."""
    parameters: dict[str, Any]
    """The parameters of the call, without those that are null."""


def ticket_key(emulation: Emulation, call: Call) -> str:
    """Return the object key of the upload ticket for a call of CreateUploadUrl.

    The key ends with the ``RequestId`` of the answer: see ``tickets.upload_key``.
    """
    return upload_key(
        call.parameters["TargetAction"], call.request_id, emulation.options.key_segments
    )


def create_upload_url(emulation: Emulation, call: Call, *, ended: bool) -> dict[str, Any]:
    """Return the fields of the answer of CreateUploadUrl: an upload ticket.

    Both URLs have the same window (documented). With ``ended``, the window is already over.
    """
    window, key = emulation.options.window, ticket_key(emulation, call)
    start = int(emulation.clock.now()) - (window if ended else 0)

    def url(method: str) -> str:
        return emulation.presigned_url(method, call.host, key, region=call.region, start=start)

    return {
        "UploadUrl": url("put"),
        "ResourceUrl": url("get"),
        "ExpiredTimestamp": start + window,
    }
