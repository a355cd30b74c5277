"""A call of the API, once it has passed every check of the gateway."""

from dataclasses import dataclass
from typing import Any

from faceid.emulator.emulation import Emulation
from faceid.emulator.tickets import upload_key


@dataclass(frozen=True)
class Call:
    name: str
    request_id: str
    host: str
    """As the client named the emulator: URLs of answers carry it."""
    region: str
    """Empty where the action needs none and none was given."""
    parameters: dict[str, Any]


def ticket_key(emulation: Emulation, call: Call) -> str:
    """The key that a CreateUploadUrl hands out; its last segment is the reply's RequestId."""
    return upload_key(
        call.parameters["TargetAction"], call.request_id, emulation.options.key_segments
    )


def create_upload_url(emulation: Emulation, call: Call, *, ended: bool) -> dict[str, Any]:
    """A ticket: both URLs with the same window (documented §3.2, §4). ``ended``: it is over."""
    window, key = emulation.options.window, ticket_key(emulation, call)
    start = int(emulation.clock.now()) - (window if ended else 0)

    def url(method: str) -> str:
        return emulation.presigned_url(method, call.host, key, region=call.region, start=start)

    return {
        "UploadUrl": url("put"),
        "ResourceUrl": url("get"),
        "ExpiredTimestamp": start + window,
    }
