"""The schedule of a chaos run: which fault happens at which step of which request.

A seed fixes the schedule. It counts steps and not seconds, so that on a slow machine the same
faults meet the same steps. It is printed as JSON, and can be fed back after it has been edited.
"""

import json
import random
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Setup = Literal["local", "shared"]
"""``local`` has file locks, storage in a folder, and SQLite; ``shared`` has Redis, S3 and
PostgreSQL, and a second worker."""

Step = Literal["ticket", "upload", "call", "answer"]
"""What is counted: a ticket is asked for, a file is sent, an action is called, and the whole answer
of an action is delivered."""

Kind = Literal[
    "kill-runs",
    "kill-worker",
    "kill-command",
    "kill-server",
    "kill-emulator",
    "stop-run",
    "end-worker",
    "end-command",
    "cancel-run",
    "cancel-batch",
    "storage-away",
    "disk-full",
    "redis-flush",
    "redis-restart",
    "postgres-restart",
    "reset-request",
    "reset-answer",
    "stall-request",
    "stall-answer",
    "move-service-clock",
    "move-client-clocks",
]
"""The faults, which ``tests.chaos.faults`` carries out."""

ONLY: dict[Kind, Setup] = {
    "disk-full": "local",
    "redis-flush": "shared",
    "redis-restart": "shared",
    "postgres-restart": "shared",
}
"""Faults of what only one of the set-ups has."""

SECONDS: dict[Kind, tuple[float, float]] = {
    "kill-worker": (0, 3),
    "kill-server": (0, 4),
    "kill-emulator": (0, 4),
    "stop-run": (36, 40),  # longer than a lease on the Redis server
    "storage-away": (1, 5),
    "disk-full": (1, 5),
    "redis-restart": (0, 3),
    "postgres-restart": (0, 3),
    "stall-request": (1, 4),
    "stall-answer": (1, 4),
    "move-service-clock": (7200, 7200),
    "move-client-clocks": (600, 900),
}
"""How long a fault lasts, or how far a clock is moved. Other faults happen in an instant."""

STEPS: dict[Kind, tuple[Step, ...]] = {
    "kill-runs": ("upload", "call", "answer"),
    "kill-command": ("call", "answer"),
    "stop-run": ("call", "answer"),
    "cancel-run": ("call",),
    "cancel-batch": ("call",),
    "storage-away": ("call", "answer"),
    "disk-full": ("call", "answer"),
}
"""The steps at which a fault may be planned, if not at any."""

CUTS: tuple[Kind, ...] = ("reset-request", "reset-answer", "stall-request", "stall-answer")
"""The faults of connections, which concern the next calls or uploads."""

SHORT: dict[Setup, tuple[Kind, ...]] = {
    "local": ("kill-runs", "reset-answer", "disk-full", "kill-command", "kill-emulator"),
    "shared": ("kill-runs", "reset-answer", "redis-restart", "kill-command", "postgres-restart"),
}
"""The faults of a short schedule."""

SHORT_REQUESTS = 100
"""With fewer requests than this, a schedule is short."""


@dataclass(frozen=True)
class Fault:
    """A fault, and when it happens."""

    after: int
    """The number of times that the step has been taken."""
    step: Step
    """The step that is counted."""
    kind: Kind
    """What happens."""
    seconds: float = 0.0
    """How long it lasts, or by how much a clock is moved."""
    share: float = 0.0
    """After which share of its bytes a connection is cut or stalls; otherwise, which of several
    processes or runs is meant."""

    def __post_init__(self) -> None:
        if self.step not in get_args(Step) or self.kind not in get_args(Kind):
            raise ValueError(f"unknown step or kind: {self.step}, {self.kind}")


def make_schedule(seed: int, setup: Setup, requests: int) -> list[Fault]:
    """Return the schedule that the seed fixes for so many requests, in order of the requests."""
    chance = random.Random(f"{seed} {setup} {requests}")
    kinds = [kind for kind in get_args(Kind) if ONLY.get(kind, setup) == setup]
    if requests < SHORT_REQUESTS:
        kinds = list(SHORT[setup])
    else:
        kinds += chance.sample(kinds, k=len(kinds) // 3)
    chance.shuffle(kinds)
    # A client whose own clock is wrong signs by the service's `Date`. The emulator's clock must not
    # be moved after that, because it compares signatures with the time of the real clock.
    kinds.sort(key=lambda kind: kind == "move-client-clocks")
    faults: list[Fault] = []
    for number, kind in enumerate(kinds):
        # Spread over the first four fifths of the requests, each at some step of its request.
        share = 0.04 + 0.76 * (number + chance.random()) / len(kinds)
        step = chance.choice(STEPS.get(kind, get_args(Step)))
        per_request = 2 if step in ("ticket", "upload") else 1
        faults.append(
            Fault(
                after=max(1, round(share * requests * per_request)),
                step=step,
                kind=kind,
                seconds=round(chance.uniform(*SECONDS.get(kind, (0, 0))), 1),
                share=round(chance.random(), 2),
            )
        )
    return faults


def as_json(faults: list[Fault]) -> str:
    """Return the schedule as JSON, a line for each fault."""
    return "[\n" + ",\n".join(f"  {json.dumps(asdict(fault))}" for fault in faults) + "\n]"


def from_json(text: str) -> list[Fault]:
    """Return the schedule in a JSON text. Raises ``ValueError`` or ``TypeError`` if it has none."""
    given: Any = json.loads(text)
    return [Fault(**fault) for fault in given]
