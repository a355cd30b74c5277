"""Carries out the faults of a schedule, and remembers what was done to whom."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.chaos.load import Load
from tests.chaos.parts import having, marked
from tests.chaos.schedule import CUTS, Fault
from tests.chaos.servers import Local, Servers, Shared

CANCEL_SECONDS = 30.0
"""How long a fault waits for a run that it can cancel."""
AFTERMATH = 15.0
"""Seconds after a fault within which it may still explain something."""


@dataclass
class Happened:
    """A fault that was carried out."""

    fault: Fault
    began: float
    """When it began, in Unix seconds."""
    ended: float = 0.0
    """When it was over; 0 while it is not."""
    what: str = ""
    """What it met."""


class Faults(threading.Thread):
    """The thread that carries out a schedule, one fault after the other.

    Only a stopped process does not hold up the next fault.
    """

    def __init__(self, servers: Servers, load: Load, schedule: list[Fault]) -> None:
        super().__init__(name="faults", daemon=True)
        self.servers = servers
        self.load = load
        self.left = list(schedule)
        """Faults that have not happened yet."""
        self.happened: list[Happened] = []
        self.killed: dict[int, float] = {}
        """When processes that call were killed, by process ID."""
        self.stopped: list[tuple[int, float, float]] = []
        """Processes that were stopped, from when to when."""
        self._timers: list[threading.Timer] = []
        self._step = threading.Event()
        self._is_over = False
        servers.recorder.on_step = self._step.set

    def run(self) -> None:
        while not self._is_over:
            self._step.wait(1)
            self._step.clear()
            steps = self.servers.recorder.steps
            for fault in [fault for fault in self.left if steps[fault.step] >= fault.after]:
                self.left.remove(fault)
                self._carry_out(fault)

    def finish(self) -> None:
        """End the thread, and let what is stopped go on."""
        self._is_over = True
        self._step.set()
        self.join()
        for timer in self._timers:
            timer.join()

    def near(self, moment: float, *kinds: str, before: float = 0.0) -> bool:
        """Return whether a fault of these kinds was at work around a moment, or soon after it."""
        return any(
            one.fault.kind in kinds
            and one.began - AFTERMATH <= moment <= (one.ended or time.time()) + before
            for one in self.happened
        )

    def _carry_out(self, fault: Fault) -> None:
        happened = Happened(fault, time.time())
        self.happened.append(happened)
        method: Callable[[Fault], str] = (
            self._cut if fault.kind in CUTS else getattr(self, "_" + fault.kind.replace("-", "_"))
        )
        try:
            happened.what = method(fault)
        except (httpx.HTTPError, psutil.Error) as error:
            happened.what = f"nothing: {type(error).__name__}"
        happened.ended = time.time()
        print(f"  after {fault.after} {fault.step}s: {fault.kind}: {happened.what}", flush=True)

    def _cut(self, fault: Fault) -> str:
        self.servers.recorder.arm(fault)
        what = "upload" if fault.step == "upload" else "call"
        return f"the next {what}, after {fault.share:.0%} of its bytes"

    # Processes that call.

    def _kill_runs(self, fault: Fault) -> str:
        runs = self.servers.runs()
        return self._kill(runs if fault.share < 0.3 else self._one_of(runs, fault))

    def _kill_command(self, fault: Fault) -> str:
        return self._kill(self._one_of(self._commands(), fault))

    def _end_command(self, fault: Fault) -> str:
        number = signal.SIGINT if fault.share < 0.5 else signal.SIGTERM
        chosen = self._one_of(self._commands(), fault)
        for process in chosen:
            process.send_signal(number)
        return f"{number.name} to {len(chosen)}"

    def _stop_run(self, fault: Fault) -> str:
        chosen = self._one_of([*self.servers.runs(), *self._commands()], fault)
        for process in chosen:
            process.send_signal(signal.SIGSTOP)
            now = time.time()
            self.stopped.append((process.pid, now, now + fault.seconds))
            timer = threading.Timer(fault.seconds, _let_go_on, [process])
            timer.start()
            self._timers.append(timer)
        return f"{len(chosen)} processes for {fault.seconds} s"

    def _commands(self) -> list[psutil.Process]:
        ours = having(marked(self.servers.mark), "faceid")
        return having(ours, "deliver", "batch")

    def _one_of(self, processes: list[psutil.Process], fault: Fault) -> list[psutil.Process]:
        """Return the process that called last, if it is one of these; else one by its place."""
        callers = [call.pid for call in self.servers.recorder.calls]
        for process in processes:
            if callers and process.pid == callers[-1]:
                return [process]
        return processes[int(fault.share * len(processes)) :][:1]

    def _kill(self, processes: list[psutil.Process]) -> str:
        for process in processes:
            self.killed[process.pid] = time.time()
            process.kill()
        return f"{len(processes)} processes"

    # Workers and servers.

    def _kill_worker(self, fault: Fault) -> str:
        worker = self._worker(fault)
        assert worker.process
        runs: list[psutil.Process] = []
        if fault.share < 0.5:
            family = psutil.Process(worker.process.pid).children(recursive=True)
            runs = [run for run in self.servers.runs() if run in family]
        worker.end()
        said = self._kill(runs)
        time.sleep(fault.seconds)
        worker.start()
        return f"{worker.name} with {said}"

    def _end_worker(self, fault: Fault) -> str:
        worker = self._worker(fault)
        worker.end(signal.SIGTERM)
        worker.start()
        return worker.name

    def _worker(self, fault: Fault) -> Any:
        return self.servers.workers[int(fault.share * len(self.servers.workers))]

    def _kill_server(self, fault: Fault) -> str:
        self.servers.server.end()
        time.sleep(fault.seconds)
        self.servers.server.start()
        return f"for {fault.seconds} s"

    def _kill_emulator(self, fault: Fault) -> str:
        self.servers.kill_emulator()
        time.sleep(fault.seconds)
        self.servers.start_emulator()
        return f"for {fault.seconds} s"

    # What they use.

    def _storage_away(self, fault: Fault) -> str:
        return _for(self.servers.store_away(), fault)

    def _disk_full(self, fault: Fault) -> str:
        assert isinstance(self.servers, Local)
        if not self.servers.is_mounted:
            return "not possible: no disk could be mounted"
        return _for(self.servers.fill_disk(), fault)

    def _redis_flush(self, _: Fault) -> str:
        assert isinstance(self.servers, Shared)
        self.servers.redis.flushall()
        return "all locks and rates"

    def _redis_restart(self, fault: Fault) -> str:
        assert isinstance(self.servers, Shared)
        self.servers.redis_server.end()
        time.sleep(fault.seconds)
        self.servers.redis_server.start()
        return f"for {fault.seconds} s"

    def _postgres_restart(self, fault: Fault) -> str:
        assert isinstance(self.servers, Shared)
        self.servers.postgres_control("stop", "-m", "immediate" if fault.share < 0.5 else "fast")
        time.sleep(fault.seconds)
        self.servers.postgres_control("start")
        return f"for {fault.seconds} s"

    # Clocks and people.

    def _move_service_clock(self, fault: Fault) -> str:
        self.servers.control().advance(fault.seconds)
        return f"{fault.seconds:.0f} s ahead: all windows are over"

    def _move_client_clocks(self, fault: Fault) -> str:
        # What a client notices is the difference between the clocks.
        self.servers.skew = fault.seconds if fault.share < 0.5 else -fault.seconds
        self.servers.kill_emulator()
        self.servers.start_emulator()
        return f"{-self.servers.skew:.0f} s ahead of the service's"

    def _cancel_run(self, fault: Fault) -> str:
        return self._cancel("deliver", fault)

    def _cancel_batch(self, fault: Fault) -> str:
        return self._cancel("deliver-batch", fault)

    def _cancel(self, flow: str, fault: Fault) -> str:
        query = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {
                "state": {"type": {"any_": ["RUNNING"]}},
                "deployment_id": {"is_null_": False},
            },
            "sort": "START_TIME_ASC",
        }
        deadline = time.monotonic() + CANCEL_SECONDS
        with self.load.api() as api:
            while time.monotonic() < deadline and not self._is_over:
                runs = api.post("/flow_runs/filter", json=query).raise_for_status().json()
                for run in runs[int(fault.share * len(runs)) :][:1]:
                    state = {"state": {"type": "CANCELLING"}}
                    api.post(f"/flow_runs/{run['id']}/set_state", json=state).raise_for_status()
                    return run["name"]
                time.sleep(0.2)
        return "nothing runs"


def _for(undo: Callable[[], None], fault: Fault) -> str:
    time.sleep(fault.seconds)
    undo()
    return f"for {fault.seconds} s"


def _let_go_on(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGCONT)
