"""Verify two files without Prefect, and save the best frame of the video.

For the real service, leave the emulator out, set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY
in the environment, and name files of your own.
"""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from faceid import FaceIdClient
from faceid.emulator import Emulator
from faceid.samples import copy_samples


async def verify(photo: Path, video: Path, frame: Path) -> None:
    async with FaceIdClient.from_environment() as client:
        # Requests a ticket for each file, uploads both, checks that the tickets have not expired,
        # and calls the action. A negative verdict is not an error; everything else that goes wrong
        # is raised as a FaceIdError.
        found = await client.verify(
            "VideoLivenessCompare",
            "ap-singapore",
            files={"ImageUrl": photo, "VideoUrl": video},
            parameters={"LivenessType": "SILENT"},
        )
        print(f"service: {client.service}")
        print(f"passed: {found.verdict.passed}, result: {found.verdict.result}")
        print(f"similarity: {found.verdict.similarity} of 100")

        # A positive answer links to the best frame. The link works for two hours, and for everybody
        # who has it, so keep it in a SecretStr, which prints as asterisks.
        if best := found.answer.fields.get("BestFrame"):
            with frame.open("wb") as file:
                md5 = await client.fetch(SecretStr(best["Url"]), file)
                print(f"best frame: {file.tell()} bytes, intact: {md5 == best['MD5']}")


with Emulator() as emulator, TemporaryDirectory() as folder:
    os.environ |= {
        "FACEID_ENDPOINT": emulator.url,
        "TENCENTCLOUD_SECRET_ID": emulator.secret_id,
        "TENCENTCLOUD_SECRET_KEY": emulator.secret_key,
    }
    samples = copy_samples(Path(folder))
    asyncio.run(verify(samples["alder.jpg"], samples["alder.mp4"], Path(folder, "best-frame.jpg")))
