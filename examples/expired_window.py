"""A window runs out before the target action is called, and the flow opens the next one itself.

Uploaded files can be read for two hours. Here the emulator ends the first window early: with the
fault `expire-now`, the uploads expire at the moment at which the action is called.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from deployments.commands.local_run import local_run
from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from faceid.samples import copy_samples
from flows.deliver import deliver


async def deliver_files(photo: Path, video: Path) -> DeliveryResult:
    return await cast("Any", deliver)(
        request_id="r-1",
        target_action="VideoLivenessCompare",
        region="ap-singapore",
        resources={"ImageUrl": str(photo), "VideoUrl": str(video)},
        action_parameters={"LivenessType": "SILENT"},
        max_windows=3,  # when the third one runs out, too, the request fails
    )


with Emulator() as emulator, TemporaryDirectory() as folder:
    os.environ |= {
        "FACEID_ENDPOINT": emulator.url,
        "TENCENTCLOUD_SECRET_ID": emulator.secret_id,
        "TENCENTCLOUD_SECRET_KEY": emulator.secret_key,
        "FACEID_RESOURCE_ROOTS": folder,
        "FACEID_STORAGE": f"{folder}/storage",
    }
    samples = copy_samples(Path(folder))
    emulator.add_fault("VideoLivenessCompare", "expire-now")

    result = local_run(lambda: deliver_files(samples["alder.jpg"], samples["alder.mp4"]))

    print(f"windows: {result.windows}, calls: {result.calls}")
    print(f"verdict: {result.verdict}")
    # Two tickets and two uploads in each window, one for the photo and one for the video.
    calls = emulator.stats()["calls"]
    print(f"tickets: {calls['CreateUploadUrl']}, uploads: {calls['PutObject']}")
