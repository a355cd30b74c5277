"""The sample request, which refers to the sample files."""

from typing import Any

REQUEST: dict[str, Any] = {
    "request_id": "r-1",
    "target_action": "VideoLivenessCompare",
    "region": "ap-singapore",
    "resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
    "action_parameters": {"LivenessType": "SILENT"},
}
