"""The API's rate limits: calls of an action beyond its limit get ``RequestLimitExceeded``.

The limits are documented. How the service counts is assumed: the calls of an account to an action
count together, whatever their region; a limit applies to every period of one second, wherever it
begins; and refused calls do not count.
"""

from collections import defaultdict, deque
from collections.abc import Mapping

from faceid.actions import CREATE_UPLOAD_URL, CREATE_UPLOAD_URL_RATE, TargetAction


class Rates:
    """The rate limits of all actions.

    ``overrides`` maps actions to calls per second, and takes precedence over the rates of
    ``actions``. A rate below 1 allows one call in ``1 / rate`` seconds.
    """

    def __init__(self, actions: Mapping[str, TargetAction], overrides: Mapping[str, float]) -> None:
        rates: dict[str, float | None] = {
            CREATE_UPLOAD_URL: CREATE_UPLOAD_URL_RATE,  # documented
            # An action has no limit here if none is documented.
            **{name: action.rate for name, action in actions.items()},
            **overrides,
        }
        self._limits = {
            name: (max(1, int(rate)), max(1.0, 1 / rate)) for name, rate in rates.items() if rate
        }
        self.reset()

    def reset(self) -> None:
        """Forget all calls, so that every limit can be used in full."""
        self._taken: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, action: str, moment: float) -> tuple[int, int] | None:
        """Count a call if the limit allows it. ``moment`` is a time of ``time.monotonic``.

        Returns ``None`` if the call was counted. Otherwise returns the number of calls in the past
        second, including this one, and the limit.
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
