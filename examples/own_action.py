"""Use a target action that the table does not know, such as one that the vendor has just added.

`DetectMask` is invented; the emulator serves it because FACEID_ACTIONS names the file that
describes it. Everything else that reads FACEID_ACTIONS (the commands, and the flows with their form
in the dashboard) knows the action as well.
"""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from faceid import (
    FaceIdClient,
    FaceIdSettings,
    InvalidInput,
    Parameter,
    Reading,
    ResourceField,
    TargetAction,
)
from faceid.emulator import Emulator
from faceid.samples import copy_samples

DETECT_MASK = TargetAction(
    name="DetectMask",
    resources=(
        ResourceField(
            name="ImageUrl", md5_field="ImageMd5", formats=("JPG", "PNG"), max_base64_bytes=3145728
        ),
    ),
    parameters=(Parameter(name="Mode", required=True, values=("FAST", "STRICT")),),
    regions=("ap-singapore",),
    rate=10,
    reading=Reading(passed=("NoMask",)),
)

os.environ["FACEID_ACTIONS"] = str(Path(__file__).with_name("own_action.json"))


async def detect(photo: Path) -> None:
    from_file = FaceIdSettings.load().target_actions()["DetectMask"]
    print(f"the file and the Python object are the same action: {from_file == DETECT_MASK}")
    async with FaceIdClient.from_environment() as client:
        found = await client.verify(
            DETECT_MASK, "ap-singapore", {"ImageUrl": photo}, {"Mode": "FAST"}
        )
        print(f"passed: {found.verdict.passed}, result: {found.verdict.result}")
        try:  # wrong input is found before anything is sent
            await client.verify(DETECT_MASK, "ap-singapore", {"ImageUrl": photo}, {"Mode": "SLOW"})
        except InvalidInput as error:
            print(error)


with Emulator() as emulator, TemporaryDirectory() as folder:
    os.environ["FACEID_ENDPOINT"] = emulator.url
    os.environ["TENCENTCLOUD_SECRET_ID"] = emulator.secret_id
    os.environ["TENCENTCLOUD_SECRET_KEY"] = emulator.secret_key
    asyncio.run(detect(copy_samples(Path(folder))["alder.jpg"]))
