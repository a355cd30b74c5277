"""Slow sources: they have a limit in all, and hold up nothing but their own request."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from faceid.actions import ResourceField
from faceid.client import FaceIdClient
from faceid.emulator import Emulator
from faceid.errors import InvalidInput
from faceid.files import sources as module
from faceid.files.sources import Patience, measure_source
from faceid.models import Credentials
from faceid.samples import copy_samples
from tests.slow_sources import SlowSources, slow_sources

PHOTO = ResourceField(name="ImageUrl", formats=("JPG",))
TOO_SLOW = (
    r"^InvalidResource: resource ImageUrl: the file could not be read within "
    r"0.5 s \(FACEID_SOURCE_SECONDS\)$"
)
ACTION = "VideoLivenessCompare"
REGION = "ap-singapore"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return copy_samples(tmp_path)["alder.jpg"]


@pytest.fixture
def slow(photo: Path) -> Iterator[SlowSources]:
    with slow_sources(photo) as found:
        yield found


class Stuck(MemoryFileSystem):
    """A file system that is stuck when a file is opened."""

    protocol = "stuck"
    began = threading.Event()
    over = threading.Event()

    def _open(self, *arguments: Any, **options: Any) -> Any:
        self.began.set()
        self.over.wait()
        raise FileNotFoundError


@pytest.fixture
def stuck() -> Iterator[str]:
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    yield "stuck://photo.jpg"
    Stuck.over.set()


@pytest.mark.parametrize("kind", ["silent", "hang", "trickle"])
async def test_a_source_has_a_limit_in_all(slow: SlowSources, kind: str):
    location = f"{slow.url}/{kind}/a.jpg?sign=secret"
    with pytest.raises(InvalidInput, match=TOO_SLOW) as refused:
        await measure_source(PHOTO, location, Patience(0.5))
    assert refused.value.location == location


async def test_a_source_without_timeouts_has_a_limit_as_well(stuck: str):
    with pytest.raises(InvalidInput, match=TOO_SLOW):
        await measure_source(PHOTO, stuck, Patience(0.5))


async def test_a_slow_source_is_read_whole_within_its_limit(slow: SlowSources, photo: Path):
    reading = asyncio.create_task(measure_source(PHOTO, f"{slow.url}/hang/a.jpg"))
    await asyncio.to_thread(slow.wait_for, "/hang/a.jpg")
    slow.release()
    assert (await reading).md5 == (await measure_source(PHOTO, str(photo))).md5


async def test_a_reading_that_is_cancelled_ends_while_the_source_hangs(slow: SlowSources):
    reading = asyncio.create_task(measure_source(PHOTO, f"{slow.url}/silent/a.jpg"))
    await asyncio.to_thread(slow.wait_for, "/silent/a.jpg")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_reading_that_was_given_up_stops_at_the_next_bytes(slow: SlowSources):
    before = set(threading.enumerate())
    with pytest.raises(InvalidInput, match=TOO_SLOW):
        await measure_source(PHOTO, f"{slow.url}/trickle/a.jpg", Patience(0.5))
    readers = [t for t in threading.enumerate() if t not in before and t.name == "faceid source"]
    for reader in readers:
        await asyncio.to_thread(reader.join, 90)
        assert not reader.is_alive()


def test_local_files_are_read_while_all_remote_ones_hang(
    slow: SlowSources, photo: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "REMOTE_THREADS", 2)

    async def read_all() -> None:
        readings = [
            asyncio.create_task(measure_source(PHOTO, f"{slow.url}/hang/{n}.jpg")) for n in range(3)
        ]
        await asyncio.to_thread(slow.wait_for, "/hang/", 2)
        local = await measure_source(PHOTO, str(photo))
        assert slow.readers.total() == 2
        assert not any(reading.done() for reading in readings)
        slow.release()
        assert {found.md5 for found in await asyncio.gather(*readings)} == {local.md5}

    asyncio.run(read_all())  # the limits are those of an event loop


async def test_the_reading_of_an_upload_has_the_limit_as_well(
    slow: SlowSources, faceid_emulator: Emulator
):
    key = SecretStr(faceid_emulator.secret_key)
    keys = Credentials(secret_id=faceid_emulator.secret_id, secret_key=key)
    async with FaceIdClient(faceid_emulator.url, keys, source_seconds=0.5) as client:
        file = await measure_source(PHOTO, f"{slow.url}/second/a.jpg")
        ticket = await client.create_upload_url(ACTION, REGION, "ImageUrl")
        with pytest.raises(InvalidInput, match=TOO_SLOW):
            await client.put_resource(ticket, file)
        assert not await client.resource_exists(ticket)
        slow.release()
        await client.put_resource(ticket, file, Patience())
        assert await client.resource_exists(ticket)


SCRIPT = f"""
import asyncio, sys
from pydantic import SecretStr
from faceid.client import FaceIdClient
from faceid.models import Credentials

async def main():
    keys = Credentials(secret_id="id", secret_key=SecretStr("key"))
    async with FaceIdClient("http://127.0.0.1:9", keys) as client:
        files = dict(ImageUrl=sys.argv[1], VideoUrl=sys.argv[1])
        await client.verify("{ACTION}", "{REGION}", files, dict(LivenessType="SILENT"))

asyncio.run(main())
"""


def test_a_process_ends_while_a_source_hangs(slow: SlowSources):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, f"{slow.url}/trickle/a.jpg"], stderr=subprocess.PIPE
    )
    slow.wait_for("/trickle/a.jpg")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert b"KeyboardInterrupt" in err
