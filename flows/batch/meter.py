"""Measures how fast a batch calls each action, by counting calls as they are paced."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from faceid.pacing import Pacer

MAX_SPANS = 240
"""Maximum number of spans per action. A longer batch has longer spans, not more of them."""


class Speed(NamedTuple):
    """The rate at which a batch called an action."""

    action: str
    limit: float
    """Calls per second that the account is allowed."""
    per_second: list[float]
    """Calls per second in each span of the batch."""
    span: int
    """Length of a span in seconds."""


class Meter:
    """Counts calls by action and span of time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._span = 1
        self._limits: dict[str, float] = {}
        self._counts: defaultdict[str, list[int]] = defaultdict(list)

    def paced(
        self, pacers: Callable[[str], Pacer | None], rates: Callable[[str], float | None]
    ) -> Callable[[str], Pacer | None]:
        """Wrap ``pacers`` so that the calls which they let through are counted."""

        def pacer_of(action: str) -> Pacer | None:
            pacer, rate = pacers(action), rates(action)
            if pacer is None or rate is None:
                return pacer
            self._limits[action] = rate
            pacer.started = lambda: self.count(action)
            return pacer

        return pacer_of

    def count(self, action: str) -> None:
        """Count one call of the action, now."""
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
        """Return the action that came closest to its limit; ``None`` if nothing was called."""
        speeds = [
            Speed(
                action, self._limits[action], [count / self._span for count in counts], self._span
            )
            for action, counts in self._counts.items()
        ]
        return max(speeds, key=lambda speed: sum(speed.per_second) / speed.limit, default=None)
