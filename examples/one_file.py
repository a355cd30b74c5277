"""Deliver one request with the flow `deliver`, from Python.

The runs are recorded by the Prefect server at PREFECT_API_URL or, if that is not set, by a
temporary one that ends with this program.
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
    # Raises DeliveryFailed if the request ends without a verdict. The cast is for type checkers:
    # Prefect's annotations do not say that calling this flow returns an awaitable.
    return await cast("Any", deliver)(
        request_id="r-1",
        target_action="VideoLivenessCompare",
        region="ap-singapore",
        resources={"ImageUrl": str(photo), "VideoUrl": str(video)},
        action_parameters={"LivenessType": "SILENT"},
    )


async def main(photo: Path, video: Path) -> None:
    result = await deliver_files(photo, video)
    print(result.model_dump_json(indent=2))

    # The same request again returns the stored verdict, and calls nothing.
    again = await deliver_files(photo, video)
    print(f"again: the same verdict is {again.verdict == result.verdict}, calls: {again.calls}")


with Emulator() as emulator, TemporaryDirectory() as folder:
    os.environ |= {
        "FACEID_ENDPOINT": emulator.url,
        "TENCENTCLOUD_SECRET_ID": emulator.secret_id,
        "TENCENTCLOUD_SECRET_KEY": emulator.secret_key,
        "FACEID_RESOURCE_ROOTS": folder,  # where files may lie; default: the working folder
        "FACEID_STORAGE": f"{folder}/storage",  # default: a folder in Prefect's home
    }
    samples = copy_samples(Path(folder))
    local_run(lambda: main(samples["alder.jpg"], samples["alder.mp4"]))
