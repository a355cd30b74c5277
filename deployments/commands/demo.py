"""``faceid demo``: a complete demonstration that needs no setup and leaves nothing behind."""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from deployments.stack import emulator, free_port, prefect_server, worker
from faceid.command import Exit
from faceid.emulator import EmulatorControl
from faceid.errors import InvalidInput
from faceid.models import DeliveryResult
from faceid.outputs import print_result, stderr
from faceid.samples import copy_samples

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

# In the third of every four requests, the photo and the video show different people.
PAIRS = (
    ("alder.jpg", "alder.mp4"),
    ("birch.jpg", "birch.mp4"),
    ("cedar.jpg", "alder.mp4"),
    ("alder.jpg", "alder.mp4"),
)
"""Photo and video of each request. After the last pair, the list begins again."""
STRANGER = "cedar.jpg"
"""The photo that shows another person than its video."""

RUNS_AT_ONCE = 2
"""Number of runs that the worker executes at the same time."""
POLL_SECONDS = 0.5
"""Seconds between two queries whether a run has ended."""


def demo(*, items: int = 4, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Demonstrate everything: emulator, Prefect server, deployment and a few deliveries.

    The demo starts everything on free ports with a temporary home, triggers each request through
    Prefect's API as a user would, stops everything, and prints a table of the results.

    Parameters
    ----------
    items
        How many requests to deliver.
    json
        Print the result objects as one JSON list instead of the table.
    """
    if items < 1:
        raise InvalidInput("InvalidRequest", "--items must be 1 or more")
    raise Exit(_run_demo(items, as_json=json))


def _run_demo(items: int, *, as_json: bool) -> int:
    """Deliver ``items`` sample requests and return the exit code."""
    with TemporaryDirectory(prefix="faceid-demo-") as folder, ExitStack() as stack:
        home = Path(folder)
        samples = copy_samples(_folder(home / "samples"))
        # With a separate home, nothing of the user's Prefect is read or written. The variable must
        # be set before Prefect is imported, because the import creates the home.
        environment = _bare(os.environ) | {
            "PREFECT_HOME": str(_folder(home / "prefect")),
            "FACEID_RESOURCE_ROOTS": str(home / "samples"),
            # Prefect's runner leaves a folder behind in the temporary directory.
            "TMPDIR": str(_folder(home / "tmp")),
            "DO_NOT_TRACK": "1",
        }
        stderr.print("starting the emulator and a Prefect server ...")
        _, address = stack.enter_context(emulator(environment, home / "emulator.log"))
        environment |= address.environment()
        _, api_url = stack.enter_context(
            prefect_server(free_port(), environment, home / "server.log")
        )
        stderr.print("deploying deliver/default ...")
        stack.enter_context(worker(api_url, environment, RUNS_AT_ONCE, home / "worker.log"))
        os.environ |= environment | {"PREFECT_API_URL": api_url}
        _plant_negative_verdict(EmulatorControl(address.url), samples[STRANGER])
        stderr.print(f"triggering {items} requests through {api_url} ...")
        results = asyncio.run(_deliver_all(items, samples))
        stderr.print("stopping everything ...")
    _show(results, as_json=as_json)
    return 0 if all(result.status == "verdict" for result in results) else 1


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _bare(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings of Prefect and of this project.

    Settings of the emulator are kept.
    """
    return {
        name: text
        for name, text in environment.items()
        if name.startswith("FACEID_EMULATOR_") or not name.startswith(("PREFECT_", "FACEID_"))
    }


def _plant_negative_verdict(control: EmulatorControl, photo: Path) -> None:
    """Tell the emulator, which does not compare faces, that this photo shows someone else."""
    control.add_fault(
        op="VideoLivenessCompare",
        do="api:FailedOperation.CompareLowSimilarity",
        times=0,
        match={"md5": hashlib.md5(photo.read_bytes(), usedforsecurity=False).hexdigest()},
    )


async def _deliver_all(items: int, samples: dict[str, Path]) -> list[DeliveryResult]:
    from prefect import get_client

    async with get_client() as client:
        deployment = await client.read_deployment_by_name("deliver/default")
        runs: dict[str, Any] = {}
        for number in range(items):
            photo, video = PAIRS[number % len(PAIRS)]
            request_id = f"demo-{number + 1}"
            run = await client.create_flow_run_from_deployment(
                deployment.id,
                parameters={
                    "request_id": request_id,
                    "target_action": "VideoLivenessCompare",
                    "region": "ap-singapore",
                    "resources": {
                        "ImageUrl": str(samples[photo]),
                        "VideoUrl": str(samples[video]),
                    },
                    "action_parameters": {"LivenessType": "SILENT"},
                },
            )
            runs[request_id] = run.id
        return [await _result(client, request_id, run_id) for request_id, run_id in runs.items()]


async def _result(client: "PrefectClient", request_id: str, run_id: Any) -> DeliveryResult:
    """Wait until a run has ended, print how it ended, and return its result object."""
    while True:
        run = await client.read_flow_run(run_id)
        if run.state is not None and run.state.is_final():
            break
        await asyncio.sleep(POLL_SECONDS)
    stderr.print(f"  {request_id}  {run.state.name}  {run.state.message}", markup=False)
    return await read_result(client, run_id)


async def read_result(client: "PrefectClient", run_id: Any) -> DeliveryResult:
    """Return the result object of a delivery run, read from the run's artifact."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    (artifact,) = await client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"result-{run_id}"]))
    )
    (result,) = orjson.loads(str(artifact.data))
    return DeliveryResult.model_validate(result)


def _show(results: list[DeliveryResult], *, as_json: bool) -> None:
    if as_json:  # results go to stdout
        print_result("[" + ",".join(result.model_dump_json() for result in results) + "]")
        return
    table = Table(title="What the service answered (an emulator: no verdict here is real)")
    for column in ("request", "outcome", "verdict", "result", "similarity", "windows", "calls"):
        table.add_column(column, overflow="fold")
    for result in results:
        verdict = result.verdict
        table.add_row(
            result.request_id,
            result.status if result.error is None else result.error.code,
            "-" if verdict is None else "passed" if verdict.passed else "not passed",
            (verdict and verdict.result) or "-",
            f"{verdict.similarity:.2f}" if verdict and verdict.similarity is not None else "-",
            str(result.windows),
            str(result.calls),
        )
    Console().print(table)
