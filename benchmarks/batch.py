"""The throughput of batches, at the API's limit and with the limit lifted, and of alternatives.

The cases take turns in each round, so that a machine that slows down affects all of them. The
figures are medians of the rounds. Server, emulator and flow run on the same machine.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.measured import Figures, Stage, stage
from deployments.settings_files import SERVER_SETTINGS

ROUNDS = 3
LIMIT = 20
"""The API's limit on calls of CreateUploadUrl, per second."""

_KIND: dict[str, dict[str, object]] = {
    "IdCardOCRVerification": {"resources": {"ImageUrl": "alder.jpg"}},
    "VideoLivenessCompare": {
        "resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
        "action_parameters": {"LivenessType": "SILENT"},
    },
}
_STEPS = {"IdCardOCRVerification": 4, "VideoLivenessCompare": 6}
"""Task runs per request, by action."""


def write_manifest(path: Path, action: str, count: int) -> None:
    """Write a manifest of ``count`` requests of the action."""
    with path.open("w") as file:
        for number in range(count):
            entry = {
                "request_id": f"r-{number}",
                "target_action": action,
                "region": "ap-singapore",
                **_KIND[action],
            }
            file.write(json.dumps(entry) + "\n")


def deliver_batch(action: str, count: int, on: Stage) -> Figures:
    """Run ``faceid batch`` as a user would, and return the figures."""
    write_manifest(on.folder / "people.jsonl", action, count)
    command = ["faceid", "batch", "people.jsonl", "--results", "results.jsonl"]
    figures = on.run(command, count, _STEPS[action] * count)
    lines = (on.folder / "results.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["status"] == "verdict" for line in lines) == count
    return figures


def deliver_otherwise(name: str, count: int, steps: int, on: Stage) -> Figures:
    """Run the script ``benchmarks.others.NAME``, and return the figures."""
    command = [f"benchmarks.others.{name}", str(on.folder / "alder.jpg"), str(count)]
    return on.run(command, count, steps * count)


@dataclass(frozen=True)
class Case:
    """A way of delivering requests, and the conditions under which it is measured."""

    title: str
    count: int
    """Number of requests."""
    steps: int
    """Task runs per request; 0 without Prefect."""
    lifted: bool
    """Whether the API's limit is lifted."""
    server: Mapping[str, str] | None
    """Settings of the Prefect server; ``None`` without Prefect."""
    deliver: Callable[[Stage], Figures]


def _case(action: str, count: int, *, lifted: bool) -> Case:
    title = f"faceid batch, {action}, " + ("limit lifted" if lifted else f"{LIMIT}/s")
    deliver = partial(deliver_batch, action, count)
    return Case(title, count, _STEPS[action], lifted, SERVER_SETTINGS, deliver)


def _other(title: str, name: str, count: int, server: Mapping[str, str] | None = None) -> Case:
    steps = 0 if server is None else 4
    return Case(title, count, steps, True, server, partial(deliver_otherwise, name, count, steps))


PACED = _case("IdCardOCRVerification", 1000, lifted=False)
LIFTED = _case("IdCardOCRVerification", 1000, lifted=True)
NEWCOMER = _other("newcomer's flow, .map, default server", "newcomer", 1000, {})
CASES = [
    PACED,
    _case("VideoLivenessCompare", 500, lifted=False),
    LIFTED,
    _other("asyncio and httpx, no Prefect", "plain", 1000),
    _other("vendor SDK in 32 threads, no Prefect", "sdk", 1000),
    NEWCOMER,
]


def main() -> None:
    seen: defaultdict[str, list[Figures]] = defaultdict(list)
    for _ in range(ROUNDS):
        for case in CASES:
            with stage(lifted=case.lifted, server=case.server) as on:
                seen[case.title].append(case.deliver(on))
    _print(seen)


def _print(seen: dict[str, list[Figures]]) -> None:
    table = Table(title=f"medians of {ROUNDS} rounds, [least to most]", box=None, pad_edge=False)
    for heading in (
        "requests",
        "requests/s",
        "of the limit",
        "most/s",
        "throttled",
        "task runs",
        "lag s",
        "flow ms",
        "server ms",
        "peak MB",
    ):
        table.add_column(heading, justify="left" if heading == "requests" else "right")
    for case in CASES:
        rounds = seen[case.title]
        rates = sorted(figures.per_second for figures in rounds)
        recorded = median(figures.recorded for figures in rounds)
        table.add_row(
            f"{case.count:,} by {case.title}",
            f"{median(rates):.1f} [{rates[0]:.1f} to {rates[-1]:.1f}]",
            "" if case.lifted else f"{held(rounds):.1%}",
            str(max(figures.most for figures in rounds)),
            str(max(figures.throttled for figures in rounds)),
            f"{recorded:,.0f} of {case.steps * case.count:,}" if case.steps else "",
            f"{median(figures.lag for figures in rounds):.1f}" if case.steps else "",
            f"{median(figures.flow_cpu for figures in rounds):.0f}",
            f"{median(figures.server_cpu for figures in rounds):.0f}" if case.steps else "",
            f"{median(figures.peak for figures in rounds):.0f}",
        )
    console = Console(width=170)
    console.print(table)
    ours, theirs = (
        median(figures.per_second for figures in seen[case.title]) for case in (LIFTED, NEWCOMER)
    )
    console.print(
        f"With the limit lifted: {ours:.1f} requests/s, {ours / theirs:.1f} times the newcomer's. "
        "'most/s' is CreateUploadUrl in any one second, as the emulator saw it; ms are of CPU per "
        "request, a process's start included."
    )


def held(rounds: list[Figures]) -> float:
    """Return the median rate of CreateUploadUrl calls, as a fraction of ``LIMIT``."""
    return median(figures.tickets_per_second for figures in rounds) / LIMIT
