"""Helpers for the tests of manifests: a small valid manifest in both formats, and reading."""

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
"""Content that must not appear in the reason why a line is refused."""


def validator(*roots: str) -> RequestValidator:
    settings = FaceIdSettings.load().model_copy(update={"resource_roots": roots})
    return RequestValidator.load(settings, from_manifest=True)


def read(content: str | bytes, name: str = "m.jsonl", *roots: str) -> list[Entry | BadLine]:
    """Write a manifest with this content, and return the entries and bad lines read from it."""
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_manifest(str(path.resolve()), validator(*roots)))


def shown(found: Sequence[Entry | BadLine]) -> list[tuple[int, str]]:
    """Return the line numbers, each with the request ID or, for a bad line, the reason."""
    return [
        (each.line, each.request.request_id if isinstance(each, Entry) else each.reason)
        for each in found
    ]
