"""Test your own code against the emulator, with planned faults and a clock that can be moved.

Run it with ``.venv/bin/python -m pytest examples/test_faults.py``. The fixture ``faceid_emulator``
comes with the package. It resets the emulator for every test, and fails a test in which a planned
fault never happened.
"""

import asyncio
import io
from pathlib import Path

import pytest
from pydantic import SecretStr

from faceid import FaceIdClient, NoAnswer, ServiceUnavailable, Verification, WindowOver
from faceid.emulator import Emulator
from faceid.samples import copy_samples

ACTION = "VideoLivenessCompare"


# Your code: it tries once more, unless the action may have been called, and be billed again.
async def verify(folder: Path, tries: int = 2) -> Verification:
    files = {"ImageUrl": folder / "alder.jpg", "VideoUrl": folder / "alder.mp4"}
    async with FaceIdClient.from_environment() as client:
        try:
            return await client.verify(ACTION, "ap-singapore", files, {"LivenessType": "SILENT"})
        except ServiceUnavailable as error:
            if tries == 1 or isinstance(error, NoAnswer):
                raise
    return await verify(folder, tries - 1)


async def best_frame(found: Verification) -> bytes:
    frame = io.BytesIO()
    async with FaceIdClient.from_environment() as client:
        await client.fetch(SecretStr(found.answer.fields["BestFrame"]["Url"]), frame)
    return frame.getvalue()


@pytest.fixture(autouse=True)
def environment(faceid_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_samples(tmp_path)
    monkeypatch.setenv("FACEID_ENDPOINT", faceid_emulator.url)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", faceid_emulator.secret_id)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", faceid_emulator.secret_key)


def test_a_failed_upload_is_repeated(faceid_emulator: Emulator, tmp_path: Path):
    faceid_emulator.add_fault("PutObject", "http:503")
    assert asyncio.run(verify(tmp_path)).verdict.passed is True


def test_a_call_without_an_answer_is_not_repeated(faceid_emulator: Emulator, tmp_path: Path):
    faceid_emulator.add_fault(ACTION, "commit-then-reset")
    with pytest.raises(NoAnswer):
        asyncio.run(verify(tmp_path))
    assert faceid_emulator.stats()["calls"][ACTION] == 1


def test_the_best_frame_is_there_for_two_hours(faceid_emulator: Emulator, tmp_path: Path):
    found = asyncio.run(verify(tmp_path))
    faceid_emulator.advance(7100)
    assert asyncio.run(best_frame(found)).startswith(b"\xff\xd8")  # a JPEG
    faceid_emulator.advance(100)
    with pytest.raises(WindowOver):
        asyncio.run(best_frame(found))
