"""The cost of cache and record for a delivery, in CPU time and in requests per second.

Deliveries run in this process, a few at a time, with a separate Prefect server and an emulator
whose rate limits are raised. Rounds with and without cache and record take turns, so that a machine
that slows down affects both. The ratio is more meaningful than the absolute figures.
"""

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast
from unittest import mock

import psutil

from deployments.stack import emulator, free_port, prefect_server
from faceid.samples import copy_samples

ROUNDS = 4
REQUESTS = 24
AT_ONCE = 4


class Round(NamedTuple):
    """The figures of one round."""

    flow: float
    """CPU time per request in this process, in milliseconds."""
    server: float
    """CPU time per request in the Prefect server, in milliseconds."""
    rate: float
    """Requests per second."""


@contextmanager
def _nothing_kept() -> Generator[None]:
    """Disable Prefect's cache for the steps, and the reading and writing of records."""
    from prefect.cache_policies import NO_CACHE

    from flows.delivery import run as flow
    from tasks.state.storage import Storage

    with ExitStack() as stack:
        for name in ("request_upload_url", "upload_resource"):
            task: Any = getattr(flow, name)
            bare = task.with_options(cache_policy=NO_CACHE, persist_result=False)
            stack.enter_context(mock.patch.object(flow, name, bare))
        stack.enter_context(mock.patch.object(Storage, "read", return_value=None))
        stack.enter_context(mock.patch.object(Storage, "write", return_value=None))
        yield


async def _deliver(name: str, samples: dict[str, Path]) -> None:
    from flows.deliver import deliver

    state: Any = await cast("Any", deliver)(
        request_id=name,
        target_action="VideoLivenessCompare",
        region="ap-singapore",
        resources={
            "ImageUrl": str(samples["alder.jpg"]),
            "VideoUrl": str(samples["alder.mp4"]),
        },
        action_parameters={"LivenessType": "SILENT"},
        return_state=True,
    )
    assert state.is_completed(), state


async def _round(name: str, samples: dict[str, Path], server: psutil.Process) -> Round:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await _deliver(f"{name}-{number}", samples)

    cpu, server_cpu, start = time.process_time(), sum(server.cpu_times()[:2]), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    elapsed = time.perf_counter() - start
    return Round(
        flow=(time.process_time() - cpu) / REQUESTS * 1000,
        server=(sum(server.cpu_times()[:2]) - server_cpu) / REQUESTS * 1000,
        rate=REQUESTS / elapsed,
    )


async def _rounds(samples: dict[str, Path], server: psutil.Process) -> tuple[list[Round], ...]:
    kept: list[Round] = []
    bare: list[Round] = []
    await _round("warm", samples, server)
    for number in range(ROUNDS):
        kept.append(await _round(f"kept-{number}", samples, server))
        with _nothing_kept():
            bare.append(await _round(f"bare-{number}", samples, server))
    return kept, bare


def main() -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        (home / "samples").mkdir()
        samples = copy_samples(home / "samples")
        environment = {
            **os.environ,
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "FACEID_RESOURCE_ROOTS": str(home / "samples"),
            "FACEID_RATES": '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}',
            "FACEID_EMULATOR_RATES": '{"CreateUploadUrl": 9999, "VideoLivenessCompare": 9999}',
        }
        _, address = stack.enter_context(emulator(environment, home / "emulator.log"))
        server, api_url = stack.enter_context(
            prefect_server(free_port(), environment, home / "server.log")
        )
        # Set before Prefect is imported, because Prefect reads its settings on import.
        os.environ |= environment | address.environment() | {"PREFECT_API_URL": api_url}
        kept, bare = asyncio.run(_rounds(samples, psutil.Process(server.process.pid)))
    print(f"  {'':28}flow CPU ms  server CPU ms  requests/s   (medians of {ROUNDS} rounds)")
    for title, rounds in (("with cache and record", kept), ("without", bare)):
        figures = [median(getattr(r, name) for r in rounds) for name in Round._fields]
        print(f"  {title:28}{figures[0]:11.0f}{figures[1]:15.0f}{figures[2]:12.1f}")
    extra = median(r.flow for r in kept) - median(r.flow for r in bare)
    ratio = median(r.rate for r in kept) / median(r.rate for r in bare)
    print(f"  they add {extra:.1f} ms of CPU to a request; {ratio:.0%} of the rate is left")
