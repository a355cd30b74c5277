"""``faceid results`` prints the result lines of a batch that was started elsewhere."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings

from faceid.emulator import Emulator
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from tests.deployments.command_line import Ended
from tests.sample_request import REQUEST

Faceid = Callable[..., Ended]


@pytest.fixture
def started(
    prefect_api: str, emulator: Emulator, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """A function that runs a batch without the command, and returns its flow run ID."""
    rates = '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}'
    monkeypatch.setenv("FACEID_RATES", rates)

    def run(count: int, **changes: Any) -> str:
        entries = [REQUEST | {"request_id": f"p-{n}"} for n in range(count)]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (samples / "people.jsonl").write_text(text)
        batch = cast("Any", deliver_batch)("people.jsonl", **changes, return_state=True)
        state: State[Any] = asyncio.run(batch)
        return str(state.state_details.flow_run_id)

    return run


def test_lines_are_found_by_the_run(
    faceid: Faceid, started: Callable[..., str], samples: Path, emulator: Emulator
):
    for changes in ({}, {"results": str(samples / "here")}):
        run = started(3, **changes)
        code, out, _ = faceid("results", run)
        assert code == 0
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["request_id"] for line in lines] == ["p-0", "p-1", "p-2"]
    emulator.add_fault("VideoLivenessCompare", "api:FailedOperation.ImageDecodeFailed")
    (samples / "storage").rename(samples / "gone")
    code, out, _ = faceid("results", started(3))
    assert code == 1
    assert sorted(json.loads(line)["status"] for line in out.splitlines()) == [
        "failed",
        "verdict",
        "verdict",
    ]


def test_without_a_server_the_storage_is_enough(faceid: Faceid, started: Callable[..., str]):
    run = started(2)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, out, err = faceid("results", run)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "only in FACEID_STORAGE" in err


def test_the_lines_are_those_of_the_last_run_of_a_chain(
    faceid: Faceid, started: Callable[..., str]
):
    first, second = started(1), started(2)

    async def link() -> None:
        async with get_client() as client:
            run = await client.read_flow_run(cast("Any", first))
            await client.update_flow_run(run.id, tags=[*run.tags, f"next:{second}"])

    asyncio.run(link())
    code, out, err = faceid("results", first)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert second in err


def test_what_is_no_batch_is_told(faceid: Faceid, prefect_api: str, emulator: Emulator):
    single: State[Any] = asyncio.run(cast("Any", deliver)(**REQUEST, return_state=True))
    runs = {
        "people": "'people' is not a flow run ID",
        str(uuid4()): "the Prefect server has no run",
        str(single.state_details.flow_run_id): "is a run of deliver, not a batch",
    }
    for run, said in runs.items():
        code, out, err = faceid("results", run)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
