"""Write a manifest, deliver it with the flow `deliver_batch`, and read its result lines."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from prefect.client.schemas.objects import State

from deployments.commands.local_run import local_run
from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from faceid.samples import copy_samples
from flows.deliver_batch import deliver_batch

PEOPLE = {"p-1": ("alder.jpg", "alder.mp4"), "p-2": ("birch.jpg", "birch.mp4")}
# There is no cedar.mp4. That request fails, and the others do not.
PEOPLE["p-3"] = ("cedar.jpg", "cedar.mp4")


def manifest_line(request_id: str, photo: str, video: str) -> str:
    return json.dumps(
        {
            "request_id": request_id,
            "target_action": "VideoLivenessCompare",
            "region": "ap-singapore",
            "resources": {"ImageUrl": photo, "VideoUrl": video},
            "action_parameters": {"LivenessType": "SILENT"},
        }
    )


async def deliver_people(manifest: Path, results: Path) -> State[Any]:
    return await cast("Any", deliver_batch)(
        manifest=str(manifest), results=str(results), return_state=True
    )


with Emulator() as emulator, TemporaryDirectory() as folder:
    os.environ |= {
        "FACEID_ENDPOINT": emulator.url,
        "TENCENTCLOUD_SECRET_ID": emulator.secret_id,
        "TENCENTCLOUD_SECRET_KEY": emulator.secret_key,
        "FACEID_RESOURCE_ROOTS": folder,
        "FACEID_STORAGE": f"{folder}/storage",
    }
    copy_samples(Path(folder))
    manifest, results = Path(folder, "people.jsonl"), Path(folder, "results")
    manifest.write_text("".join(f"{manifest_line(key, *PEOPLE[key])}\n" for key in PEOPLE))

    state = local_run(lambda: deliver_people(manifest, results))

    print(state.message)
    for line in (results / "results.jsonl").read_text().splitlines():
        result = DeliveryResult.model_validate_json(line)
        print(result.request_id, result.status, result.verdict or result.error)
