"""``python -m tests.chaos``: delivers under faults, and prints whether the books balance.

The seed fixes the schedule of faults. Everything runs on servers of its own, which are started and
cleared away. The exit code is 0 if the books balance, and otherwise 1.
"""

from tests.environment import HOME  # isort: skip - first, as it cleans up the environment

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import httpx

from tests.chaos.books import Bookkeeper, runs_at_work
from tests.chaos.faults import Faults
from tests.chaos.load import Load
from tests.chaos.parts import clear_away
from tests.chaos.schedule import Fault, Setup, as_json, from_json, make_schedule
from tests.chaos.servers import Local, Servers, Shared

SWEEP_SECONDS = 15.0
"""Seconds between two sweeps."""
PATIENCE = 1200.0
"""Seconds within which all work must come to its end, unless others are given."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SETTLE_SECONDS = 200.0
"""Seconds within which the sweep finds runs that died, which takes three heartbeats."""


def main() -> int:
    parser = argparse.ArgumentParser("tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="fixes the schedule")
    parser.add_argument("--setup", choices=get_args(Setup), default="local")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--schedule", type=Path, help="a file with a schedule that was printed")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for all work")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and records")
    parser.add_argument("--mutant", action="store_true", help="drop the first save of a verdict")
    given = parser.parse_args()
    # So that all servers are stopped and cleared away.
    signal.signal(signal.SIGTERM, _exit)
    schedule = (
        from_json(given.schedule.read_text())
        if given.schedule
        else make_schedule(given.seed, given.setup, given.requests)
    )
    print(f"seed {given.seed}, {given.setup}, {given.requests} requests; the schedule:")
    print(as_json(schedule), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="faceid-chaos-"))
    servers: Servers | None = None
    try:
        kind = Local if given.setup == "local" else Shared
        servers = kind(folder, mutant=given.mutant)
        os.environ.update(servers.environment)
        return run(servers, given.requests, schedule, given.patience)
    finally:
        if servers:
            servers.stop()
            clear_away(servers.mark)
        if given.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def run(servers: Servers, requests: int, schedule: list[Fault], patience: float) -> int:
    """Deliver so many requests under a schedule, print the books, and return the exit code.

    What has not come to its end after ``patience`` seconds is entered as such.
    """
    began = time.monotonic()
    servers.start()
    load = Load(servers, requests)
    faults = Faults(servers, load, schedule)
    print(f"all servers are up after {time.monotonic() - began:.0f} s", flush=True)
    faults.start()
    load.begin()
    _wait(load, lambda: load.is_done, patience)
    load.is_over.set()
    faults.finish()
    print(f"all work is done after {time.monotonic() - began:.0f} s", flush=True)
    _wait(load, lambda: not runs_at_work(load), SETTLE_SECONDS)
    books = Bookkeeper(servers, load, faults).draw_up()
    books.note("faults", f"{len(faults.happened)}, {len(faults.left)} not reached")
    books.note("seconds", round(time.monotonic() - began))
    print(books, flush=True)
    return 1 if books.wrong else 0


def _wait(load: Load, is_done: Callable[[], bool], seconds: float) -> None:
    """Wait, with a sweep now and then."""
    deadline = time.monotonic() + seconds
    swept, sweep = time.monotonic(), ""
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if is_done():
                return
            if time.monotonic() - swept > SWEEP_SECONDS:
                sweep = _sweep(load, sweep)
                swept = time.monotonic()
        time.sleep(1)


def _sweep(load: Load, last: str) -> str:
    """Trigger a sweep, unless the last one has not ended yet; return the ID of the newest."""
    with load.api() as api:
        if last:
            run = api.get(f"/flow_runs/{last}").raise_for_status().json()
            if run["state_type"] not in FINAL:
                return last
        deployment = api.get("/deployments/name/sweep/default").raise_for_status().json()
        url = f"/deployments/{deployment['id']}/create_flow_run"
        return api.post(url, json={}).raise_for_status().json()["id"]


if __name__ == "__main__":
    assert os.environ["PREFECT_HOME"] == HOME
    sys.exit(main())
