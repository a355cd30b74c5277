"""The request log of an emulator, and the counts and peak rates of its requests.

The log contains no URLs, signatures or bodies. A peak rate is the largest number of calls within a
second, wherever the second begins.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 100_000
"""Maximum number of log entries. Older entries are dropped, but their requests stay counted."""

_SECOND = 1.0


@dataclass(slots=True)
class Entry:
    """The log entry of one request."""

    at: float
    """Time of arrival in Unix seconds, on the movable clock."""
    op: str
    """The operation: an action, an operation of the store, or ``unknown``."""
    target_action: str | None = None
    """The target action that is called, or that the ticket or the object is for, if known."""
    key: str | None = None
    """Key of the ticket or the object; ``None`` for calls of target actions."""
    status: int | None = None
    """HTTP status of the answer; ``None`` if there is none yet or the connection was cut."""
    code: str | None = None
    """Error code of the answer; ``None`` if it is not an error."""
    tencent_request_id: str | None = None
    """``RequestId`` of an API call's answer, or ``x-cos-request-id`` of the store's reply."""
    bytes: int = 0
    """Size in bytes of the file that was received or sent, or of the body of an API call."""


FILTERS = ("op", "target_action", "key", "status", "code", "tencent_request_id")
"""The fields that log entries can be filtered by."""


class Journal:
    """The log and the counts of one emulator."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all entries, and set all counts to zero."""
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._calls: Counter[str] = Counter()
        self._throttled: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)

    def count_call(self, op: str, moment: float) -> None:
        """Count a request that passed all checks. ``moment`` is a time of ``time.monotonic``."""
        self._calls[op] += 1
        recent = self._recent[op]
        recent.append(moment)
        while moment - recent[0] >= _SECOND:
            recent.popleft()
        if len(recent) > self._peaks[op]:
            self._peaks[op] = len(recent)

    def count_throttled(self, op: str) -> None:
        """Count a request that was refused because of the rate limit."""
        self._throttled[op] += 1

    def begin(self, entry: Entry) -> None:
        """Append the entry of a new request. Its other fields are set while it is answered."""
        self._entries.append(entry)

    def refuse(self, entry: Entry, code: str) -> None:
        """Record that a request is answered with an error code, and count the code."""
        entry.code = code
        self._errors[code] += 1

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the counts.

        These are ``calls``, ``throttled`` and ``peak_per_second`` by operation, and ``errors`` by
        error code.
        """
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
