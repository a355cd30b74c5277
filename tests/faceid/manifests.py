"""What the tests of manifests share: small right ones, and reading them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceid.manifests.reading import BadLine, Entry, read_manifest
from faceid.settings import FaceIdSettings
from faceid.validation import RequestValidator
from tests import sample_request

HEADER = "request_id,target_action,region,ImageUrl,VideoUrl,LivenessType,ValidateData\n"
ROW = "r-1,VideoLivenessCompare,ap-singapore,a.jpg,a.mp4,SILENT,\n"
REQUEST: dict[str, Any] = sample_request.REQUEST | {
    "resources": {"ImageUrl": "a.jpg", "VideoUrl": "a.mp4"}
}
LINE = json.dumps(REQUEST) + "\n"
MARK = "Zq7xPrivate"
"""Content that no reason may show."""


def validator(*roots: str) -> RequestValidator:
    settings = FaceIdSettings.load().model_copy(update={"resource_roots": roots})
    return RequestValidator.load(settings, from_manifest=True)


def read(content: str | bytes, name: str = "m.jsonl", *roots: str) -> list[Entry | BadLine]:
    """A manifest of this content, read."""
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_manifest(str(path.resolve()), validator(*roots)))


def shown(found: Sequence[Entry | BadLine]) -> list[tuple[int, str]]:
    """Line numbers, with the request ID or what is wrong."""
    return [
        (each.line, each.request.request_id if isinstance(each, Entry) else each.reason)
        for each in found
    ]
