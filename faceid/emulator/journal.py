"""The request log, and the counts and peak rates of the requests.

The log contains no URLs, signatures or bodies. Peaks are exact: the largest number of calls within
any second.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 100_000
"""Maximum number of log entries; older ones are dropped, but remain in the counts."""

_SECOND = 1.0


@dataclass(slots=True)
class Entry:
    """The log entry of one request."""

    at: float
    """Time of arrival in Unix seconds, on the movable clock."""
    op: str
    target_action: str | None = None
    key: str | None = None
    status: int | None = None
    """The HTTP status; ``None`` if there is no answer yet or the connection was cut."""
    code: str | None = None
    """The error code, if the request was answered with an error."""
    tencent_request_id: str | None = None
    """For requests to the store, the value of ``x-cos-request-id``."""
    bytes: int = 0
    """Size of the file that was received or sent, or of the body of an API call."""


FILTERS = ("op", "target_action", "key", "status", "code", "tencent_request_id")


class Journal:
    """The log and the counts of one emulator."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._calls: Counter[str] = Counter()
        self._throttled: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)

    def count_call(self, op: str, moment: float) -> None:
        """Count a request that reached its action or object, at a time of ``time.monotonic``."""
        self._calls[op] += 1
        recent = self._recent[op]
        recent.append(moment)
        while moment - recent[0] >= _SECOND:
            recent.popleft()
        if len(recent) > self._peaks[op]:
            self._peaks[op] = len(recent)

    def count_throttled(self, op: str) -> None:
        self._throttled[op] += 1

    def begin(self, entry: Entry) -> None:
        """Add the entry of a new request, which is completed later."""
        self._entries.append(entry)

    def refuse(self, entry: Entry, code: str) -> None:
        """Record that a request is answered with an error."""
        entry.code = code
        self._errors[code] += 1

    def stats(self) -> dict[str, dict[str, int]]:
        return {
            "calls": dict(self._calls),
            "throttled": dict(self._throttled),
            "errors": dict(self._errors),
            "peak_per_second": dict(self._peaks),
        }

    def entries(self, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the log entries that match all filters, oldest first.

        ``wanted`` maps names of ``FILTERS`` to values; an empty value matches ``None``.
        """
        return [asdict(entry) for entry in self._entries if _is(entry, wanted)]


def _is(entry: Entry, wanted: Mapping[str, str]) -> bool:
    for name, text in wanted.items():
        value = getattr(entry, name)
        if text != ("" if value is None else str(value)):
            return False
    return True
