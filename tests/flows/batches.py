"""Manifests with variants of the sample request, and batches that run in this process."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, cast

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State

from faceid.models import DeliveryResult
from flows.deliver_batch import deliver_batch
from tests.sample_request import REQUEST


class Ended(NamedTuple):
    """How a batch ended, its result lines, and the IDs of the requests that failed."""

    state: State[Any]
    run: FlowRun
    lines: list[DeliveryResult]
    failures: list[str]


RunBatch = Callable[..., Coroutine[Any, Any, Ended]]


def entry(request_id: str, **changes: Any) -> dict[str, Any]:
    return REQUEST | {"request_id": request_id} | changes


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in entries))
    return path


async def run_batch(manifest: Path | str, folder: Path, **changes: Any) -> Ended:
    """Run a batch, and return how it ended. The result files in the folder are removed."""
    arguments = {"manifest": str(manifest), "results": str(folder)} | changes
    state: State[Any] = await cast("Any", deliver_batch)(**arguments, return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(cast("Any", state.state_details.flow_run_id))
    lines: list[DeliveryResult] = []
    failures: list[str] = []
    if (folder / "results.jsonl").exists():
        text = (folder / "results.jsonl").read_text()
        lines = [DeliveryResult.model_validate_json(line) for line in text.splitlines()]
        text = (folder / "failures.jsonl").read_text()
        failures = [json.loads(line)["request_id"] for line in text.splitlines()]
        for name in ("results.jsonl", "failures.jsonl"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
            (folder / name).unlink()
    return Ended(state, run, lines, failures)
