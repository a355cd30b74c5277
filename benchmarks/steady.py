"""Whether a long batch under ``faceid up`` keeps the API's rate, and whether any events are lost.

A batch of 5,000 requests at 20 per second is run three times, as a user would run it. For each run
this prints how many requests ended in each interval of ten seconds, the longest time in which none
ended, how many task runs and events the server recorded, and how often its log reports lost data.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.batch import LIMIT, deliver_batch
from benchmarks.measured import Figures, Stage, post
from deployments.stack import START_SECONDS, EmulatorAddress
from faceid.samples import copy_samples

ROUNDS = 3
REQUESTS = 5_000
ACTION = "IdCardOCRVerification"
STEPS = 4
"""Task runs per request."""
BIN = 10
"""Length of an interval of the time series, in seconds."""
STANDSTILL = 5.0
"""Seconds beyond which a period without a finished request is counted as a standstill."""

_LOST = ("database is locked", "Subscription queue is full", "dead letter queue")


@contextmanager
def under_up() -> Generator[Stage]:
    """Run ``faceid up --emulator`` on a free port and in a temporary folder."""
    with TemporaryDirectory(prefix="faceid-bench-") as name:
        folder = Path(name)
        copy_samples(folder)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "FACEID_"))},
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        ready = folder / "ready.json"
        command = ["faceid", "up", "--emulator", "--port", "0", "--ready-file", str(ready)]
        with (folder / "up.log").open("wb") as log:
            up = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=folder, env=environment, stderr=log
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready.exists():
                if up.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "up.log").read_text())
                time.sleep(0.1)
            told = json.loads(ready.read_text())
            address = EmulatorAddress(told["endpoint"], told["secret_id"], told["secret_key"])
            environment |= address.environment() | {"PREFECT_API_URL": told["api_url"]}
            (server,) = [
                process
                for process in psutil.Process(up.pid).children()
                if "deployments.server" in process.cmdline()
            ]
            yield Stage(folder, environment, address.url, server, told["api_url"])
        finally:
            up.terminate()
            up.wait()


def main() -> None:
    for number in range(1, ROUNDS + 1):
        with under_up() as on:
            figures = deliver_batch(ACTION, REQUESTS, on)
            _print(number, figures, on)


def _print(number: int, figures: Figures, on: Stage) -> None:
    lines = (on.folder / "results.jsonl").read_text().splitlines()
    ended = sorted(datetime.fromisoformat(json.loads(line)["finished_at"]) for line in lines)
    gaps = [(b - a).total_seconds() for a, b in pairwise(ended)]
    series = Counter(int((end - ended[0]).total_seconds() // BIN) for end in ended)
    log = (on.folder / "up.log").read_text(errors="replace")
    lost = {words: log.count(words) for words in _LOST}
    lost["events put aside"] = len(list((on.folder / "prefect" / "dlq").glob("*")))
    verdicts = _events(on, "faceid.delivery.verdict")
    states = _events(on, "prefect.task-run.Completed")
    print(
        f"  run {number}: {REQUESTS:,} requests in {figures.seconds:.0f} s, "
        f"{figures.tickets_per_second / LIMIT:.1%} of the limit, at most {figures.most} in a "
        f"second, {figures.throttled} throttled\n"
        f"    longest time without a request at its end: {max(gaps):.1f} s "
        f"({sum(gap > STANDSTILL for gap in gaps)} of more than {STANDSTILL:.0f} s)\n"
        f"    {figures.recorded:,} of {STEPS * REQUESTS:,} task runs, the last after "
        f"{figures.lag:.1f} s; events: {verdicts:,} of {REQUESTS:,} verdicts, {states:,} of "
        f"{STEPS * REQUESTS:,} task runs completed\n"
        f"    in the server's log: {', '.join(f'{n} {words!r}' for words, n in lost.items())}\n"
        f"    CPU per request: {figures.flow_cpu:.0f} ms flow, {figures.server_cpu:.0f} ms server\n"
        f"    requests at their end, in each {BIN} s:",
        *(series[place] for place in range(max(series) + 1)),
        flush=True,
    )


def _events(on: Stage, name: str) -> int:
    """Return how many events of this name the server has stored, once the number stops growing."""
    query: dict[str, Any] = {
        "filter": {"event": {"name": [name]}, "occurred": {"since": "2026-01-01T00:00:00Z"}}
    }
    count, changed = -1, time.monotonic()
    while time.monotonic() - changed < BIN:
        if (now := post(f"{on.api_url}/events/filter", query)["total"]) != count:
            count, changed = now, time.monotonic()
        time.sleep(1)
    return count


if __name__ == "__main__":
    main()
