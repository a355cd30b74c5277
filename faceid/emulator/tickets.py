"""Object keys, the presigned URLs of objects, and the key pairs that sign these URLs.

The emulator stores no tickets: whether a URL is valid depends only on its signature and window, so
URLs remain valid after a restart. The live service has a bucket for each region, and its URLs are
signed by a different account in each region (observed). The emulator has one store, in which each
region has a key pair of its own, and the key of the caller's account is valid for all objects.
"""

from dataclasses import dataclass
from urllib.parse import quote

from faceid.actions import UPLOAD_REGIONS

APP_ID = "1300000001"
"""The third segment of a key with four segments: 10 digits (observed), presumably the caller's
AppId (assumed)."""


@dataclass(frozen=True)
class StoreKey:
    """A key pair that signs URLs of the store."""

    secret_id: str
    """The key's ID, which is part of the URLs."""
    secret_key: str
    """The secret that signs the URLs."""
    region: str | None
    """The region in which the pair is valid; ``None`` for all regions."""


# The secret IDs have the format of those in the service's URLs: 36 characters that begin with AKID
# (observed).
STORE_KEYS: dict[str, StoreKey] = {
    region: StoreKey(
        secret_id=f"AKIDEXAMPLEstore{region.removeprefix('ap-'):0<20}",
        secret_key=f"EXAMPLEstoreKey{region.removeprefix('ap-'):0<17}",
        region=region,
    )
    for region in UPLOAD_REGIONS
}
"""The key pair of each region."""


def upload_key(target_action: str, request_id: str, segments: int) -> str:
    """Return the object key of an upload ticket.

    ``request_id`` is the Tencent request ID of the call. ``segments`` is 3 (documented) or 4
    (observed).
    """
    if segments == 4:
        return f"faceid/{target_action}/{APP_ID}/{request_id}"
    return f"faceid/{target_action}/{request_id}"


def answer_key(target_action: str, name: str) -> str:
    """Return the object key of a file that an answer links to. The format is observed."""
    return f"faceid-tmp/{target_action}/{name}"


def target_action_of(key: str) -> str | None:
    """Return the target action in an object key; ``None`` if the key has another format."""
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] or None if folder in ("faceid", "faceid-tmp") else None


def object_url(host: str, key: str, query: str) -> str:
    """Return the URL of an object. Its path has one segment, the encoded key (documented)."""
    return f"http://{host}/{quote(key, safe='')}?{query}"
