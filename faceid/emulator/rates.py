"""The API's limits: so many calls of an action in any second, then ``RequestLimitExceeded``.

Counted per account and action (assumed: whether the region counts is not documented). The
window slides (assumed: its alignment is not documented): of any second, wherever it
starts, no more than the limit is let through. What was refused does not count (assumed).
"""

from collections import defaultdict, deque
from collections.abc import Mapping

from faceid.actions import CREATE_UPLOAD_URL, CREATE_UPLOAD_URL_RATE, TargetAction


class Rates:
    """``overrides`` maps actions to requests per second, instead of what the table says.

    A rate of less than 1 means one call in ``1 / rate`` seconds.
    """

    def __init__(self, actions: Mapping[str, TargetAction], overrides: Mapping[str, float]) -> None:
        rates: dict[str, float | None] = {
            CREATE_UPLOAD_URL: CREATE_UPLOAD_URL_RATE,  # documented
            # documented; where none is documented, none is enforced
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
        """Takes one call at this moment of ``time.monotonic``.

        Where none is left, nothing is taken, and (calls it would have been, limit) comes back.
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
