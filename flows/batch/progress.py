"""Shows the progress of a batch in the dashboard. If that fails, the batch continues."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from uuid import UUID

import anyio.to_thread
from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.orchestration import PrefectClient
from prefect.runtime import flow_run

from flows.batch.runner import Batch, BatchStats

SECONDS = 2.0
"""Time between two updates, in seconds."""


@contextlib.asynccontextmanager
async def shown(batch: Batch) -> AsyncGenerator[None]:
    """Keep the artifact ``progress-<flow run id>`` and remote results up to date in the context."""
    async with contextlib.AsyncExitStack() as stack:
        progress = _Progress(batch, stack)
        task = asyncio.create_task(progress.keep())
        try:
            yield
        finally:
            task.cancel()
        await progress.write()


class _Progress:
    """Writes the progress of a batch. ``stack`` closes the client that this opens."""

    def __init__(self, batch: Batch, stack: contextlib.AsyncExitStack) -> None:
        self._batch = batch
        self._stack = stack
        # One client is used for all updates, because creating a client takes tens of milliseconds.
        self._client: PrefectClient | None = None
        self._began = time.monotonic()
        self._artifact: UUID | None = None
        self._has_warned = False

    async def keep(self) -> None:
        while True:
            await self.write()
            await asyncio.sleep(SECONDS)

    async def write(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._batch.results.publish)
            await self._write_artifact()
        except Exception as error:  # the server and the storage may raise errors of any kind
            if not self._has_warned:
                get_run_logger().warning("progress is not shown (%s)", type(error).__name__)
            self._has_warned = True

    async def _write_artifact(self) -> None:
        stats = self._batch.stats
        percent = 100 * stats.done / stats.total
        said = describe(stats, time.monotonic() - self._began)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                percent, key=f"progress-{flow_run.id}", description=said
            )
            return
        if self._client is None:
            self._client = await self._stack.enter_async_context(get_client())
        await aupdate_progress_artifact(
            self._artifact, percent, description=said, client=self._client
        )


def describe(stats: BatchStats, seconds: float) -> str:
    """Return a line with the counts, the rate and the time left.

    ``seconds`` is the time since the batch began.
    """
    rate = stats.done / max(seconds, 0.001)
    left = (stats.total - stats.done) / rate if rate else 0
    parts = [f"{stats.done:,} of {stats.total:,} requests finished"]
    parts += [f"{stats.status[status]:,} {status}" for status in ("failed", "waiting")]
    parts.append(f"{rate:.1f} requests/s")
    if 0 < stats.done < stats.total:
        parts.append(f"{timedelta(seconds=round(left))} left")
    return ", ".join(parts)
