"""Control of a running emulator over HTTP, with the calls under ``/_emulator/``."""

import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import orjson

_SECONDS = 30


class ControlError(RuntimeError):
    """Raised if the emulator cannot be reached or refuses a control call."""


class EmulatorControl:
    """Controls the emulator at ``url``, such as ``http://127.0.0.1:8600``.

    Every method raises ``ControlError`` if the emulator cannot be reached or refuses the call.
    Times are Unix seconds on the emulator's movable clock.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def health(self) -> dict[str, Any]:
        """Return the ``status`` (``ok``), the ``version`` and the ``clock`` of the emulator."""
        return self._ask("GET", "health")

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the counts of requests since the start or the last ``reset``.

        These are ``calls``, ``throttled`` and ``peak_per_second`` by operation, and ``errors`` by
        error code.
        """
        return self._ask("GET", "stats")

    def requests(self, **filters: object) -> list[dict[str, Any]]:
        """Return the entries of the request log that match all filters, oldest first.

        The filters are ``op``, ``target_action``, ``key``, ``status``, ``code`` and
        ``tencent_request_id``; ``None`` matches entries without a value.
        ``faceid.emulator.journal.Entry`` describes the fields of an entry.
        """
        given = {name: "" if value is None else str(value) for name, value in filters.items()}
        query = urllib.parse.urlencode(given)
        return self._ask("GET", f"requests?{query}")

    def clock(self) -> float:
        """Return the time of the movable clock."""
        return self._ask("GET", "clock")["clock"]

    def advance(self, seconds: float) -> float:
        """Move the clock of windows, objects and the ``Date`` header by some seconds.

        Returns the new time.
        """
        return self._ask("POST", "clock", {"advance": seconds})["clock"]

    def add_fault(
        self, op: str, do: str, times: int | None = 1, match: dict[str, Any] | None = None
    ) -> None:
        """Append a rule that fires ``times`` times, or always if ``times`` is 0 or ``None``.

        ``faceid.emulator.faults`` describes ``op``, ``do`` and ``match``.
        """
        self._ask("POST", "faults", {"op": op, "do": do, "times": times, "match": match or {}})

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules in order. Their field ``fired`` says how often each has fired."""
        return self._ask("GET", "faults")

    def clear_faults(self) -> None:
        """Remove all rules."""
        self._ask("DELETE", "faults")

    def rotate(self, secret_id: str, secret_key: str, token: str = "") -> None:
        """Replace the account's key. If ``token`` is empty, any token is accepted."""
        key = {"secret_id": secret_id, "secret_key": secret_key, "token": token}
        self._ask("POST", "credentials", key)

    def reset(self) -> None:
        """Restore the initial state: clock, objects, faults, key, log, counts and rates."""
        self._ask("POST", "reset")

    def _ask(self, method: str, call: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  # the caller chooses the URL
            f"{self.url}/_emulator/{call}",
            data=None if body is None else orjson.dumps(body),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        # Emulators run locally and must be reached directly, even if the environment sets a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_SECONDS) as reply:
                return orjson.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ControlError(_reason(error.read()) or f"HTTP {error.code}") from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise ControlError(f"no emulator answers at {self.url}: {reason}") from None


def _reason(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
