"""A batch whose manifest, files, results and records are all in an S3 store, locked by Redis."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.fernet import Fernet
from prefect.client.schemas.objects import State
from s3fs import S3FileSystem

from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from faceid.samples import copy_samples
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.forget import Forgotten, open_forgetting
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tests.flows.batches import entry
from tests.flows.helpers import calls_of
from tests.s3.s3_store import change_key
from tests.sample_request import REQUEST

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("own_redis")]


@pytest.fixture
def at(
    bucket: str,
    prefect_api: str,
    emulator: Emulator,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The name of a bucket with a manifest of three requests, one of which names a missing file."""
    files = S3FileSystem()
    for name in ("alder.jpg", "alder.mp4"):
        files.put_file(str(samples / name), f"{bucket}/day/photos/{name}")
        (samples / name).unlink()
    lines = [entry(f"p-{n}") for n in range(3)]
    for number, line in enumerate(lines):
        image = "none.jpg" if number == 1 else "alder.jpg"
        line["resources"] = {"ImageUrl": f"photos/{image}", "VideoUrl": "photos/alder.mp4"}
    manifest = "".join(json.dumps(line) + "\n" for line in lines)
    files.pipe_file(f"{bucket}/day/people.jsonl", manifest.encode())
    monkeypatch.setenv("FACEID_STORAGE", f"s3://{bucket}/storage")
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", f"s3://{bucket}/")
    return bucket


async def run(bucket: str, **changes: Any) -> tuple[State[Any], list[DeliveryResult]]:
    arguments = {"manifest": f"s3://{bucket}/day/*.jsonl", "results": f"s3://{bucket}/out"}
    state: State[Any] = await cast("Any", deliver_batch)(**arguments | changes, return_state=True)
    files: Any = S3FileSystem()
    text = files.cat_file(f"{bucket}/out/results.jsonl") if files.exists(f"{bucket}/out") else b""
    files.invalidate_cache()
    return state, [DeliveryResult.model_validate_json(line) for line in text.splitlines()]


async def test_a_batch_needs_no_folder_of_this_machine(at: str, emulator: Emulator):
    state, lines = await run(at)
    assert state.message == "partial: 2 verdicts, 1 failed of 3 requests [emulator]"
    assert [line.status for line in lines] == ["verdict", "failed", "verdict"]
    assert lines[1].error
    assert lines[1].error.message.startswith(
        "InvalidResource: resource ImageUrl: there is no such file"
    )
    assert calls_of(emulator) == 2

    # Requests with a verdict are not called again, and do not need their files any more.
    files: Any = S3FileSystem()
    files.cp_file(f"{at}/day/photos/alder.jpg", f"{at}/day/photos/none.jpg")
    files.rm_file(f"{at}/day/photos/alder.jpg")
    state, lines = await run(at)
    assert state.message == "completed: 3 verdicts of 3 requests [emulator]"
    assert [line.calls for line in lines] == [1, 1, 1]
    assert calls_of(emulator) == 3

    settings = DeliverySettings.load()
    async with open_forgetting(settings, keep_verdict=False, has_server=False) as forgetting:
        store = RecordStore(forgetting.storage, settings.service, settings.account)
        done = [one async for one in forgetting.each(store, ["p-0", "p-1", "p-2"])]
    assert all(isinstance(one, Forgotten) for one in done)
    files.invalidate_cache()
    left = [path for path in files.find(f"{at}/storage") if "/batches/" not in path]
    assert left == [f"{at}/storage/{layout.TRIAL}"]


async def test_a_key_that_the_store_refuses_sends_nothing(
    at: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    change_key(monkeypatch)
    state: State[Any] = await cast("Any", deliver_batch)(
        manifest=f"s3://{at}/day/*.jsonl", return_state=True
    )
    said = state.message or ""
    assert said.startswith("invalid-input: InvalidManifest: manifest: the folder cannot be listed")
    assert "(permission denied)" in said
    assert "EXAMPLE-wrong-secret" not in said
    assert emulator.requests() == []


async def test_a_storage_that_cannot_be_used_is_told_and_nothing_is_sent(
    at: str, emulator: Emulator, samples: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_samples(samples)
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", str(samples))
    change_key(monkeypatch)
    state: State[Any] = await cast("Any", deliver)(**REQUEST, return_state=True)
    said = state.message or ""
    assert said.startswith("unavailable: StorageUnavailable: cannot use the storage (Permission")
    assert emulator.requests() == []
