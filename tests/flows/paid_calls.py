"""One request, its runs, and what must hold for its paid calls at every moment.

The runs are real, as are network, emulator, storage and locks, but they are runs without Prefect,
so that their awaits can be counted. ``PaidCalls`` watches each lock, each write of the record and
each call, and collects in ``wrong`` what must not happen.
"""

import asyncio
import errno
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import httpx
import pytest
from prefect import State, Task

from faceid.client import FaceIdClient
from faceid.emulator import Emulator
from faceid.errors import FaceIdError, NoAnswer
from faceid.files.sources import Patience
from faceid.pacing import Pacer
from faceid.replies import read_reply, read_verdict
from faceid.validation import read_request, validate_request
from flows.delivery import run as delivery_run
from flows.delivery.outcome import DeliveryOutcome
from flows.delivery.run import DeliveryOptions, deliver_request
from tasks.call_target_action import call_target_action
from tasks.check_expiry import check_expiry
from tasks.delivery import OnUnknownOutcome
from tasks.drain import Drain
from tasks.request_upload_url import request_upload_url
from tasks.retries import is_passing
from tasks.settings import DeliverySettings
from tasks.state import answers, locks
from tasks.state.claims import CurrentRun
from tasks.state.documents import LocalDocuments
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.spill import open_spill
from tasks.state.storage import open_storage
from tasks.upload_resource import upload_resource
from tests.sample_request import REQUEST
from tests.stepping import CURRENT, Stepped

ACTION = REQUEST["target_action"]
ATTEMPTS = 2
"""How often a step is tried in one run."""

Mark = Literal["begun", "intended", "sent", "answered"]
"""A point of a run: its start, its intent is stored, its call has left, its answer is in hand."""

What = Literal[
    "cancel", "cut off", "lose lock", "overtake", "let go on", "storage away", "told late", "late"
]


@dataclass(frozen=True)
class Event:
    """What happens to a run at the n-th of its awaits after a mark."""

    mark: Mark
    await_number: int
    what: What
    operations: int = 1
    """For how many operations the storage is away."""


@dataclass(frozen=True)
class Plan:
    """A run to come."""

    policy: OnUnknownOutcome = "call_again"
    events: tuple[Event, ...] = ()


@dataclass
class Call:
    """A call whose body was given to the network."""

    run: "Run"
    ended: bool = False
    """Whether its answer, or its refusal, is known to the run."""
    came_home: bool = False
    """Whether the run has waited for its end, whatever that was."""
    answer: str | None = None
    """The Tencent request ID of its answer, if that was given to the run whole."""


class Run(Stepped):
    """A run of the request, and what happens to it."""

    def __init__(self, life: "PaidCalls", plan: Plan, overtakes: "Run | None") -> None:
        super().__init__(self._at_await)
        self.life, self.plan, self.overtakes = life, plan, overtakes
        self.awaits: dict[Mark, int] = {"begun": 0}
        """For each mark that the run has reached, the number of awaits since then."""
        self.intended_at = 0
        self.was_robbed = False
        """Whether its lock was taken away."""
        self.was_cancelled = self.was_cut_off = False
        self.drain = Drain()
        self.outcome: DeliveryOutcome | None = None

    def reach(self, mark: Mark) -> None:
        self.awaits.setdefault(mark, 0)

    def _at_await(self) -> None:
        for mark in self.awaits:
            self.awaits[mark] += 1
        for event in self.plan.events:
            if self.awaits.get(event.mark) == event.await_number:
                self.life.happen(self, event)


@dataclass
class PaidCalls:
    """The life of one request."""

    emulator: Emulator
    request_id: str
    rivals: list[Plan] = field(default_factory=list[Plan])
    """The runs that overtake another one, in this order."""
    wrong: list[str] = field(default_factory=list[str])
    """What has happened and must not."""
    calls: list[Call] = field(default_factory=list[Call])
    runs: list[Run] = field(default_factory=list[Run])
    was_disturbed: bool = False
    """Whether anything but the service has failed so far."""

    def __post_init__(self) -> None:
        self._settings = DeliverySettings.load()
        self._store = RecordStore(open_storage(self._settings), "emulator", "default")
        self._spill = open_spill(self._settings, self._store.storage)
        self._moments = itertools.count(1)
        self._holder: Run | None = None
        self._lock = Path()
        self._intents: set[object] = set()
        self._answer: tuple[Any, Any] | None = None
        self._answered_at = 0
        self._away = 0
        self._told_late = False

    # Runs.

    async def deliver(self, plan: Plan) -> None:
        """Run the request, and wait until this run and those that overtake it have ended."""
        self._start(plan, None)
        async with asyncio.timeout(60):
            while at_work := [run.task for run in self.runs if not run.task.done()]:
                await asyncio.wait(at_work)
        await asyncio.sleep(0)  # the last one's callback

    def _start(self, plan: Plan, overtakes: Run | None) -> Run:
        run = Run(self, plan, overtakes)
        self.runs.append(run)
        task = run.start(self._deliver(run))
        run.drain.add(task, self.request_id)
        task.add_done_callback(lambda task: self._ended(run, task))
        return run

    async def _deliver(self, run: Run) -> DeliveryOutcome:
        settings, store = self._settings, self._store
        request = read_request(**REQUEST | {"request_id": self.request_id})
        async with FaceIdClient(
            settings.endpoint or self.emulator.url,
            settings.credentials(),
            pacers=lambda _: Pacer(1000),
            transport=_Network(self, run),
        ) as client:
            return await deliver_request(
                validate_request(request, settings),
                client,
                settings,
                store,
                CurrentRun(f"run-{len(self.runs)}"),
                DeliveryOptions(on_unknown_outcome=run.plan.policy),
                Patience(settings.source_seconds),
                run.drain,
            )

    def _ended(self, run: Run, task: "asyncio.Task[DeliveryOutcome]") -> None:
        if task.cancelled():
            self._expect(run.was_cancelled, "a run was cancelled by nobody")
        elif task.exception():
            self.wrong.append(f"a run ended with {task.exception()!r}")
        else:
            run.outcome = task.result()
        for call in self.calls:
            if call.run is run and not run.was_cut_off:
                self._expect(call.came_home, "a call was cut off")
            if call.run is run and call.answer:
                self._expect(self.kept(call.answer), "an answer was dropped")
                if run.outcome:
                    self._expect(run.outcome.failure is None, "a run withheld its answer")
        failure = run.outcome and run.outcome.failure
        if failure and failure.code == "LockLost":
            self._expect(run.was_robbed, "a run lost a lock that nobody took away")
        if run.overtakes:
            run.overtakes.thaw()
        for other in self.runs:
            if other.overtakes is run:
                other.thaw()

    def happen(self, run: Run, event: Event) -> None:
        """Let an event of its plan happen to a run."""
        self.was_disturbed = True
        match event.what:
            case "cancel":
                run.was_cancelled = True
                asyncio.get_running_loop().call_soon(run.task.cancel)
            case "cut off":
                run.was_cancelled = run.was_cut_off = True
                asyncio.get_running_loop().call_soon(run.drain.cut_off)
            case "lose lock":
                self._take_lock_away()
            case "overtake":
                self._take_lock_away()
                run.freeze()
                self._start(self.rivals.pop(0) if self.rivals else Plan(), run)
            case "let go on":
                if run.overtakes and not run.overtakes.task.done():
                    run.freeze()
                    run.overtakes.thaw()
            case "storage away" | "told late":
                self._away, self._told_late = event.operations, event.what == "told late"
            case "late":
                self.emulator.advance(7300)

    def _take_lock_away(self) -> None:
        if self._holder:
            self._holder.was_robbed = True
            self._holder = None
            self._lock.unlink()

    def recover(self) -> None:
        """Let everything work again."""
        self.emulator.clear_faults()
        self._away = 0

    # What is looked at.

    @property
    def is_answered(self) -> bool:
        return self._answer is not None

    def record(self) -> Record | None:
        """Return the stored record, even while the storage is away for the runs."""
        token = CURRENT.set(None)
        try:
            return next((r for r in self._store.all() if r.request_id == self.request_id), None)
        finally:
            CURRENT.reset(token)

    def kept(self, answer: str) -> bool:
        """Return whether the answer with this ID is stored or spilled.

        It is also stored if it is counted beside an earlier one.
        """
        spilled = [self._spill.read(name) for name in self._spill.of(self._store, self.request_id)]
        records = [self.record(), *(found.record for found in spilled if found)]
        return any(r and r.reply and answer in r.tencent_request_ids for r in records)

    def look(self) -> None:
        """Compare the stored record with what was stored before and with the emulator's count."""
        # In this order: the call's intent is stored before the emulator counts it.
        counted = self.emulator.stats()["calls"].get(ACTION, 0)
        record = self.record()
        calls = record.calls if record else 0
        self._expect(calls >= counted, f"{counted} calls, and the record says {calls}")
        found = record and record.verdict and (record.reply, record.verdict)
        if self._answer is None and found:
            self._answer, self._answered_at = found, next(self._moments)
        self._expect(found == self._answer, "a stored answer was erased or replaced")
        if record and record.intent and record.intent.at not in self._intents:
            self._intents.add(record.intent.at)
            if isinstance(run := CURRENT.get(), Run):
                run.intended_at = next(self._moments)
                run.reach("intended")

    def look_at_the_end(self) -> None:
        """Compare the counts of a request at which no run is at work."""
        self.look()
        if not self.was_disturbed:
            record = self.record()
            counted = self.emulator.stats()["calls"].get(ACTION, 0)
            self._expect((record.calls if record else 0) == counted, "a call too many was counted")

    def leaves(self, run: Run) -> Call:
        """Judge a call whose body is given to the network at this moment.

        From here to its answer nothing can keep it back. So if its run loses its lock now, another
        run may call as well, and its answer may come after the other one's: that is all that is
        allowed.
        """
        self._expect(self._holder is run, "a call left without its lock")
        unknown = [call for call in self.calls if not call.ended]
        if run.plan.policy == "stop":
            self._expect(not unknown, "a call followed an unknown outcome")
        for call in unknown:
            over = call.came_home or call.run.was_robbed or call.run.task.done()
            self._expect(over, "two runs called at a time")
        if self._answer is not None:
            answered = self._answer[0].tencent_request_id
            (first,) = [call.run for call in self.calls if call.answer == answered]
            # The answer of a run that lost its lock with its call out came after this intent.
            in_flight = first.was_robbed and self._answered_at > run.intended_at
            self._expect(in_flight, "called again with the answer stored")
        run.reach("sent")
        self.calls.append(call := Call(run))
        return call

    def arrives(self, call: Call, status: int, body: bytes) -> None:
        """Note a reply that was given to a run whole."""
        try:
            reply = read_reply(status, body, "")
            read_verdict(self._settings.target_actions()[ACTION], reply)
        except NoAnswer:
            return
        except FaceIdError:
            call.ended = True
            return
        call.ended, call.answer = True, reply.tencent_request_id
        call.run.reach("answered")

    def _expect(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    # Locks and storage.

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let runs do their steps without Prefect, and watch their locks and their storage."""
        for step in (request_upload_url, upload_resource, check_expiry, call_target_action):
            monkeypatch.setattr(delivery_run, step.fn.__name__, _without_prefect(step))
        monkeypatch.setattr(answers, "FIRST_DELAY", 0.001)
        monkeypatch.setattr(locks, "POLL_SECONDS", 0.001)
        self._watch_locks(monkeypatch)
        for name in ("read", "replace", "write", "remove"):
            self._watch_storage(monkeypatch, name)

    def _watch_locks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        try_lock, release = locks.try_file_lock, locks.release_file_lock

        def watched_try(path: Path) -> int | None:
            handle = try_lock(path)
            if handle is not None:
                self._expect(self._holder is None, "two runs hold the lock")
                self._holder, self._lock = cast("Run", CURRENT.get()), path
            elif self._holder:
                self._holder.thaw()  # both cannot wait for each other
            return handle

        def watched_release(path: Path, handle: int) -> None:
            release(path, handle)
            if self._holder is CURRENT.get():
                self._holder = None

        monkeypatch.setattr(locks, "try_file_lock", watched_try)
        monkeypatch.setattr(locks, "release_file_lock", watched_release)

    def _watch_storage(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        operate: Callable[..., Any] = getattr(LocalDocuments, name)

        def watched(documents: LocalDocuments, *args: Any, **more: Any) -> Any:
            if CURRENT.get() is None or not str(args[0]).startswith("records"):
                return operate(documents, *args, **more)
            with self._failing(before=True, writes=name != "read"):
                done = operate(documents, *args, **more)
            if name != "read":
                self.look()
                with self._failing(before=False, writes=True):
                    pass
            return done

        monkeypatch.setattr(LocalDocuments, name, watched)

    @contextmanager
    def _failing(self, *, before: bool, writes: bool) -> Any:
        """Fail if the storage is away; if it tells late, a write has been done when it fails."""
        told_late = self._told_late and writes
        if self._away and before != told_late:
            self._away -= 1
            raise OSError(errno.EIO, "the storage is away")
        yield


class _Network(httpx.AsyncHTTPTransport):
    """The network of a run, whose calls of the target action are watched."""

    def __init__(self, life: PaidCalls, run: Run) -> None:
        super().__init__(verify=False)  # loading the certificates would take long
        self._life, self._run = life, run

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("X-TC-Action") != ACTION:
            return await super().handle_async_request(request)
        request.stream = body = _Leaving(self._life, self._run, request.stream)
        try:
            response = await super().handle_async_request(request)
            content = await response.aread()
        except httpx.HTTPError:
            if body.call:
                body.call.came_home = True
            raise
        assert body.call
        body.call.came_home = True
        self._life.arrives(body.call, response.status_code, content)
        return response


class _Leaving(httpx.AsyncByteStream):
    def __init__(self, life: PaidCalls, run: Run, chunks: Any) -> None:
        self._life, self._run, self._chunks = life, run, chunks
        self.call: Call | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            # Nothing is awaited between the product's last look at its lock and this one.
            self.call = self.call or self._life.leaves(self._run)
            yield chunk


def _without_prefect(step: Task[..., Any]) -> Callable[..., Any]:
    """Return a step's own function, tried again where Prefect would, and at once."""

    async def run(*args: Any) -> Any:
        attempts = itertools.count(1)
        while True:
            try:
                done = await step.fn(*args)
            except FaceIdError as error:
                if next(attempts) == ATTEMPTS or not is_passing(error):
                    raise
            else:
                return cast("Any", done).data if isinstance(done, State) else done

    return run
