"""The record of a request: what is known about it across runs, crashes and second triggers.

It guards the call of the target action, which may be billed: the intent to call is stored durably
before the call, and the answer durably after it. So a run that finds an intent without an answer
knows that the outcome of a call is unknown. Prefect's cache cannot guard that: it takes every read
error for a miss, and drops a write that failed.

A record changes by its methods alone, each of which is named for what happens and refuses what may
not follow. ``tasks.state.record_store`` keeps records.
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
    """What was to happen to a record may not follow from its state. A mistake in the program."""


ALLOWED: dict[str, frozenset[RecordState]] = {}
"""The states in which each method of ``Record`` may be called; the others are always allowed."""


def _from(*states: RecordState) -> Callable[[_Method[_Params, _Result]], _Method[_Params, _Result]]:
    """Lets a method of ``Record`` be called in these states only."""

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
    """A part of a record. It is replaced, and never changed."""


class Intent(_Part, frozen=True):
    """A call that was sent, or was about to be. It stands until the call's answer is stored."""

    window: int
    at: datetime


class Origin(_Part, frozen=True):
    """What a run was started with, so that another run can go on in its place."""

    deployment: str
    """``flow/deployment``: its ID would not outlive the server's database."""
    parameters: dict[str, Any] = Field(repr=False)
    job_variables: dict[str, Any] | None = Field(default=None, repr=False)
    work_queue: str | None = None


class FollowUp(_Part, frozen=True):
    """The run that goes on with a request, scheduled or about to be scheduled."""

    attempt: int
    previous: str
    """The flow run that left the request to this one, or died with it."""
    due: datetime
    flow_run_id: str | None = None
    """``None`` until Prefect has scheduled the run."""


class Backoff(_Part, frozen=True):
    """How often in a row something kept the request from going on: an outage, runs that died."""

    since: datetime
    count: int = 0


class RunEntry(_Part, frozen=True):
    """A flow run that claimed the request."""

    flow_run_id: str
    window: int
    """The number of the window in which it ended, or began while it has not ended."""
    outcome: RunEnd | None = None
    """``None`` while the run is at work, and when it died and nobody has noticed yet."""


@dataclass
class _Stored:
    """What a process wrote last of a record."""

    sealed: bytes | None = None
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
    """New after the request was forgotten: steps cached before that are not found any more."""
    request_digest: str = Field(validation_alias=AliasChoices("request_digest", "form_digest"))
    """Of the request as it was given. When it is the same, the files need not even be opened."""
    input_digest: str
    """Of the request and the contents of its files."""
    fence: int = 0
    """Goes up with every run that claims the request, so that a run that was overtaken is told."""
    window: int = 0
    """The number of the window that is open or being opened; 0 before the first."""
    calls: int = 0
    """Target-action requests sent and not throttled, unanswered ones included."""
    tencent_request_ids: tuple[str, ...] = ()
    intent: Intent | None = None
    reply: Reply | None = None
    """The answer, whole. With it the request is done."""
    verdict: Verdict | None = None
    outcome: RunEnd | None = None
    """How the last run ended; ``None`` while it is at work, or when it died unnoticed."""
    error: ResultError | None = None
    runs: tuple[RunEntry, ...] = ()
    """The runs that claimed the request, the last one last."""
    origin: Origin | None = None
    """Of the last run; ``None`` where it had no deployment, and no other can be scheduled."""
    follow_up: FollowUp | None = None
    attempt: int = 0
    """Counts the follow-ups of the request's whole life."""
    backoff: Backoff | None = Field(
        default=None, validation_alias=AliasChoices("backoff", "setbacks")
    )
    saved_files: tuple[str, ...] = Field(default=(), repr=False)
    """Where files that the answer points to were saved."""
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    _stored: _Stored = PrivateAttr(default_factory=_Stored)

    # What the record says.

    @property
    def state(self) -> RecordState:
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
        """Whether runs of a deployment still have to bring the request to its end."""
        return self.origin is not None and self.outcome in (None, "rerequested")

    @property
    def waits_since(self) -> datetime | None:
        """Since when the request is held up by an outage, or by a run that is due and does not
        begin; ``None`` where it does not wait for a later run."""
        if self.outcome != "rerequested":
            return None
        times = [self.backoff.since] if self.backoff else []
        times += [self.follow_up.due] if self.follow_up else []
        return min(times, default=None)

    # What happens to it, in the order of a request's life.

    def claim(self, flow_run_id: str, origin: Origin | None) -> bool:
        """A run claims the request.

        Returns:
            Whether an earlier run left the request to this one.
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
        """The same input was given in another way, such as with files in another place."""
        self._set(request_digest=request_digest)

    @_from("new", "at work", "waiting", "crashed", "cancelled", "failed")
    def take_input(self, target_action: str, region: str, input_digest: str) -> None:
        """Another input takes the place of the one before, in a window of its own."""
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
        """The window ran out, or its URLs do not work: the next one begins."""
        self._set(window=self.window + 1)

    @_from("at work", "calling")
    def intend_call(self) -> None:
        """The target action is about to be called. Counted as if it had been sent already."""
        self._set(
            intent=Intent(window=self.window, at=datetime.now(UTC)),
            calls=self.calls + 1,
        )

    @_from("calling")
    def withdraw_call(self, before: Intent | None) -> None:
        """Nothing was sent. ``before`` is the intent that stood before this one."""
        self._set(intent=before, calls=self.calls - 1)

    @_from("calling")
    def refuse_call(self, *, reached_action: bool) -> None:
        """The call has no answer and is known to have none: it was refused, or not even sent."""
        self._set(intent=None, calls=self.calls - (not reached_action))

    @_from("calling")
    def answer(self, reply: Reply, verdict: Verdict, *, ends_run: bool) -> None:
        """The answer came. ``ends_run`` where its run has nothing to do after it."""
        self.note(reply.tencent_request_id)
        self._set(intent=None, reply=reply, verdict=verdict)
        if ends_run:
            self._end("verdict")

    @_from("answered", "done")
    def save_file(self, path: str) -> None:
        """A file that the answer points to is about to be saved there."""
        if path not in self.saved_files:
            self._set(saved_files=(*self.saved_files, path))

    @_from("answered", "done")
    def finish(self) -> None:
        """The run ends with the stored verdict."""
        self._end("verdict")

    @_from("at work", "calling", "waiting", "crashed")
    def fail(self, outcome: RunEnd, error: ResultError) -> None:
        """The run ends without a verdict, or the request is given up without a run."""
        self._end(outcome, error)

    @_from("at work", "calling", "waiting", "crashed")
    def back_off(self) -> None:
        """Something kept the request from going on: an outage, or a run that died."""
        before = self.backoff or Backoff(since=datetime.now(UTC))
        self._set(backoff=Backoff(since=before.since, count=before.count + 1))

    @_from("at work", "calling", "waiting", "crashed")
    def defer(self, *, to_next_window: bool = False) -> None:
        """The request is left to a later run: the follow-up that is planned, if any."""
        self._end("rerequested")
        if to_next_window:
            self._set(window=self.window + 1)

    @_from("at work", "calling", "waiting", "crashed")
    def plan_follow_up(self, due: datetime, previous: str | None = None) -> None:
        """The request is left to a new run, where a deployment can make one.

        ``previous`` is the run in whose place it comes, if not the one that claimed it last.
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
        """Prefect has scheduled the follow-up."""
        assert self.follow_up is not None
        self._set(follow_up=self.follow_up.model_copy(update={"flow_run_id": flow_run_id}))

    @_from("at work", "calling", "answered")
    def crash(self) -> None:
        """The run is gone, and could not say how it ended."""
        self._end("crashed")

    @_from("at work", "calling", "answered", "waiting")
    def cancel(self) -> None:
        """A person cancelled the request's run, or the follow-up."""
        self._set(follow_up=None)
        self._end("cancelled")

    def note(self, tencent_request_id: str | None) -> None:
        """Keeps a Tencent request ID, once."""
        if tencent_request_id and tencent_request_id not in self.tencent_request_ids:
            self._set(tencent_request_ids=(*self.tencent_request_ids, tencent_request_id))

    # For the store alone.

    @property
    def sealed(self) -> bytes | None:
        """What this process wrote last, as it was written; ``None`` before it wrote anything."""
        return self._stored.sealed

    @property
    def was_open(self) -> bool:
        """Whether the record was open when this process wrote it last."""
        return self._stored.was_open

    def touch(self) -> None:
        """The record is about to be written."""
        self._set(updated_at=datetime.now(UTC))

    def stored_as(self, sealed: bytes) -> None:
        """The record was written."""
        self._stored.sealed, self._stored.was_open = sealed, self.is_open

    def _end(self, outcome: RunEnd, error: ResultError | None = None) -> None:
        """How the last run ended, and with it, maybe, the request."""
        self._set(outcome=outcome, error=error)
        last = self.runs[-1]
        if last.outcome is None:
            ended = last.model_copy(update={"outcome": outcome, "window": self.window})
            self._set(runs=(*self.runs[:-1], ended))
        if outcome not in ("rerequested", "crashed"):
            self._set(backoff=None)

    def _set(self, **fields: Any) -> None:
        # The only place that changes a record: for everybody else it is frozen.
        vars(self).update(fields)
