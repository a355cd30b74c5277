"""How long single deliveries wait for the pacer while a batch uses the account's whole limit.

A batch runs as a user would run it. Meanwhile, this benchmark acquires starts from the pacer at
random intervals, with the priority of single deliveries, and far more often than the three times a
minute for which the priority is intended.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from statistics import median, quantiles

from benchmarks.batch import deliver_batch
from benchmarks.measured import Figures, stage
from deployments.settings_files import SERVER_SETTINGS
from faceid.actions import CREATE_UPLOAD_URL
from faceid.pacing import Pacer

REQUESTS = 1000
SECONDS_BETWEEN = (0.1, 0.7)


async def _waits(open_pacer: Callable[[], Pacer], batch: "Future[Figures]") -> list[float]:
    pacer = open_pacer()
    waits: list[float] = []
    while not batch.done():
        await asyncio.sleep(random.uniform(*SECONDS_BETWEEN))
        began = time.monotonic()
        await pacer.acquire()
        waits.append(time.monotonic() - began)
    return waits


def main() -> None:
    with stage(lifted=False, server=SERVER_SETTINGS) as on, ThreadPoolExecutor(1) as threads:
        os.environ |= (
            on.environment
        )  # before Prefect is imported, because it reads its settings on import
        from tasks.settings import DeliverySettings
        from tasks.state.pacing import open_pacers
        from tasks.state.storage import open_storage

        settings = DeliverySettings.load()
        pacers = open_pacers(settings, open_storage(settings), settings.account, priority=True)
        batch = threads.submit(deliver_batch, "IdCardOCRVerification", REQUESTS, on)
        waits = asyncio.run(_waits(partial(_known, pacers), batch))
        figures = batch.result()
    percent_99 = quantiles(waits, n=100)[98]
    print(
        f"  {len(waits)} single starts waited {median(waits) * 1000:.0f} ms (median), "
        f"{percent_99 * 1000:.0f} ms (p99), {max(waits) * 1000:.0f} ms (most); "
        f"{figures.throttled} throttled"
    )


def _known(pacers: Callable[[str], Pacer | None]) -> Pacer:
    pacer = pacers(CREATE_UPLOAD_URL)
    assert pacer is not None
    return pacer
