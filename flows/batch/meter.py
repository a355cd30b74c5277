"""How fast a batch calls each action: its calls are counted as they are paced."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from faceid.pacing import Pacer

MAX_SPANS = 240
"""A longer batch is counted in longer spans: what is kept does not grow with it."""


class Speed(NamedTuple):
    """The calls of one action."""

    action: str
    limit: float
    """Calls per second that the account may make."""
    per_second: list[float]
    """One figure for each span of the batch."""
    span: int
    """Seconds."""


class Meter:
    """Counts calls by action and second."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._span = 1
        self._limits: dict[str, float] = {}
        self._counts: defaultdict[str, list[int]] = defaultdict(list)

    def paced(
        self, pacers: Callable[[str], Pacer | None], rates: Callable[[str], float | None]
    ) -> Callable[[str], Pacer | None]:
        """The same pacers; what they let through is counted."""

        def pacer_of(action: str) -> Pacer | None:
            pacer, rate = pacers(action), rates(action)
            if pacer is None or rate is None:
                return pacer
            self._limits[action] = rate
            pacer.started = lambda: self.count(action)
            return pacer

        return pacer_of

    def count(self, action: str) -> None:
        counts = self._counts[action]
        while (place := int((self._now() - self._began) / self._span)) >= MAX_SPANS:
            self._double_span()
        counts.extend([0] * (place + 1 - len(counts)))
        counts[place] += 1

    def _double_span(self) -> None:
        self._span *= 2
        for counts in self._counts.values():
            counts[:] = [sum(counts[n : n + 2]) for n in range(0, len(counts), 2)]

    def fastest(self) -> Speed | None:
        """The action that came closest to its limit; ``None`` where nothing was called."""
        speeds = [
            Speed(
                action, self._limits[action], [count / self._span for count in counts], self._span
            )
            for action, counts in self._counts.items()
        ]
        return max(speeds, key=lambda speed: sum(speed.per_second) / speed.limit, default=None)
