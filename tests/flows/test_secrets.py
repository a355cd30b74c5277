"""After runs that failed in every way, no secret is found in any output or storage."""

import base64
import logging
from pathlib import Path

import pytest

from faceid.emulator import Emulator
from tasks.state.storage import KEY_FILE
from tests.environment import HOME
from tests.flows.deliveries import Deliver, task_runs_of
from tests.waiting import wait_until

FAULTS = [
    ("CreateUploadUrl", "http:502"),
    ("CreateUploadUrl", "truncate"),
    ("PutObject", "http:503"),
    ("PutObject", "reset"),
    ("PutObject", "api:SignatureDoesNotMatch"),
    ("VideoLivenessCompare", "api:FailedOperation.DownLoadError"),
    ("VideoLivenessCompare", "commit-then-reset"),
]


async def test_no_url_no_key_and_no_face_is_left_behind(
    run_deliver: Deliver,
    emulator: Emulator,
    samples: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
):
    # The most verbose logging: httpx logs every URL that it calls.
    for name in ("httpx", "httpcore", "prefect"):
        caplog.set_level(logging.DEBUG, logger=name)
    for op, fault in FAULTS:
        emulator.add_fault(op, fault)
    _, first, run = await run_deliver()
    emulator.add_fault("PutObject", "http:503", times=0)
    _, second, _ = await run_deliver(request_id="r-2")
    assert first.status == "verdict"
    assert second.status == "waiting"

    async def recorded() -> bool | None:
        return all(task.state_name for task in await task_runs_of(run)) or None

    await wait_until(recorded, "task runs in the database")
    capture = capfd.readouterr()
    places = {
        "the output": (capture.out + capture.err).encode(),
        "the log": caplog.text.encode(),
        "the results": (first.model_dump_json() + second.model_dump_json()).encode(),
        **{
            str(path.relative_to(HOME)): path.read_bytes()
            for path in Path(HOME).rglob("*")
            if path.is_file()
        },
        **{
            str(path.relative_to(samples)): path.read_bytes()
            for path in (samples / "storage").rglob("*")
            if path.is_file() and path.name != KEY_FILE
        },
    }
    assert any(name.startswith("prefect.db") for name in places)
    assert any(name.startswith("storage/records") for name in places)
    assert any(name.startswith("storage/cache") for name in places)
    photo = (samples / "alder.jpg").read_bytes()
    secrets = {
        "a presigned URL": b"q-sign",
        "its signature": b"q-signature",
        "the store's key": b"q-ak",
        "the secret key": emulator.secret_key.encode(),
        "the API's signature": b"TC3-HMAC-SHA256 Cred",
        "a face": photo[200:232],
        "a face in base64": base64.b64encode(photo)[240:280],
    }
    found = [
        f"{what} in {place}"
        for what, secret in secrets.items()
        for place, content in places.items()
        if secret in content
    ]
    assert found == []
    # Check the search: it finds text that may be stored.
    assert any(b"r-2" in content for name, content in places.items() if name.startswith("prefect"))
