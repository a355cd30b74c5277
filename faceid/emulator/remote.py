"""Controls an emulator that runs anywhere, over its ``/_emulator/`` calls."""

import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import orjson

_SECONDS = 30


class ControlError(RuntimeError):
    """The emulator refuses a control call, or is not there; the message says which."""


class EmulatorControl:
    """An emulator at ``url``, such as ``http://127.0.0.1:8600``.

    Every method raises ``ControlError``. Times are seconds since 1970 by the emulator's clock.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def health(self) -> dict[str, Any]:
        """``{"status": "ok", "version", "clock"}`` once it serves."""
        return self._ask("GET", "health")

    def stats(self) -> dict[str, dict[str, int]]:
        """``calls``, ``throttled`` and ``peak_per_second`` by operation, ``errors`` by code."""
        return self._ask("GET", "stats")

    def requests(self, **filters: object) -> list[dict[str, Any]]:
        """The request log, oldest first.

        Filters: ``op``, ``target_action``, ``key``, ``status``, ``code``,
        ``tencent_request_id``; ``None`` finds entries where there is none.
        """
        given = {name: "" if value is None else str(value) for name, value in filters.items()}
        query = urllib.parse.urlencode(given)
        return self._ask("GET", f"requests?{query}")

    def clock(self) -> float:
        return self._ask("GET", "clock")["clock"]

    def advance(self, seconds: float) -> float:
        """Moves the clock of windows, objects and the ``Date`` header; returns the new time."""
        return self._ask("POST", "clock", {"advance": seconds})["clock"]

    def add_fault(
        self, op: str, do: str, times: int | None = 1, match: dict[str, Any] | None = None
    ) -> None:
        """Appends a rule (``faults``); ``times``: 0 or ``None`` for always."""
        self._ask("POST", "faults", {"op": op, "do": do, "times": times, "match": match or {}})

    def faults(self) -> list[dict[str, Any]]:
        """The rules in their order, each with how often it has ``fired``."""
        return self._ask("GET", "faults")

    def clear_faults(self) -> None:
        self._ask("DELETE", "faults")

    def rotate(self, secret_id: str, secret_key: str, token: str = "") -> None:
        """The account has this key from now on, and no other."""
        key = {"secret_id": secret_id, "secret_key": secret_key, "token": token}
        self._ask("POST", "credentials", key)

    def reset(self) -> None:
        """Everything as at the start: clock, objects, faults, keys, log and counts."""
        self._ask("POST", "reset")

    def _ask(self, method: str, call: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  # whoever gives the URL may ask it
            f"{self.url}/_emulator/{call}",
            data=None if body is None else orjson.dumps(body),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        # Whatever proxy the environment names, it is not for a server on this machine.
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
