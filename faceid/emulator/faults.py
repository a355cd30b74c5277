"""Faults on order: an ordered list of rules, of which the first that matches fires.

A rule is ``{"op", "do", "times", "match"}`` (design §5.6). ``times`` is how often it fires, 1
unless given, and 0 or null for always. ``match`` narrows it down; all of its keys must hold:

- ``target_action``: the ticket's, the object's, or the target action that is called
- ``key``: the object's key, as a glob; for a target action any of the keys it is to fetch
- ``md5``: 32 hexadecimal digits: a PUT's Content-MD5, an object's MD5, any ``*Md5`` field
- ``nth``: fires from the n-th request on that the rest of the rule matches, counted from 1

Faults fire once a request has passed authentication, parameters and rate.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

STORE_OPS = ("PutObject", "GetObject", "HeadObject")

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9. _-]{0,99}")
_VERDICT = re.compile(r"[A-Za-z0-9.-]{1,100}")
_FORMS = {
    "api": "api:<Code>",
    "result": "result:<Code>",
    "http": "http:<status 300 to 599>",
    "reset": "reset",
    "reset-after": "reset-after:<bytes>",
    "delay": "delay:<seconds>",
    "stall": "stall:<seconds>",
    "truncate": "truncate",
    "bad-etag": "bad-etag",
    "expire-now": "expire-now",
    "commit-then-reset": "commit-then-reset",
}
_RULE_KEYS = ("op", "do", "times", "match")
_MATCH_KEYS = ("target_action", "key", "md5", "nth")


class BadRule(ValueError):
    """A rule that cannot be; the message says what is allowed."""


@dataclass(frozen=True)
class Fault:
    """What is to go wrong: ``do``, taken apart."""

    kind: str
    code: str = ""
    """Of ``api`` and ``result``."""
    amount: float = 0
    """The status of ``http``, the bytes of ``reset-after``, the seconds of ``delay``, ``stall``."""

    @property
    def drops_answer(self) -> bool:
        return self.kind == "commit-then-reset"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        kind, colon, argument = text.partition(":")
        match kind:
            case "api" if _CODE.fullmatch(argument):
                return cls(kind, code=argument)
            case "result" if _VERDICT.fullmatch(argument):
                return cls(kind, code=argument)
            case "http" if re.fullmatch("[345][0-9][0-9]", argument):
                return cls(kind, amount=int(argument))
            case "reset-after" if re.fullmatch("[0-9]{1,15}", argument):
                return cls(kind, amount=int(argument))
            case "delay" | "stall" if (seconds := _seconds(argument)) is not None:
                return cls(kind, amount=seconds)
            case _ if not colon and _FORMS.get(kind) == kind:
                return cls(kind)
            case _:
                raise BadRule(f"do: {text!r} is none of {', '.join(_FORMS.values())}")


NO_FAULT = Fault("")


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


@dataclass(frozen=True)
class Traits:
    """What of a request a rule can match."""

    target_action: str | None
    keys: tuple[str, ...] = ()
    md5s: tuple[str, ...] = ()


@dataclass
class Rule:
    op: str
    do: str
    times: int = 1
    match: dict[str, Any] = field(default_factory=dict[str, Any])
    fired: int = 0
    seen: int = 0
    """Requests that all of the rule but ``nth`` matched."""

    def __post_init__(self) -> None:
        self.fault = Fault.parse(self.do)

    def as_json(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "do": self.do,
            "times": self.times,
            "match": self.match,
            "fired": self.fired,
        }

    def _matches(self, op: str, traits: Traits) -> bool:
        wanted = self.match
        return (
            op == self.op
            and ("target_action" not in wanted or wanted["target_action"] == traits.target_action)
            and ("key" not in wanted or any(fnmatchcase(key, wanted["key"]) for key in traits.keys))
            and ("md5" not in wanted or wanted["md5"].lower() in traits.md5s)
        )

    def ready_for(self, op: str, traits: Traits) -> bool:
        """Whether the rule would fire now. Counts the request."""
        if not self._matches(op, traits):
            return False
        self.seen += 1
        spent = self.times and self.fired >= self.times
        return not spent and self.seen >= self.match.get("nth", 1)


class Faults:
    """``ops`` are the operations that a rule may name, ``verdicts`` those that have a result."""

    def __init__(self, ops: Collection[str], verdicts: Collection[str]) -> None:
        self.rules: list[Rule] = []
        self._ops = ops
        self._verdicts = verdicts

    def add(self, given: object) -> None:
        """Appends one rule or a list of them, all or none. Raises ``BadRule``."""
        items = cast("list[object]", given) if isinstance(given, list) else [given]
        self.rules += [self._rule(item) for item in items]

    def clear(self) -> None:
        self.rules.clear()

    def next_for(self, op: str, traits: Callable[[], Traits]) -> Fault:
        """The fault for a request. ``traits`` is asked only when there are rules."""
        if not self.rules:
            return NO_FAULT
        known = traits()
        # Every rule has to count the request, also those behind the one that fires.
        ready = [rule for rule in self.rules if rule.ready_for(op, known)]
        if not ready:
            return NO_FAULT
        ready[0].fired += 1
        return ready[0].fault

    def _rule(self, given: object) -> Rule:
        if not isinstance(given, dict):
            raise BadRule("a rule must be an object, or a list of objects")
        fields = cast("dict[str, Any]", given)
        _only(fields, _RULE_KEYS, "a rule")
        op, do, times = fields.get("op"), fields.get("do"), fields.get("times", 1)
        if not isinstance(op, str) or op not in self._ops:
            raise BadRule(f"op: {op!r} is none of {', '.join(self._ops)}")
        if not isinstance(do, str):
            raise BadRule(f"do: must be one of {', '.join(_FORMS.values())}")
        times = 0 if times is None else times
        if not _is_count(times, least=0):
            raise BadRule("times: must be a whole number, 0 or null for always")
        rule = Rule(op, do, times, _checked_match(fields.get("match") or {}))
        kind = rule.fault.kind
        if kind == "result" and op not in self._verdicts:
            with_result = ", ".join(self._verdicts)
            raise BadRule(f"do: {op} has no Result; result:<Code> is for {with_result}")
        if kind == "bad-etag" and op not in STORE_OPS:
            raise BadRule(f"do: {op} answers no ETag; bad-etag is for {', '.join(STORE_OPS)}")
        if kind == "truncate" and op == "HeadObject":
            raise BadRule("do: a HEAD has no body to truncate")
        return rule


def _only(given: dict[str, Any], allowed: tuple[str, ...], what: str) -> None:
    for name in given:
        if name not in allowed:
            raise BadRule(f"{what} has no {name!r}, only {', '.join(allowed)}")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_match(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BadRule(f"match: must be an object with any of {', '.join(_MATCH_KEYS)}")
    match = cast("dict[str, Any]", given)
    _only(match, _MATCH_KEYS, "match")
    for name, value in match.items():
        if name == "nth" and not _is_count(value, least=1):
            raise BadRule("match: nth must be a whole number from 1 on")
        if name != "nth" and not isinstance(value, str):
            raise BadRule(f"match: {name} must be a text")
    if not re.fullmatch("[0-9A-Fa-f]{32}", match.get("md5", "0" * 32)):
        raise BadRule("match: md5 must be 32 hexadecimal digits")
    return match
