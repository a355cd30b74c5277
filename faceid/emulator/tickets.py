"""Object keys, the presigned URLs of objects, and the key pairs that sign them.

The emulator stores no tickets: whether a URL is valid depends only on its signature and window, so
that it remains valid after a restart. The real service has a bucket for each region. Here, each
region has a key pair of its own instead (assumed; observed URLs have a different account for each
region), and the caller's own key gives access to all objects, as with a bucket of their own.
"""

from dataclasses import dataclass
from urllib.parse import quote

from faceid.actions import UPLOAD_REGIONS

APP_ID = "1300000001"
"""The third of four segments: 10 digits, presumably the caller's AppId (observed)."""


@dataclass(frozen=True)
class StoreKey:
    """A key pair that signs URLs of the store."""

    secret_id: str
    secret_key: str
    region: str | None
    """The region of the objects, or ``None`` for all regions."""


# Secret IDs have the format of those in the service's URLs: 36 characters beginning with AKID
# (observed).
STORE_KEYS: dict[str, StoreKey] = {
    region: StoreKey(
        secret_id=f"AKIDEXAMPLEstore{region.removeprefix('ap-'):0<20}",
        secret_key=f"EXAMPLEstoreKey{region.removeprefix('ap-'):0<17}",
        region=region,
    )
    for region in UPLOAD_REGIONS
}


def upload_key(target_action: str, request_id: str, segments: int) -> str:
    """Return the object key of a ticket: three segments (documented) or four (observed)."""
    if segments == 4:
        return f"faceid/{target_action}/{APP_ID}/{request_id}"
    return f"faceid/{target_action}/{request_id}"


def answer_key(target_action: str, name: str) -> str:
    """Return the object key of a file that an answer links to (observed)."""
    return f"faceid-tmp/{target_action}/{name}"


def target_action_of(key: str) -> str | None:
    """Return the target action in an object key, or ``None`` for keys of other formats."""
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] or None if folder in ("faceid", "faceid-tmp") else None


def object_url(host: str, key: str, query: str) -> str:
    """Return the URL of an object; the whole key is one segment of its path (documented)."""
    return f"http://{host}/{quote(key, safe='')}?{query}"
