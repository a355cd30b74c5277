"""The record of a request: what is known about it across runs, crashes and repeated triggers.

The record prevents the call of the target action, which may be billed, from being repeated. The
intent to call is stored durably before the call, and the answer is stored durably after the call. A
run that finds an intent without an answer therefore knows that the outcome of a call is unknown.
Prefect's cache cannot provide this, because it treats every read error as a cache miss and ignores
failed writes.

Only the methods of a record change it. Each method is named after an event in the life of a
request, and raises ``IllegalTransition`` if the event cannot happen in the record's state.
``tasks.state.record_store`` reads and writes records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, Field, PrivateAttr

from faceid.models import Reply, ResultError, RunEnd, Verdict
from tasks.state.record_parts import Backoff, FollowUp, Intent, Origin, RunEntry

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
"""The states of a record, which ``Record`` describes."""

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["Record", _Params], _Result]


class IllegalTransition(RuntimeError):
    """Raised if a method of a record is called in a state that does not allow it.

    This is a programming error.
    """


ALLOWED: dict[str, frozenset[RecordState]] = {}
"""Maps methods of ``Record`` to the states in which they may be called. Methods that are not listed
may be called in any state."""


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
    - ``calling``: as ``at work``, and a call has been or will be sent whose answer is not stored.
    - ``answered``: as ``at work``, and the answer is stored; its files are being saved.
    - ``waiting``: the request is left to a later run.
    - ``crashed``: the last run died, and no follow-up is planned yet.
    - ``cancelled``: somebody cancelled the request's run or its follow-up.
    - ``failed``: the last run ended without a verdict.
    - ``done``: the last run ended with the stored verdict.

    The following table lists the events, the states in which they may happen, and the next state:

    ========================= ================================================= =================
    event                     allowed in the states                             next state
    ========================= ================================================= =================
    ``claim``                 any                                               at work, calling
                                                                                or done
    ``take_input``            new, at work, waiting, crashed, cancelled, failed  the same
    ``open_window``           at work, calling                                  the same
    ``intend_call``           at work, calling                                  calling
    ``withdraw_call``         calling                                           at work, calling
    ``refuse_call``           calling                                           at work, calling
    ``answer``                calling                                           answered or done
    ``save_file``             answered, done                                    the same
    ``finish``                answered, done                                    done
    ``fail``                  at work, calling, waiting, crashed                failed
    ``back_off``              at work, calling, waiting, crashed                the same
    ``wait_until``            at work, calling, waiting, crashed                the same
    ``defer``                 at work, calling, waiting, crashed                waiting
    ``plan_follow_up``        at work, calling, waiting, crashed                waiting
    ``follow_up_scheduled``   waiting                                           waiting
    ``crash``                 at work, calling, answered                        crashed
    ``cancel``                at work, calling, answered, waiting               cancelled
    ========================= ================================================= =================

    ``restate``, ``note`` and ``take_over`` are always allowed. In addition, ``take_input`` requires
    that there is no intent and no verdict.
    """

    request_id: str
    """The caller's ID for the request."""
    target_action: str
    """Name of the action that judges the files."""
    region: str
    """Region in which the files are uploaded and the action is called."""
    generation: str = Field(default_factory=lambda: uuid4().hex)
    """Random ID of this record. If the request is forgotten and delivered again, its new record has
    another generation, so that old cached steps no longer match."""
    request_digest: str = Field(validation_alias=AliasChoices("request_digest", "form_digest"))
    """Digest of the request and the locations of its files. If a request has the same digest, its
    files need not be read to know that its input is the same."""
    input_digest: str
    """Digest of the request and the contents of its files."""
    fence: int = 0
    """Number of claims so far. A run whose fence is lower than the stored one has been overtaken,
    and cannot save the record."""
    window: int = 0
    """Number of the window that is open or being opened; 0 before the first window."""
    calls_before: int = Field(default=0, validation_alias=AliasChoices("calls_before", "calls"))
    """Number of calls by runs that are not in ``runs``, or whose entry does not count them."""
    tencent_request_ids: tuple[str, ...] = ()
    """The service's IDs of the calls for the request, oldest first."""
    intent: Intent | None = None
    """The intent of a call that has neither been answered nor refused."""
    reply: Reply | None = None
    """The complete answer of the target action."""
    verdict: Verdict | None = None
    """The verdict in the answer."""
    outcome: RunEnd | None = None
    """How the last run ended; ``None`` while it is at work, or if it died and the sweep has not
    noticed it yet."""
    error: ResultError | None = None
    """Why the last run failed."""
    runs: tuple[RunEntry, ...] = ()
    """The runs that claimed the request, oldest first."""
    origin: Origin | None = None
    """Deployment and parameters of the last run; ``None`` if it has no deployment."""
    follow_up: FollowUp | None = None
    """The planned or scheduled follow-up."""
    attempt: int = 0
    """Number of follow-ups planned so far for this request."""
    backoff: Backoff | None = Field(
        default=None, validation_alias=AliasChoices("backoff", "setbacks")
    )
    """The successive setbacks, if there are any. They are removed when the request ends."""
    saved_files: tuple[str, ...] = Field(default=(), repr=False)
    """Paths of the saved files of the answer, including those that are about to be saved."""
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """When the record was last written (UTC)."""
    _stored: _Stored = PrivateAttr(default_factory=_Stored)

    # Properties.

    @property
    def state(self) -> RecordState:
        """The state of the record, derived from its fields."""
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
    def calls(self) -> int:
        """Number of calls of the target action over the request's whole life.

        Calls that were not answered count, throttled calls do not. They are counted per run, so
        that records of runs that overtook one another can be merged.
        """
        return self.calls_before + sum(run.calls for run in self.runs)

    @property
    def is_open(self) -> bool:
        """Whether the request is unfinished and runs of a deployment are to finish it."""
        return self.origin is not None and self.outcome in (None, "rerequested")

    @property
    def waits_since(self) -> datetime | None:
        """Time since when the request has been waiting for a later run (UTC).

        This is the time of its first setback or the time at which its follow-up is due, whichever
        is earlier. ``None`` if the request is not waiting, or has neither.
        """
        if self.outcome != "rerequested":
            return None
        times = [self.backoff.since] if self.backoff else []
        times += [self.follow_up.due] if self.follow_up else []
        return min(times, default=None)

    # Events, in the order of a request's life.

    def claim(self, flow_run_id: str, origin: Origin | None) -> bool:
        """Add a run that claims the request.

        Returns whether the run is the follow-up that was scheduled for the request. If the request
        has its verdict, the run ends with the verdict at once.
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
        """Set a new request digest for the same input, for example if its files have been moved."""
        self._set(request_digest=request_digest)

    @_from("new", "at work", "waiting", "crashed", "cancelled", "failed")
    def take_input(self, target_action: str, region: str, input_digest: str) -> None:
        """Replace the input by a different one, and begin a new window for it.

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
        """Begin the next window, because the current window is over or its URLs were refused."""
        self._set(window=self.window + 1)

    @_from("at work", "calling")
    def intend_call(self) -> None:
        """Set the intent to call the target action, and count the call as sent."""
        self._set(intent=Intent(window=self.window, at=datetime.now(UTC)))
        self._count(1)

    @_from("calling")
    def withdraw_call(self, before: Intent | None) -> None:
        """Undo ``intend_call``, because no call was sent.

        ``before`` is the intent that the record had before.
        """
        self._set(intent=before)
        self._count(-1)

    @_from("calling")
    def refuse_call(self, *, reached_action: bool, before: Intent | None = None) -> None:
        """Remove the intent, because the call was refused or was not sent.

        ``reached_action`` is whether the action received the call. If not, the call is not counted.
        ``before`` is the intent that the record had before: an earlier call may still have an
        answer that is unknown.
        """
        self._set(intent=before)
        if not reached_action:
            self._count(-1)

    @_from("calling")
    def answer(self, reply: Reply, verdict: Verdict, *, ends_run: bool) -> None:
        """Set the answer and its verdict. With ``ends_run``, the run ends with the verdict."""
        self.note(reply.tencent_request_id)
        self._set(intent=None, reply=reply, verdict=verdict)
        if ends_run:
            self._end("verdict")

    def take_over(self, overtaken: "Record") -> None:
        """Take what a run knows that this record's run has overtaken: its calls, and its answer.

        The first stored verdict stands. ``overtaken`` is that run's own version of the record.
        """
        entry = overtaken.runs[-1]
        known = [run.flow_run_id for run in self.runs]
        if entry.flow_run_id in known:
            last = len(known) - 1 - known[::-1].index(entry.flow_run_id)
            self._set(runs=(*self.runs[:last], entry, *self.runs[last + 1 :]))
        else:
            self._set(runs=(entry, *self.runs))
        for tencent_request_id in overtaken.tencent_request_ids:
            self.note(tencent_request_id)
        if self.verdict is None:
            self._set(intent=None, reply=overtaken.reply, verdict=overtaken.verdict)
            if self.outcome is not None:
                self._set(outcome="verdict", error=None, follow_up=None, backoff=None)

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
        """End the request without a verdict, because its run failed or the request is given up."""
        self._end(outcome, error)

    @_from("at work", "calling", "waiting", "crashed")
    def back_off(self) -> None:
        """Count a setback of the request, such as an outage or a run that died."""
        before = self.backoff or Backoff(since=datetime.now(UTC))
        self._set(backoff=Backoff(since=before.since, count=before.count + 1))

    @_from("at work", "calling", "waiting", "crashed")
    def wait_until(self, due: datetime) -> None:
        """Let the time until ``due`` not count towards giving the request up."""
        if self.backoff:
            since = self.backoff.since + max(due - datetime.now(UTC), timedelta())
            self._set(backoff=self.backoff.model_copy(update={"since": since}))

    @_from("at work", "calling", "waiting", "crashed")
    def defer(self, *, to_next_window: bool = False) -> None:
        """End the run, and leave the request to the planned follow-up or to a later command.

        With ``to_next_window``, the later run begins with the next window.
        """
        self._end("rerequested")
        if to_next_window:
            self._set(window=self.window + 1)

    @_from("at work", "calling", "waiting", "crashed")
    def plan_follow_up(self, due: datetime, previous: str | None = None) -> None:
        """End the run, and plan a follow-up if the last run has a deployment.

        ``due`` is when the follow-up is to start. ``previous`` is the ID of the flow run that the
        follow-up continues or replaces; by default, the last run that claimed the request.
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
        """Set the ID of the flow run that Prefect has scheduled as the follow-up."""
        assert self.follow_up is not None
        self._set(follow_up=self.follow_up.model_copy(update={"flow_run_id": flow_run_id}))

    @_from("at work", "calling", "answered")
    def crash(self) -> None:
        """End the run as crashed, because it died before it could record an outcome."""
        self._end("crashed")

    @_from("at work", "calling", "answered", "waiting")
    def cancel(self) -> None:
        """End the request as cancelled, because somebody cancelled its run or its follow-up."""
        self._set(follow_up=None)
        self._end("cancelled")

    def note(self, tencent_request_id: str | None) -> None:
        """Add a Tencent request ID, unless it is ``None``, empty or already present."""
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
        """Set ``updated_at`` to now, before the record is written."""
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

    def _count(self, calls: int) -> None:
        """Add to the number of calls of the last run."""
        last = self.runs[-1]
        counted = last.model_copy(update={"calls": last.calls + calls})
        self._set(runs=(*self.runs[:-1], counted))

    def _set(self, **fields: Any) -> None:
        # This is the only place that changes a record. The model is frozen, so that attributes
        # cannot be set elsewhere.
        vars(self).update(fields)
