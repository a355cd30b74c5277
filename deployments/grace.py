"""How long a run's process may take to end before it is killed.

A run that is told to end lets its calls in flight come home, for up to ``FACEID_DRAIN_SECONDS``
(``flows.delivery.shutdown``), and then reports how it ended. Prefect's runner, which executes the
runs of the local stack as well as those of a pool's process worker, sends SIGKILL 30 seconds after
SIGTERM, and has no setting for that time.
"""

from typing import TYPE_CHECKING
from uuid import UUID

from tasks.settings import DeliverySettings

if TYPE_CHECKING:
    from prefect.runner._process_manager import ProcessManager

REPORT_SECONDS = 15.0
"""Seconds that a run has after the drain to report how it ended."""


def run_seconds() -> float:
    """Return the seconds for which the process of a run may take to end."""
    return DeliverySettings.load().drain_seconds + REPORT_SECONDS


def install() -> None:
    """Let Prefect's runner in this process wait for ``run_seconds`` before it kills a run."""
    # ``faceid demo`` chooses Prefect's home before it imports Prefect, and imports this module
    # earlier.
    from prefect.runner._process_manager import ProcessManager  # the only place with that time

    prefects_kill = ProcessManager.kill

    async def kill(
        self: "ProcessManager", flow_run_id: UUID, grace_seconds: float = 30, *, force: bool = False
    ) -> None:
        await prefects_kill(self, flow_run_id, max(grace_seconds, run_seconds()), force=force)

    ProcessManager.kill = kill
