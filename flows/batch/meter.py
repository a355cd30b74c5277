"""Measures how fast a batch calls each action, by counting the starts of its pacers."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from faceid.pacing import Pacer

MAX_SPANS = 240
"""Maximum number of spans of time for which calls are counted. In a longer batch the spans are
longer."""


class Speed(NamedTuple):
    """The rate at which a batch called an action."""

    action: str
    """Name of the action."""
    limit: float
    """Calls per second that the account may make."""
    per_second: list[float]
    """Calls per second in each span of the batch."""
    span: int
    """Length of a span in seconds."""


class Meter:
    """Counts the calls of a batch by action and span of time.

    ``now`` replaces the clock in tests.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._span = 1
        self._limits: dict[str, float] = {}
        self._counts: defaultdict[str, list[int]] = defaultdict(list)

    def paced(
        self, pacers: Callable[[str], Pacer | None], rates: Callable[[str], float | None]
    ) -> Callable[[str], Pacer | None]:
        """Return a function that returns the same pacers as ``pacers``, and counts their starts.

        Both functions take an action and return its pacer, if it has one. ``rates`` returns how
        many calls of an action the account may make per second.
        """

        def pacer_of(action: str) -> Pacer | None:
            pacer, rate = pacers(action), rates(action)
            if pacer is None or rate is None:
                return pacer
            self._limits[action] = rate
            pacer.started = lambda: self.count(action)
            return pacer

        return pacer_of

    def count(self, action: str) -> None:
        """Count a call of the action at this moment."""
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
        """Return the speed of the action whose rate came closest to its limit.

        Returns ``None`` if no action was called.
        """
        speeds = [
            Speed(
                action, self._limits[action], [count / self._span for count in counts], self._span
            )
            for action, counts in self._counts.items()
        ]
        return max(speeds, key=lambda speed: sum(speed.per_second) / speed.limit, default=None)
