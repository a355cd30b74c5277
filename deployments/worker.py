"""``python -m deployments.worker ...``: ``prefect worker start ...``, which ends its runs gently.

Prefect's process worker kills its runs at once when it is told to end, as at each restart of a
container: calls that may be billed are cut off, and their answers lost. This one takes no more and
waits. A batch is told to end, and lets what is in flight finish (``flows.batch.shutdown``); other
runs have as much time to come to their end, and are then told. Whoever started us decides for how
long.
"""

import os
import signal
import sys
import warnings
from contextlib import suppress

import anyio
from anyio.abc import TaskStatus
from prefect.cli import app
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from faceid import redaction
from flows.batch.shutdown import DRAIN_SECONDS

FLOW_NAME = "prefect.io/flow-name"
DRAINS = "deliver-batch"
"""The flow that is told at once: else it goes on for hours."""


class _Process(TaskStatus[int]):
    """A run's process, once it has one."""

    def __init__(self, task_status: TaskStatus[int], seconds: float) -> None:
        self._task_status = task_status
        self._seconds = seconds
        self._pid: int | None = None
        self._to_end = False
        self.ended = anyio.Event()

    def started(self, value: int | None = None) -> None:
        self._pid = value
        self._task_status.started(value)  # pyright: ignore[reportArgumentType]
        self._tell()

    async def end_when_cancelled(self) -> None:
        """Tells it to end when we are, after so many seconds if it has not ended by then."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(self._seconds, shield=True):
                await self.ended.wait()
            self._to_end = not self.ended.is_set()
            self._tell()

    def _tell(self) -> None:
        if self._to_end and self._pid is not None:
            # It leads a group of its own.
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGTERM)


with warnings.catch_warnings():
    # It takes the place of Prefect's own in this process, which is what Prefect warns of.
    warnings.filterwarnings("ignore", "Type 'GentleWorker'", UserWarning)

    class GentleWorker(ProcessWorker):
        """Lets runs come to their end when it is told to end itself."""

        async def run(
            self,
            flow_run: FlowRun,
            configuration: ProcessJobConfiguration,
            task_status: TaskStatus[int] | None = None,
        ) -> ProcessWorkerResult:
            seconds = 0 if configuration.labels.get(FLOW_NAME) == DRAINS else DRAIN_SECONDS
            process = _Process(task_status or anyio.TASK_STATUS_IGNORED, seconds)
            result = None
            async with anyio.create_task_group() as group:
                group.start_soon(process.end_when_cancelled)
                with anyio.CancelScope(shield=True):
                    try:
                        result = await super().run(flow_run, configuration, process)
                    finally:
                        process.ended.set()
                group.cancel_scope.cancel()
            assert result is not None
            return result


if __name__ == "__main__":
    redaction.install()
    sys.argv[1:1] = ["worker", "start"]
    app()
