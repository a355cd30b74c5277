"""The record of a request: what is known about it across runs, crashes and repeated triggers.

The record protects the call of the target action, which may be billed. The intent to call is stored
durably before the call, and the answer is stored durably after it. A run that finds an intent
without an answer therefore knows that the outcome of a call is unknown. Prefect's cache cannot
provide this: it treats every read error as a miss, and discards failed writes.

Only the methods of a record change it. Each is named after an event in the request's life, and
raises ``IllegalTransition`` if the event cannot happen in the record's state.
``tasks.state.record_store`` reads and writes records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, Field, PrivateAttr

from faceid.models import Reply, ResultError, RunEnd, Verdict

RecordState = Literal[
    "new",
    "at work",
    "calling",
    "answered",
    "waiting",
    "crashed",
    "cancelled",
    "failed",
    "done",
]

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["Record", _Params], _Result]


class IllegalTransition(RuntimeError):
    """A method of a record was called in a state that does not allow it: a programming error."""


ALLOWED: dict[str, frozenset[RecordState]] = {}
"""States in which a method of ``Record`` may be called. Other methods are always allowed."""


def _from(*states: RecordState) -> Callable[[_Method[_Params, _Result]], _Method[_Params, _Result]]:
    """Return a decorator that allows a method of ``Record`` to be called only in these states."""

    def decorate(method: _Method[_Params, _Result]) -> _Method[_Params, _Result]:
        ALLOWED[method.__name__] = frozenset(states)

        @wraps(method)
        def checked(self: "Record", /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            if self.state not in states:
                raise IllegalTransition(f"{method.__name__} does not follow {self.state!r}")
            return method(self, *args, **kwargs)

        return checked

    return decorate


class _Part(BaseModel, frozen=True):
    """A part of a record. Parts are immutable, and are replaced as a whole."""


class Intent(_Part, frozen=True):
    """The intent to call the action, kept until the call is answered, refused or withdrawn."""

    window: int
    """Number of the window in which the call is made."""
    at: datetime
    """When the intent was formed."""


class Origin(_Part, frozen=True):
    """The deployment and parameters of a run, from which a run in its place can be started."""

    deployment: str
    """``flow/deployment``. The ID is not used because a new server database would change it."""
    parameters: dict[str, Any] = Field(repr=False)
    job_variables: dict[str, Any] | None = Field(default=None, repr=False)
    work_queue: str | None = None


class FollowUp(_Part, frozen=True):
    """The run that continues a request, scheduled or about to be scheduled."""

    attempt: int
    """Number of the follow-up among all follow-ups of the request, from 1."""
    previous: str
    """ID of the flow run that this run follows or replaces."""
    due: datetime
    flow_run_id: str | None = None
    """ID of the flow run; ``None`` until Prefect has scheduled it."""


class Backoff(_Part, frozen=True):
    """The number of successive setbacks of a request, such as outages and runs that died."""

    since: datetime
    """When the first of the setbacks happened."""
    count: int = 0


class RunEntry(_Part, frozen=True):
    """A flow run that claimed the request."""

    flow_run_id: str
    window: int
    """Number of the window in which the run ended; until it ends, of the one in which it began."""
    outcome: RunEnd | None = None
    """``None`` while the run is at work, or if it died and the sweeper has not noticed yet."""


@dataclass
class _Stored:
    """The version of the record that its run loaded or wrote last, and whether that was open."""

    version: str | None = None
    was_open: bool = False


class Record(BaseModel, frozen=True):
    """All that is kept about one request.

    A record is in one of these states:

    - ``new``: no run has claimed the request yet.
    - ``at work``: a run has claimed the request, and may still be at work on it.
    - ``calling``: the same, and a call has been sent whose answer is not stored (yet).
    - ``answered``: the same, and the answer is stored; the files it points to are being saved.
    - ``waiting``: the request is left to a later run.
    - ``crashed``: the last run died, and no other is planned yet.
    - ``cancelled``: a person cancelled the request's run.
    - ``failed``: the last run ended without a verdict.
    - ``done``: the last run ended with the stored verdict.

    What may happen in which state:

    ========================= ================================================= =================
    what happens              in the states                                     then
    ========================= ================================================= =================
    ``claim``                 any                                               at work, calling
                                                                                or done
    ``take_input``            new, at work, waiting, crashed, cancelled, failed  the same
    ``open_window``           at work, calling                                  the same
    ``intend_call``           at work, calling                                  calling
    ``withdraw_call``         calling                                           at work, calling
    ``refuse_call``           calling                                           at work
    ``answer``                calling                                           answered or done
    ``save_file``             answered, done                                    the same
    ``finish``                answered, done                                    done
    ``fail``                  at work, calling, waiting, crashed                failed
    ``back_off``              at work, calling, waiting, crashed                the same
    ``defer``                 at work, calling, waiting, crashed                waiting
    ``plan_follow_up``        at work, calling, waiting, crashed                waiting
    ``follow_up_scheduled``   waiting                                           waiting
    ``crash``                 at work, calling, answered                        crashed
    ``cancel``                at work, calling, answered, waiting               cancelled
    ========================= ================================================= =================

    ``restate`` and ``note`` are always allowed. A run that takes another input needs a request
    without a standing intent, whatever its state.
    """

    request_id: str
    target_action: str
    region: str
    generation: str = Field(default_factory=lambda: uuid4().hex)
    """Random ID. After a request is forgotten it gets a new one, so that old cached steps no longer
    match."""
    request_digest: str = Field(validation_alias=AliasChoices("request_digest", "form_digest"))
    """Digest of the request with its file locations. If unchanged, the files need not be read."""
    input_digest: str
    """Digest of the request and the contents of its files."""
    fence: int = 0
    """Incremented with every claim, so that an overtaken run cannot save the record."""
    window: int = 0
    """Number of the window that is open or being opened; 0 before the first window."""
    calls: int = 0
    """Number of target-action calls that were sent and not throttled, including unanswered ones."""
    tencent_request_ids: tuple[str, ...] = ()
    intent: Intent | None = None
    reply: Reply | None = None
    """The complete answer of the target action."""
    verdict: Verdict | None = None
    outcome: RunEnd | None = None
    """How the last run ended; ``None`` while it is at work, or if its death was not noticed yet."""
    error: ResultError | None = None
    runs: tuple[RunEntry, ...] = ()
    """The runs that claimed the request, oldest first."""
    origin: Origin | None = None
    """Origin of the last run; ``None`` if it has no deployment for a follow-up."""
    follow_up: FollowUp | None = None
    attempt: int = 0
    """Number of follow-ups planned so far for this request."""
    backoff: Backoff | None = Field(
        default=None, validation_alias=AliasChoices("backoff", "setbacks")
    )
    saved_files: tuple[str, ...] = Field(default=(), repr=False)
    """Paths of the saved files of the answer, including those that are about to be saved."""
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    _stored: _Stored = PrivateAttr(default_factory=_Stored)

    # Properties.

    @property
    def state(self) -> RecordState:
        """The state of the record, derived from its other fields."""
        match self.outcome:
            case None if not self.runs:
                return "new"
            case None if self.verdict is not None:
                return "answered"
            case None:
                return "at work" if self.intent is None else "calling"
            case "verdict":
                return "done"
            case "rerequested":
                return "waiting"
            case "crashed" | "cancelled":
                return self.outcome
            case _:
                return "failed"

    @property
    def is_open(self) -> bool:
        """Whether the request is unfinished and runs of a deployment are to finish it."""
        return self.origin is not None and self.outcome in (None, "rerequested")

    @property
    def waits_since(self) -> datetime | None:
        """Time of the first setback or due time of the follow-up, whichever is earlier.

        ``None`` if the request does not wait for a later run, or has neither.
        """
        if self.outcome != "rerequested":
            return None
        times = [self.backoff.since] if self.backoff else []
        times += [self.follow_up.due] if self.follow_up else []
        return min(times, default=None)

    # Events, in the order of a request's life.

    def claim(self, flow_run_id: str, origin: Origin | None) -> bool:
        """Enter a run that claims the request.

        Returns:
            Whether the run is the follow-up that was scheduled for the request.
        """
        is_follow_up = self.follow_up is not None and self.follow_up.flow_run_id == flow_run_id
        self._set(
            fence=self.fence + 1,
            runs=(*self.runs, RunEntry(flow_run_id=flow_run_id, window=self.window)),
            origin=origin,
            follow_up=None if is_follow_up else self.follow_up,
        )
        if self.verdict is not None:
            self._end("verdict")
        else:
            self._set(outcome=None, error=None)
        return is_follow_up

    def restate(self, request_digest: str) -> None:
        """Store a new digest for the same input, for example if its files have been moved."""
        self._set(request_digest=request_digest)

    @_from("new", "at work", "waiting", "crashed", "cancelled", "failed")
    def take_input(self, target_action: str, region: str, input_digest: str) -> None:
        """Replace the input by another one, which gets a new window.

        Raises ``IllegalTransition`` if there is a call without an answer, or a verdict.
        """
        if self.intent is not None or self.verdict is not None:
            raise IllegalTransition("another input does not follow a call")
        self._set(
            window=self.window + 1,
            input_digest=input_digest,
            target_action=target_action,
            region=region,
        )

    @_from("at work", "calling")
    def open_window(self) -> None:
        """Begin the next window, because the current one is over or its URLs were refused."""
        self._set(window=self.window + 1)

    @_from("at work", "calling")
    def intend_call(self) -> None:
        """Store the intent to call the target action, and count the call as sent."""
        self._set(
            intent=Intent(window=self.window, at=datetime.now(UTC)),
            calls=self.calls + 1,
        )

    @_from("calling")
    def withdraw_call(self, before: Intent | None) -> None:
        """Undo ``intend_call``, because nothing was sent. ``before`` is the previous intent."""
        self._set(intent=before, calls=self.calls - 1)

    @_from("calling")
    def refuse_call(self, *, reached_action: bool) -> None:
        """Remove the intent, because the call was refused or not sent and will not be answered.

        ``reached_action`` is whether the action received the call; otherwise it is not counted.
        """
        self._set(intent=None, calls=self.calls - (not reached_action))

    @_from("calling")
    def answer(self, reply: Reply, verdict: Verdict, *, ends_run: bool) -> None:
        """Store the answer and its verdict. With ``ends_run`` the run ends with the verdict."""
        self.note(reply.tencent_request_id)
        self._set(intent=None, reply=reply, verdict=verdict)
        if ends_run:
            self._end("verdict")

    @_from("answered", "done")
    def save_file(self, path: str) -> None:
        """Add the path at which a file of the answer is about to be saved."""
        if path not in self.saved_files:
            self._set(saved_files=(*self.saved_files, path))

    @_from("answered", "done")
    def finish(self) -> None:
        """End the run with the stored verdict."""
        self._end("verdict")

    @_from("at work", "calling", "waiting", "crashed")
    def fail(self, outcome: RunEnd, error: ResultError) -> None:
        """End the request without a verdict: its run failed, or it is given up."""
        self._end(outcome, error)

    @_from("at work", "calling", "waiting", "crashed")
    def back_off(self) -> None:
        """Count a setback, such as an outage or a run that died."""
        before = self.backoff or Backoff(since=datetime.now(UTC))
        self._set(backoff=Backoff(since=before.since, count=before.count + 1))

    @_from("at work", "calling", "waiting", "crashed")
    def defer(self, *, to_next_window: bool = False) -> None:
        """End the run, and leave the request to the planned follow-up, if there is one.

        With ``to_next_window`` the later run begins the next window.
        """
        self._end("rerequested")
        if to_next_window:
            self._set(window=self.window + 1)

    @_from("at work", "calling", "waiting", "crashed")
    def plan_follow_up(self, due: datetime, previous: str | None = None) -> None:
        """End the run, and plan a follow-up if the last run has a deployment.

        ``previous`` is the ID of the run that the follow-up replaces; by default, of the last run
        that claimed the request.
        """
        follow_up = None
        if self.origin is not None:
            self._set(attempt=self.attempt + 1)
            previous = previous or self.runs[-1].flow_run_id
            follow_up = FollowUp(attempt=self.attempt, previous=previous, due=due)
        self._set(follow_up=follow_up)
        self._end("rerequested")

    @_from("waiting")
    def follow_up_scheduled(self, flow_run_id: str) -> None:
        """Store the ID of the flow run that Prefect scheduled as the follow-up."""
        assert self.follow_up is not None
        self._set(follow_up=self.follow_up.model_copy(update={"flow_run_id": flow_run_id}))

    @_from("at work", "calling", "answered")
    def crash(self) -> None:
        """End the run as crashed: it died without recording an outcome."""
        self._end("crashed")

    @_from("at work", "calling", "answered", "waiting")
    def cancel(self) -> None:
        """End the request as cancelled: somebody cancelled its run or its follow-up."""
        self._set(follow_up=None)
        self._end("cancelled")

    def note(self, tencent_request_id: str | None) -> None:
        """Add a Tencent request ID unless it is ``None``, empty or already present."""
        if tencent_request_id and tencent_request_id not in self.tencent_request_ids:
            self._set(tencent_request_ids=(*self.tencent_request_ids, tencent_request_id))

    # Only for the record store.

    @property
    def version(self) -> str | None:
        """The stored version that this record was loaded from or written as; ``None`` if none."""
        return self._stored.version

    @property
    def was_open(self) -> bool:
        """Whether the record was open in that version."""
        return self._stored.was_open

    def touch(self) -> None:
        """Set ``updated_at`` before the record is written."""
        self._set(updated_at=datetime.now(UTC))

    def stored_as(self, version: str) -> None:
        """Remember the version in which the record, as it is now, is stored."""
        self._stored.version, self._stored.was_open = version, self.is_open

    def takes_the_place_of(self, other: "Record") -> None:
        """Let the next save of this record write over the stored version of another one."""
        self._stored.version, self._stored.was_open = other.version, other.was_open

    def _end(self, outcome: RunEnd, error: ResultError | None = None) -> None:
        """Store the outcome of the last run, and its error if it failed."""
        self._set(outcome=outcome, error=error)
        last = self.runs[-1]
        if last.outcome is None:
            ended = last.model_copy(update={"outcome": outcome, "window": self.window})
            self._set(runs=(*self.runs[:-1], ended))
        if outcome not in ("rerequested", "crashed"):
            self._set(backoff=None)

    def _set(self, **fields: Any) -> None:
        # The only place that changes a record: the model is frozen, so attributes cannot be set.
        vars(self).update(fields)
