"""Planned faults: an ordered list of rules, of which the first that matches a request fires.

A rule is a JSON object with these keys:

- ``op``: the operation: the name of an action, or ``PutObject``, ``GetObject`` or ``HeadObject``
- ``do``: the fault, one of ``KINDS``
- ``times``: how often the rule fires: once by default, always if it is 0 or null
- ``match``: restricts the rule to requests with certain properties; all of them must match

The keys of ``match`` are:

- ``target_action``: the target action that is called, or that the ticket or the object is for
- ``key``: a glob for the object's key; for a target action, for the key of any file it downloads
- ``md5``: 32 hexadecimal digits: a PUT's Content-MD5, an object's MD5, or any ``*Md5`` field
- ``nth``: a number from 1 on: earlier requests that match the rest of the rule have no fault

A rule fires only for requests that have passed the checks of authentication, parameters and rate.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

STORE_OPS = ("PutObject", "GetObject", "HeadObject")
"""The operations of the object store."""

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9. _-]{0,99}")
_VERDICT = re.compile(r"[A-Za-z0-9.-]{1,100}")
KINDS = (
    (
        "api:<Code>",
        "the API or the store refuses the request with this error code; nothing is carried out",
    ),
    (
        "result:<Code>",
        "the target action answers with this value as its `Result`; unless it is that of a "
        "positive verdict, the other fields are those of a negative one",
    ),
    (
        "http:<status 300 to 599>",
        "a gateway answers with this status and an HTML page; nothing is carried out",
    ),
    ("reset", "the connection is reset, and nothing is carried out"),
    (
        "reset-after:<bytes>",
        "the connection is reset after so many bytes of the file that is uploaded, which is not "
        "kept, or otherwise of the answer",
    ),
    ("delay:<seconds>", "the request is carried out and answered only after so many seconds"),
    (
        "stall:<seconds>",
        "the answer pauses half-way for so many seconds; without effect on an answer that has no "
        "body, such as that of `PutObject`",
    ),
    (
        "truncate",
        "half of the answer is missing: the API sends incomplete JSON, the store fewer bytes than "
        "announced",
    ),
    ("bad-etag", "the `ETag` of the store's answer is not the MD5 of the file"),
    (
        "expire-now",
        "the window of the object, of the ticket that is being issued, or of the files that the "
        "action fetches is over at once",
    ),
    ("commit-then-reset", "the request is carried out, and the connection is reset unanswered"),
)
"""The values of ``do``, each with what happens."""
_FORMS = {form.partition(":")[0]: form for form, _ in KINDS}
_RULE_KEYS = ("op", "do", "times", "match")
_MATCH_KEYS = ("target_action", "key", "md5", "nth")


class BadRule(ValueError):
    """Raised for an invalid rule; the message says what is allowed."""


@dataclass(frozen=True)
class Fault:
    """A fault: the parsed ``do`` of a rule."""

    kind: str
    """The word before the colon, such as ``api``; empty for no fault."""
    code: str = ""
    """The code of an ``api`` or ``result`` fault."""
    amount: float = 0
    """The status of an ``http`` fault, the number of bytes of ``reset-after``, or the seconds of
    ``delay`` and ``stall``."""

    @property
    def drops_answer(self) -> bool:
        """Whether the request is carried out but its answer is not sent."""
        return self.kind == "commit-then-reset"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Parse the ``do`` of a rule. Raises ``BadRule`` if it has none of the known forms."""
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
                raise BadRule(f"do: {text!r} is not one of {', '.join(_FORMS.values())}")


NO_FAULT = Fault("")
"""Stands for a request without a fault."""


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


@dataclass(frozen=True)
class Traits:
    """The properties of a request that rules can match."""

    target_action: str | None
    """The target action that is called, or that the ticket or the object is for."""
    keys: tuple[str, ...] = ()
    """Keys of the objects that the request concerns."""
    md5s: tuple[str, ...] = ()
    """MD5s in the request, or of the object, in lower case."""


@dataclass
class Rule:
    """A rule, with the number of times that it has fired."""

    op: str
    """Name of the operation, such as ``PutObject``."""
    do: str
    """The fault as text, such as ``http:503``."""
    times: int = 1
    """How often the rule fires; 0 for always."""
    match: dict[str, Any] = field(default_factory=dict[str, Any])
    """The properties that a request must have."""
    fired: int = 0
    """How often the rule has fired."""
    seen: int = 0
    """Number of requests that matched everything but ``nth``."""

    def __post_init__(self) -> None:
        self.fault = Fault.parse(self.do)

    def as_json(self) -> dict[str, Any]:
        """Return the rule as control calls show it, with ``fired``."""
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
        """Count the request if the rule matches it, and return whether the rule would fire."""
        if not self._matches(op, traits):
            return False
        self.seen += 1
        spent = self.times and self.fired >= self.times
        return not spent and self.seen >= self.match.get("nth", 1)


class Faults:
    """The rules of an emulator.

    ``ops`` are the operations that a rule may name, and ``verdicts`` the operations among them that
    give a verdict.
    """

    def __init__(self, ops: Collection[str], verdicts: Collection[str]) -> None:
        self.rules: list[Rule] = []
        self._ops = ops
        self._verdicts = verdicts

    def add(self, given: object) -> None:
        """Append a rule or a list of rules, as parsed from JSON.

        Raises ``BadRule`` if a rule is invalid; no rule is then added.
        """
        items = cast("list[object]", given) if isinstance(given, list) else [given]
        self.rules += [self._rule(item) for item in items]

    def clear(self) -> None:
        """Remove all rules."""
        self.rules.clear()

    def next_for(self, op: str, traits: Callable[[], Traits]) -> Fault:
        """Return the fault for a request to the operation ``op``; ``NO_FAULT`` if no rule fires.

        ``traits`` returns the properties of the request. It is called only if there are rules.
        """
        if not self.rules:
            return NO_FAULT
        known = traits()
        # Every rule must count the request, including those after the one that fires.
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
            raise BadRule(f"op: {op!r} is not one of {', '.join(self._ops)}")
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
            raise BadRule(f"do: {op} returns no ETag; bad-etag is for {', '.join(STORE_OPS)}")
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
            raise BadRule("match: nth must be a whole number of at least 1")
        if name != "nth" and not isinstance(value, str):
            raise BadRule(f"match: {name} must be a string")
    if not re.fullmatch("[0-9A-Fa-f]{32}", match.get("md5", "0" * 32)):
        raise BadRule("match: md5 must be 32 hexadecimal digits")
    return match
