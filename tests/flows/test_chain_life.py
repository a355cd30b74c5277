"""A deployed request's life, told by hypothesis: workers die at any point, runs are cancelled, the
service is ill, windows close, and the sweeper comes by.

Each run is the real flow as a run of a real deployment, recorded by a real Prefect server; the test
plays the worker. A run that dies tells nobody, as a killed process: for Prefect it stays Running,
or Pending if it had not begun.
"""

import asyncio
import shutil
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as live
from prefect import get_client
from prefect.states import Cancelled, Running

from faceid.emulator import Emulator
from flows.delivery import follow_ups as rerequest
from flows.upkeep import dead_runs
from tasks.state.storage import Storage
from tests.flows.deployed import Worker, swept, tag
from tests.flows.helpers import ACTION, calls_of, record_of
from tests.flows.test_life import FAULTS, LIVES, Crash, Interruption

OURS = [fault for fault in FAULTS if fault[0] == ACTION] + [(ACTION, "expire-now")]
_faults = st.tuples(st.sampled_from(OURS), st.sampled_from([1, 9])).map(
    lambda drawn: (*drawn[0], drawn[1])
)
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class ChainLife(RuleBasedStateMachine):
    """One request, the runs of its chain, and everything that can happen to them."""

    api_url: str
    emulator: Emulator
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="faceid-life-"))
        self.stack.enter_context(pytest.MonkeyPatch.context()).setenv(
            "FACEID_STORAGE", str(self.folder)
        )
        self.emulator.reset()
        self.worker = self.runner.run(Worker.of_a_deployment(self.api_url))
        self.intents: set[str] = set()
        self.unsent = 0
        """Deaths after the intent to call was stored and before the call began."""
        self.runs = [str(self.runner.run(self.worker.trigger()))]
        self.cancelled = False

    def teardown(self) -> None:
        try:
            self.emulator.clear_faults()
            for _ in range(20):
                self.sweep()
                if not self._scheduled():
                    break
                while self._scheduled():
                    self.work(None)
            self._came_to_its_end()
        finally:
            self.runner.run(self.worker.leave_nothing())
            self.stack.close()
            shutil.rmtree(self.folder)

    def _came_to_its_end(self) -> None:
        assert {run["state"]["type"] for run in self._chain()} <= FINAL
        assert not list((self.folder / "open").rglob("*.json")), "something is open for ever"
        record = self.runner.run(record_of(self.worker.request_id)) if self._began() else None
        if record is None:
            assert self.cancelled, "the request was lost"
            return
        assert record.outcome in ("verdict", "invalid-input") or self.cancelled, record.outcome
        assert record.calls - self.unsent == calls_of(self.emulator)
        if record.verdict is not None:
            assert record.reply is not None
            verdicts = self.emulator.requests(op=ACTION)
            assert (
                sum(
                    entry["tencent_request_id"] == record.reply.tencent_request_id
                    for entry in verdicts
                )
                == 1
            )

    def _began(self) -> bool:
        return any((self.folder / "records").rglob("*.json"))

    def _chain(self) -> list[dict[str, Any]]:
        return self.worker.chain()

    def _scheduled(self) -> list[str]:
        """Runs that a worker may take, in the order they were made."""
        tagged = {run["id"]: run["state"]["type"] for run in self._chain()}
        first = [run for run in self.runs if run not in tagged]
        return first + [run for run, state in tagged.items() if state == "SCHEDULED"]

    @invariant()
    def the_request_is_left_to_one_run_alone(self) -> None:
        states = [run["state"]["type"] for run in self._chain() if tag(run, "window")]
        assert states.count("SCHEDULED") <= 1

    @initialize(faults=st.lists(_faults, max_size=3))
    def a_bad_day(self, faults: list[tuple[str, str, int]]) -> None:
        for op, do, times in faults:
            self.emulator.add_fault(op, do, times=times)

    @rule(fault=_faults)
    def the_service_is_ill(self, fault: tuple[str, str, int]) -> None:
        op, do, times = fault
        self.emulator.add_fault(op, do, times=times)

    @rule(seconds=st.sampled_from([600, 7300]))
    def time_passes(self, seconds: int) -> None:
        self.emulator.advance(seconds)

    @precondition(lambda self: len(cast("ChainLife", self).runs) < 3)
    @rule()
    def a_trigger(self) -> None:
        self.runs.append(str(self.runner.run(self.worker.trigger())))

    @rule(dies_at=st.none() | st.integers(0, 30))
    def work(self, dies_at: int | None) -> None:
        """A worker takes the next run; it may be killed at the n-th point."""
        scheduled = self._scheduled()
        if not scheduled:
            return
        at = -1 if dies_at is None else dies_at
        interruption = Interruption(self.emulator, self.intents, at, "crash")
        with pytest.MonkeyPatch.context() as patch:
            interruption.patch(patch)
            self._patch_scheduling(interruption, patch)
            try:
                self.runner.run(self.worker.work(scheduled[0]))
            except Crash:
                self.unsent += interruption.intent_unsent
                self.runner.run(_set_state(scheduled[0], Running()))
        self.runs = [run for run in self.runs if run != scheduled[0]]

    def _patch_scheduling(self, interruption: Interruption, patch: pytest.MonkeyPatch) -> None:
        create_run, remove = rerequest.create_run, Storage.remove

        async def interrupted_create(*args: Any, **more: Any) -> Any:
            interruption.point()
            run = await create_run(*args, **more)
            interruption.point()
            return run

        def interrupted_remove(storage: Storage, name: str) -> None:
            interruption.point()
            remove(storage, name)

        patch.setattr(rerequest, "create_run", interrupted_create)
        patch.setattr(Storage, "remove", interrupted_remove)

    @rule()
    def a_worker_dies_before_its_run_begins(self) -> None:
        scheduled = self._scheduled()
        if scheduled:
            self.runner.run(self.worker.taken(scheduled[0]))
            self.runs = [run for run in self.runs if run != scheduled[0]]

    @rule()
    def a_person_cancels(self) -> None:
        scheduled = self._scheduled()
        if scheduled:
            self.cancelled = True
            self.runner.run(_set_state(scheduled[-1], Cancelled()))
            self.runs = [run for run in self.runs if run != scheduled[-1]]

    @rule()
    def sweep(self) -> None:
        """What one sweep has done, the next has not to do."""
        self.runner.run(swept())
        assert "scheduled" not in self.runner.run(swept())


async def _set_state(flow_run_id: str, state: Any) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(cast("Any", flow_run_id), state, force=True)


@pytest.mark.timeout(timedelta(minutes=20).total_seconds())
def test_every_chain_comes_to_its_end(
    emulator: Emulator,
    prefect_api: str,
    runner: asyncio.Runner,
    no_delays: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dead_runs, "silence", lambda: timedelta(0))
    ChainLife.api_url, ChainLife.emulator, ChainLife.runner = prefect_api, emulator, runner
    live(
        ChainLife,
        settings=settings(
            max_examples=int(LIVES or 6),
            derandomize=not LIVES,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
