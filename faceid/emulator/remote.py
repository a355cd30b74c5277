"""Control of a running emulator over HTTP, with its calls under ``/_emulator/``."""

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

    Every method raises ``ControlError``. Times are Unix seconds on the emulator's movable clock.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok", "version", "clock"}`` if the emulator is ready."""
        return self._ask("GET", "health")

    def stats(self) -> dict[str, dict[str, int]]:
        """Return ``calls``, ``throttled``, ``peak_per_second`` by operation, ``errors`` by code."""
        return self._ask("GET", "stats")

    def requests(self, **filters: object) -> list[dict[str, Any]]:
        """Return the entries of the request log that match all filters, oldest first.

        Filters: ``op``, ``target_action``, ``key``, ``status``, ``code``,
        ``tencent_request_id``. ``None`` matches entries without a value.
        """
        given = {name: "" if value is None else str(value) for name, value in filters.items()}
        query = urllib.parse.urlencode(given)
        return self._ask("GET", f"requests?{query}")

    def clock(self) -> float:
        """Return the time of the movable clock."""
        return self._ask("GET", "clock")["clock"]

    def advance(self, seconds: float) -> float:
        """Move the clock of windows, objects and the ``Date`` header; return the new time."""
        return self._ask("POST", "clock", {"advance": seconds})["clock"]

    def add_fault(
        self, op: str, do: str, times: int | None = 1, match: dict[str, Any] | None = None
    ) -> None:
        """Append a rule, which fires ``times`` times, or always if that is 0 or ``None``.

        ``faceid.emulator.faults`` describes the rules.
        """
        self._ask("POST", "faults", {"op": op, "do": do, "times": times, "match": match or {}})

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules in order; ``fired`` says how often a rule has fired."""
        return self._ask("GET", "faults")

    def clear_faults(self) -> None:
        """Remove all rules."""
        self._ask("DELETE", "faults")

    def rotate(self, secret_id: str, secret_key: str, token: str = "") -> None:
        """Replace the account's key by another one."""
        key = {"secret_id": secret_id, "secret_key": secret_key, "token": token}
        self._ask("POST", "credentials", key)

    def reset(self) -> None:
        """Restore the initial state of the clock, objects, faults, key, log and counts."""
        self._ask("POST", "reset")

    def _ask(self, method: str, call: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  # the caller chooses the URL
            f"{self.url}/_emulator/{call}",
            data=None if body is None else orjson.dumps(body),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        # Emulators run locally, and are not reached through the environment's proxy.
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
