"""A request's life, told by hypothesis: crashes at any step, faults, a moving clock, changed input.

Each run is the real flow, recorded by a real Prefect server, against the real emulator. A crash is
an exception that nothing catches, raised at the n-th read or write of network or storage, and from
then on at every one: as a killed process, the run does nothing more.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from faceid.client import FaceIdClient
from faceid.emulator import Emulator
from faceid.models import DeliveryFailed, DeliveryResult, Verdict
from flows.deliver import deliver
from tasks.call_target_action import call_target_action
from tasks.request_upload_url import request_upload_url
from tasks.settings import DeliverySettings
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import Storage, open_storage
from tasks.upload_resource import upload_resource
from tests.sample_request import REQUEST

ACTION = "VideoLivenessCompare"
# The suite lives the same lives each time; a number of lives asks for others, as many.
LIVES = os.environ.get("FACEID_TEST_LIVES", "")
STEPS = 8

FAULTS = [
    ("CreateUploadUrl", "api:RequestLimitExceeded"),
    ("CreateUploadUrl", "reset"),
    ("CreateUploadUrl", "api:InvalidParameter"),
    ("PutObject", "http:503"),
    ("PutObject", "commit-then-reset"),
    ("PutObject", "api:SignatureDoesNotMatch"),
    (ACTION, "api:RequestLimitExceeded"),
    (ACTION, "api:InternalError"),
    (ACTION, "api:FailedOperation.VideoDecodeFailed"),
    (ACTION, "api:FailedOperation.CompareLowSimilarity"),
    (ACTION, "result:FailedOperation.LivessSystemError"),
    (ACTION, "api:FailedOperation.DownLoadError"),
    (ACTION, "reset"),
    (ACTION, "commit-then-reset"),
    (ACTION, "http:502"),
]


# Once, so that a retry mends it; or more often than a step is retried.
_faults = st.tuples(st.sampled_from(FAULTS), st.sampled_from([1, 9])).map(
    lambda drawn: (*drawn[0], drawn[1])
)


class Crash(BaseException):
    """The process is gone."""


class Interruption:
    """Something that happens at the n-th point of a run: before or after each read or write."""

    def __init__(
        self, emulator: Emulator, intents: set[str], at: int, what: int | Literal["crash"]
    ) -> None:
        self.points = itertools.count()
        self.emulator, self.intents, self.at, self.what = emulator, intents, at, what
        self.crashed = False
        self.jumped = False
        self.intent_unsent = False
        """The intent to call is on disk, and the call has not begun."""

    def point(self) -> None:
        if next(self.points) == self.at:
            if isinstance(self.what, int):
                self.jumped = True
                self.emulator.advance(self.what)
            else:
                self.crashed = True
        if self.crashed:
            raise Crash

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write = Storage.write

        def interrupted_client(*args: Any, **more: Any) -> FaceIdClient:
            return FaceIdClient(*args, transport=InterruptedTransport(self), **more)

        def interrupted_write(
            storage: Storage, name: str, content: dict[str, Any], *, durable: bool = True
        ) -> bytes:
            self.point()
            sealed = write(storage, name, content, durable=durable)
            intent = content.get("intent")
            if intent and intent["at"] not in self.intents:
                self.intents.add(intent["at"])
                self.intent_unsent = True
            self.point()
            return sealed

        monkeypatch.setattr("tasks.credentials.FaceIdClient", interrupted_client)
        monkeypatch.setattr(Storage, "write", interrupted_write)


class InterruptedTransport(httpx.AsyncHTTPTransport):
    """The network, with a point before and after each exchange."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__()
        self.interruption = interruption

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.interruption.point()
        if request.headers.get("X-TC-Action") == ACTION:
            self.interruption.intent_unsent = False
        response = await super().handle_async_request(request)
        await response.aread()
        self.interruption.point()
        return response


class Life(RuleBasedStateMachine):
    """One request ID, and everything that can happen to it."""

    emulator: Emulator
    samples: Path
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="faceid-life-"))
        self.environment = self.stack.enter_context(pytest.MonkeyPatch.context())
        self.environment.setenv("FACEID_STORAGE", str(self.folder))
        self.emulator.reset()
        self.verdict: Verdict | None = None
        """The first one seen: every later one must be the same."""
        self.photo = ""
        """What it is about: with another one, its request ID is refused."""
        self.calls_at_verdict = 0
        self.intents: set[str] = set()
        """When the intents were formed that were ever stored."""
        self.unsent = 0
        """Crashes after the intent was stored and before the call began: counted, never sent."""

    def teardown(self) -> None:
        try:
            # Whatever happened: with the service well again, the request comes to a clear end.
            self.emulator.clear_faults()
            result = self._run("alder.jpg", "call_again")
            assert result is not None
            if result.error is not None:
                assert result.error.kind == "conflict"
                assert self._run("birch.jpg", "call_again") is not None
            self.what_is_stored_is_true()
        finally:
            self.stack.close()
            shutil.rmtree(self.folder)

    @initialize(faults=st.lists(_faults, min_size=1, max_size=4))
    def a_bad_day(self, faults: list[tuple[str, str, int]]) -> None:
        for op, do, times in faults:
            self.emulator.add_fault(op, do, times=times)

    @rule(fault=_faults)
    def the_service_is_ill(self, fault: tuple[str, str, int]) -> None:
        op, do, times = fault
        self.emulator.add_fault(op, do, times=times)

    @rule(seconds=st.sampled_from([600, 7300]))
    def time_passes(self, seconds: int) -> None:
        self.emulator.advance(seconds)

    @rule(
        photo=st.sampled_from(["alder.jpg", "birch.jpg"]),
        policy=st.sampled_from(["call_again", "stop"]),
    )
    def a_trigger(self, photo: str, policy: str) -> None:
        self._run(photo, policy)

    @rule(
        at=st.integers(0, 24),
        what=st.sampled_from(["crash", "crash", 3700, 7300]),
        policy=st.sampled_from(["call_again", "stop"]),
    )
    def an_interrupted_trigger(self, at: int, what: int | Literal["crash"], policy: str) -> None:
        self._run("alder.jpg", policy, Interruption(self.emulator, self.intents, at, what))

    def _run(
        self, photo: str, policy: str, interruption: Interruption | None = None
    ) -> DeliveryResult | None:
        """The result object, or ``None`` after a crash."""
        late_before = self._refused_as_late()
        interruption = interruption or Interruption(self.emulator, self.intents, -1, "crash")
        with pytest.MonkeyPatch.context() as patch:
            interruption.patch(patch)
            try:
                result = self.runner.run(self._deliver(photo, policy))
            except Crash:
                self.unsent += interruption.intent_unsent
                return None
        if not interruption.jumped:
            assert self._refused_as_late() == late_before, "a URL was used after its expiry"
        self._compare(result, photo)
        return result

    async def _deliver(self, photo: str, policy: str) -> DeliveryResult:
        state: Any = await cast("Any", deliver)(
            **REQUEST | {"resources": REQUEST["resources"] | {"ImageUrl": photo}},
            on_unknown_outcome=policy,
            return_state=True,
        )
        outcome = await state.aresult(raise_on_failure=False)
        if isinstance(outcome, Crash):
            raise outcome
        result = outcome.result if isinstance(outcome, DeliveryFailed) else outcome
        assert isinstance(result, DeliveryResult), state
        return result

    def _compare(self, result: DeliveryResult, photo: str) -> None:
        """A run that ended has a verdict, or waits, or says clearly why not."""
        assert (result.status == "verdict") == (result.verdict is not None)
        assert (result.status == "failed") == (result.error is not None)
        if self.verdict is None and result.verdict is not None:
            self._seen(result.verdict, photo)
        elif self.verdict is not None and photo == self.photo:
            assert result.verdict == self.verdict, "a verdict was lost"
        elif self.verdict is not None:
            assert result.error is not None, "a verdict for what it was not given for"
            assert result.error.kind == "conflict"

    def _seen(self, verdict: Verdict, photo: str) -> None:
        self.verdict, self.photo, self.calls_at_verdict = verdict, photo, self._calls()

    def _record(self) -> Record | None:
        configured = DeliverySettings.load()
        store = RecordStore(open_storage(configured), configured.service, configured.account)
        return self.runner.run(store.load("r-1"))

    def _calls(self) -> int:
        return self.emulator.stats()["calls"].get(ACTION, 0)

    def _refused_as_late(self) -> int:
        return self.emulator.stats()["errors"].get("AccessDenied", 0)

    @invariant()
    def what_is_stored_is_true(self) -> None:
        record = self._record()
        if record is None:
            assert self.verdict is None
            assert self._calls() == 0
            return
        assert record.calls - self.unsent == self._calls()
        if record.verdict is not None and self.verdict is None:
            # A crash came between storing it and telling it.
            self._seen(record.verdict, "alder.jpg")
        assert record.verdict == self.verdict
        if self.verdict is not None:
            assert self._calls() == self.calls_at_verdict, "called again with the answer stored"
            assert record.intent is None
        assert 1 <= record.window <= 12


@pytest.mark.timeout(timedelta(minutes=20).total_seconds())
def test_every_life_is_lived_by_the_rules(
    emulator: Emulator, samples: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (request_upload_url, upload_resource, call_target_action):
        monkeypatch.setattr(step, "retry_delay_seconds", [0] * (step.retries or 0))
    Life.emulator, Life.samples, Life.runner = emulator, samples, runner
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=int(LIVES or 10),
            derandomize=not LIVES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    emulator.clear_faults()
