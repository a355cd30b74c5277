"""The API's rate limits: calls of an action beyond its limit get ``RequestLimitExceeded``.

Calls are counted per account and action, whatever their region (assumed). The limit applies to any
period of one second, wherever it starts (assumed). Refused calls do not count (assumed).
"""

from collections import defaultdict, deque
from collections.abc import Mapping

from faceid.actions import CREATE_UPLOAD_URL, CREATE_UPLOAD_URL_RATE, TargetAction


class Rates:
    """The rate limits of all actions.

    ``overrides`` maps actions to requests per second, and takes precedence over the table. A rate
    below 1 allows one call in ``1 / rate`` seconds.
    """

    def __init__(self, actions: Mapping[str, TargetAction], overrides: Mapping[str, float]) -> None:
        rates: dict[str, float | None] = {
            CREATE_UPLOAD_URL: CREATE_UPLOAD_URL_RATE,  # documented
            # documented; an action without a documented limit is not limited
            **{name: action.rate for name, action in actions.items()},
            **overrides,
        }
        self._limits = {
            name: (max(1, int(rate)), max(1.0, 1 / rate)) for name, rate in rates.items() if rate
        }
        self.reset()

    def reset(self) -> None:
        self._taken: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, action: str, moment: float) -> tuple[int, int] | None:
        """Count a call at a time of ``time.monotonic``, and return ``None``.

        If the call exceeds the limit, it is not counted, and (calls including this one, limit) is
        returned.
        """
        if action not in self._limits:
            return None
        limit, seconds = self._limits[action]
        taken = self._taken[action]
        while taken and moment - taken[0] >= seconds:
            taken.popleft()
        if len(taken) >= limit:
            return len(taken) + 1, limit
        taken.append(moment)
        return None
