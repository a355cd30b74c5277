"""``python -m deployments.worker ...``: ``prefect worker start ...``, which ends its runs gently.

Prefect's process worker kills its runs at once when it is told to end, as at each restart of a
container: calls that may be billed are cut off, and their answers lost. This one tells them to end,
takes no more, and waits for them: a batch lets what is in flight finish (``flows.interrupts``).
Whoever started it decides for how long.
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


class _Process(TaskStatus[int]):
    """A run's process, once it has one; and whether it is to end."""

    def __init__(self, task_status: TaskStatus[int]) -> None:
        self._task_status = task_status
        self._pid: int | None = None
        self._to_end = False

    def started(self, value: int | None = None) -> None:
        self._pid = value
        self._task_status.started(value)  # pyright: ignore[reportArgumentType]
        if self._to_end:
            self._end()

    async def end_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._to_end = True
            self._end()

    def _end(self) -> None:
        if self._pid is not None:
            # It leads a group of its own, which is gone when it has ended.
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
            process = _Process(task_status or anyio.TASK_STATUS_IGNORED)
            result = None
            async with anyio.create_task_group() as group:
                group.start_soon(process.end_when_cancelled)
                with anyio.CancelScope(shield=True):
                    result = await super().run(flow_run, configuration, process)
                group.cancel_scope.cancel()
            assert result is not None
            return result


if __name__ == "__main__":
    redaction.install()
    sys.argv[1:1] = ["worker", "start"]
    app()
