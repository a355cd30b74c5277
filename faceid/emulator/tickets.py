"""Keys of objects and the presigned URLs to them.

The emulator remembers no ticket: a URL is valid by its signature and window alone, so that it
outlives a restart. What the real store's bucket says, the region, is said here by the key pair
that signed: each region has its own (assumed; the URLs observed have another account per region,
§3.2), and a caller's own key opens everything, as it would in a bucket of their own (§4).
"""

from dataclasses import dataclass
from urllib.parse import quote

from faceid.actions import UPLOAD_REGIONS

APP_ID = "1300000001"
"""The third of four segments: 10 digits, the caller's AppId (observed, meaning inferred)."""


@dataclass(frozen=True)
class StoreKey:
    secret_id: str
    secret_key: str
    region: str | None
    """``None``: objects of any region."""


# Of the form in the service's own URLs: 36 characters that start with AKID (observed).
STORE_KEYS: dict[str, StoreKey] = {
    region: StoreKey(
        secret_id=f"AKIDEXAMPLEstore{region.removeprefix('ap-'):0<20}",
        secret_key=f"EXAMPLEstoreKey{region.removeprefix('ap-'):0<17}",
        region=region,
    )
    for region in UPLOAD_REGIONS
}


def upload_key(target_action: str, request_id: str, segments: int) -> str:
    """Three segments: documented; four: observed there."""
    if segments == 4:
        return f"faceid/{target_action}/{APP_ID}/{request_id}"
    return f"faceid/{target_action}/{request_id}"


def answer_key(target_action: str, name: str) -> str:
    """Of a file that an answer points to (observed)."""
    return f"faceid-tmp/{target_action}/{name}"


def target_action_of(key: str) -> str | None:
    """The action in a key of ours."""
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] or None if folder in ("faceid", "faceid-tmp") else None


def object_url(host: str, key: str, query: str) -> str:
    """The whole key is one segment of the path (documented)."""
    return f"http://{host}/{quote(key, safe='')}?{query}"
