"""What has happened: the request log, the counts and the peaks.

Nothing in it opens anything: no URL, no signature, no body. Peaks are exact: the largest number
of calls in any second that starts at a call.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 100_000
"""Entries of the log; older ones are dropped, the counts go on."""

_SECOND = 1.0


@dataclass(slots=True)
class Entry:
    """One request, as the log shows it."""

    at: float
    """When it came, by the clock that can be moved."""
    op: str
    target_action: str | None = None
    key: str | None = None
    status: int | None = None
    """The HTTP status; null without an answer: not yet, or the connection was cut."""
    code: str | None = None
    """The error's, if it was answered with one."""
    tencent_request_id: str | None = None
    """For the store the value of ``x-cos-request-id``."""
    bytes: int = 0
    """Of a file, received or sent; of an API call, its body's."""


FILTERS = ("op", "target_action", "key", "status", "code", "tencent_request_id")


class Journal:
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
        """A request has reached its action or object, at this moment of ``time.monotonic``."""
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
        """A request has come. Its entry is filled in as it goes on."""
        self._entries.append(entry)

    def refuse(self, entry: Entry, code: str) -> None:
        """A request is about to be answered with an error."""
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
        """The log, oldest first; of every entry the fields named in ``wanted`` are as they say.

        ``wanted`` has names of ``FILTERS`` only; an empty text stands for null.
        """
        return [asdict(entry) for entry in self._entries if _is(entry, wanted)]


def _is(entry: Entry, wanted: Mapping[str, str]) -> bool:
    for name, text in wanted.items():
        value = getattr(entry, name)
        if text != ("" if value is None else str(value)):
            return False
    return True
