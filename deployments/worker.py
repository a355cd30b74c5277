"""``python -m deployments.worker ...``: ``prefect worker start ...`` with a graceful shutdown.

When Prefect's process worker is terminated, for example because its container is restarted, it
kills its runs at once: calls that may be billed are cut off, and their answers are lost. This
worker instead takes no more runs and waits for those that it has. It sends SIGTERM to deliveries
and batches at once, which then let their calls in flight come home (``flows.delivery.shutdown``).
Other runs get ``run_seconds`` to finish before they are sent SIGTERM. The process manager decides
how long the worker may take before it is killed.
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

from deployments import grace
from faceid import redaction

FLOW_NAME = "prefect.io/flow-name"
"""Label of a run's configuration with the name of its flow."""
DRAINING = ("deliver", "deliver-batch")
"""The flows whose runs are sent SIGTERM at once, because they then end gently by themselves."""


class _Process(TaskStatus[int]):
    """The process of a flow run, and its termination.

    ``task_status`` receives the process ID, and ``seconds`` is the time that the run has to finish.
    """

    def __init__(self, task_status: TaskStatus[int], seconds: float) -> None:
        self._task_status = task_status
        self._seconds = seconds
        self._pid: int | None = None
        self._to_end = False
        self.ended = anyio.Event()

    def started(self, value: int | None = None) -> None:
        self._pid = value
        self._task_status.started(value)  # pyright: ignore[reportArgumentType]  # as Prefect calls it
        self._tell()

    async def end_when_cancelled(self) -> None:
        """Wait until cancelled, and then terminate the process unless it ends in time."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(self._seconds, shield=True):
                await self.ended.wait()
            self._to_end = not self.ended.is_set()
            self._tell()

    def _tell(self) -> None:
        if self._to_end and self._pid is not None:
            # The process is the leader of a process group of its own.
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGTERM)


with warnings.catch_warnings():
    # Prefect warns that this class replaces its own process worker, which is intended.
    warnings.filterwarnings("ignore", "Type 'GentleWorker'", UserWarning)

    class GentleWorker(ProcessWorker):
        """A process worker that lets its runs finish when it is terminated."""

        async def run(
            self,
            flow_run: FlowRun,
            configuration: ProcessJobConfiguration,
            task_status: TaskStatus[int] | None = None,
        ) -> ProcessWorkerResult:
            """Execute a flow run, and wait for the end of its process even if cancelled."""
            seconds = 0 if configuration.labels.get(FLOW_NAME) in DRAINING else grace.run_seconds()
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
    grace.install()
    # Prefect's worker turns SIGTERM into SIGINT. A process that a script has started in the
    # background ignores SIGINT, so the worker would never end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:1] = ["worker", "start"]
    app()
