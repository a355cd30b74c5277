"""The delivery of a batch's requests, and counts of the results.

Each request is delivered like a single request (``flows.delivery.run``). This module limits how
many requests are delivered at the same time, decides when to stop, and records the results.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple

import anyio.to_thread
from prefect.runtime import flow_run

from faceid.client import FaceIdClient
from faceid.errors import AccountError, FaceIdError
from faceid.manifests.snapshot import ManifestSnapshot
from faceid.models import DeliveryResult, Request
from faceid.validation import RequestValidator, ValidatedRequest
from flows.batch.meter import Meter
from flows.batch.places import Place, Places
from flows.batch.results import BatchResults
from flows.delivery.follow_ups import DeliveryDeferred, after_turn
from flows.delivery.outcome import DeliveryOutcome, emit_delivery_event, result_of, verdict_word
from flows.delivery.run import DeliveryOptions, after_cut_off, deliver_request
from flows.delivery.shutdown import GracefulShutdown
from tasks.settings import DeliverySettings
from tasks.state.claims import CurrentRun
from tasks.state.limits import LimitReached
from tasks.state.record_store import RecordStore, request_digest

COUNTED_FROM = 20
"""Number of requests that must have ended before the share of failures may stop the batch."""

EXAMPLES = 3
"""Number of request IDs that are kept as examples of a failure."""

_READ_AT_A_TIME = 50
"""Number of requests that are read from the snapshot at a time."""


class Failures(NamedTuple):
    """The requests that failed in the same way."""

    requests: int
    """Number of requests that failed in this way."""
    examples: list[str]
    """IDs of the first ``EXAMPLES`` requests that failed in this way."""


class BatchStats:
    """Counts of the results of a batch so far."""

    def __init__(self, total: int) -> None:
        self.total = total
        """Number of requests in the batch."""
        self.status: Counter[str] = Counter()
        """Requests by status: ``verdict``, ``failed`` or ``waiting``."""
        self.verdicts: Counter[str] = Counter()
        """Verdicts by word: ``passed``, ``refused`` or ``none``."""
        self.failures: dict[tuple[str, str], Failures] = {}
        """Failed requests by the kind and the code of their error."""

    @property
    def done(self) -> int:
        """Number of requests that have ended."""
        return self.status.total()

    @property
    def failed_percent(self) -> float:
        """Percentage of the requests that have failed, among those that have ended."""
        return 100 * self.status["failed"] / self.done if self.done else 0.0

    def enter(self, result: DeliveryResult) -> None:
        """Count the result of a request."""
        self.status[result.status] += 1
        if result.status == "verdict":
            self.verdicts[verdict_word(result)] += 1
        if result.error is not None:
            kind = (result.error.kind, result.error.code)
            before = self.failures.get(kind, Failures(0, []))
            examples = [*before.examples, result.request_id][:EXAMPLES]
            self.failures[kind] = Failures(before.requests + 1, examples)


class Batch:
    """A batch that is being delivered.

    At most ``concurrency`` requests are delivered at the same time, apart from those with slow
    sources (``flows.batch.places``). The batch stops if more than ``max_failed_percent`` of its
    requests have failed, or after ``max_unknown`` calls without an answer. Requests of an action
    whose limit for the day is reached wait. If the current run continues a chain, ``chain_began``
    is when the first run of the chain began; requests that have failed since then are not tried
    again.
    """

    def __init__(
        self,
        snapshot: ManifestSnapshot,
        settings: DeliverySettings,
        client: FaceIdClient,
        store: RecordStore,
        options: DeliveryOptions,
        results: BatchResults,
        meter: Meter,
        *,
        concurrency: int,
        max_failed_percent: float,
        max_unknown: int,
        chain_began: datetime | None = None,
    ) -> None:
        self.snapshot = snapshot
        """The requests of the batch."""
        self.settings = settings
        """The settings of the run."""
        self.stats = BatchStats(snapshot.count)
        """Counts of the results so far."""
        self.results = results
        """The result lines."""
        self.meter = meter
        """Counts of the calls over time."""
        self.max_failed_percent = max_failed_percent
        """Percentage of failed requests above which no more begin."""
        self.max_unknown = max_unknown
        """Number of unanswered calls from which no more requests begin."""
        self.shutdown = GracefulShutdown(settings.drain_seconds)
        """Handles the signals that stop the batch."""
        self.stopped: FaceIdError | None = None
        """The error because of which no more requests begin, if there is one."""
        self.failed_too_often = False
        """Whether more than ``max_failed_percent`` of the requests have failed."""
        self.unknown = 0
        """Number of calls in this run that were sent and not answered."""
        self.limits: dict[str, LimitReached] = {}
        """The limits that were reached, by action."""
        self.waits_for_limit = 0
        """Number of requests that wait because of a limit."""
        self.tell: Callable[[DeliveryResult], None] | None = None
        """Called with each result, if set."""
        self._client = client
        self._store = store
        self._options = options._replace(on_no_answer=self._count_unknown)
        self._chain_began = chain_began
        self._places = Places(concurrency, settings.source_seconds)
        self._turn = asyncio.Lock()
        """Held by the shard that is beginning its requests."""
        self._has_turn: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def goes_on(self) -> bool:
        """Whether more requests may begin."""
        told_to_end = self.shutdown.drain.told_to_end
        return self.stopped is None and not self.failed_too_often and not told_to_end

    @property
    def unknown_too_often(self) -> bool:
        """Whether ``max_unknown`` calls or more were not answered."""
        return self.unknown >= self.max_unknown

    @property
    def goes_on_at(self) -> datetime | None:
        """When to continue (UTC), if all requests that wait do so because of a limit."""
        if self.waits_for_limit < self.stats.status["waiting"]:
            return None
        return max((after_turn(limit) for limit in self.limits.values()), default=None)

    async def has_turn(self, first: int, shard: "asyncio.Task[Any]") -> None:
        """Wait until a shard begins its requests, or has ended.

        ``first`` is the position of the shard's first request, counted from 0.
        """
        turn = asyncio.create_task(self._has_turn[first].wait())
        await asyncio.wait({turn, shard}, return_when=asyncio.FIRST_COMPLETED)
        turn.cancel()

    async def deliver_slice(self, first: int, count: int) -> int:
        """Wait for a shard's turn, deliver its requests, and wait until they have ended.

        ``first`` is the position of the first request, counted from 0, and ``count`` their number.
        Returns how many of the requests were begun.
        """
        # Each slice has a new validator, because a validator caches the targets of symbolic links.
        validator = RequestValidator.load(self.settings, from_manifest=True)
        async with asyncio.TaskGroup() as group, self._turn:
            self._has_turn[first].set()
            return await self._begin(first, count, validator, group)

    async def _begin(
        self, first: int, count: int, validator: RequestValidator, group: asyncio.TaskGroup
    ) -> int:
        """Begin requests in order, each as soon as there is a place for it.

        Returns how many requests were begun.
        """
        for start in range(first, first + count, _READ_AT_A_TIME):
            size = min(_READ_AT_A_TIME, first + count - start)
            requests = await anyio.to_thread.run_sync(self._read, start, size)
            for number, request in zip(itertools.count(start), requests, strict=False):
                place = await self._places.take()
                if not self.goes_on:
                    place.leave()
                    return number - first
                task = group.create_task(self._deliver(number, request, validator, place))
                self.shutdown.drain.add(task, request.request_id)
        return count

    def _read(self, start: int, count: int) -> list[Request]:
        return list(self.snapshot.entries(start, count))

    async def _deliver(
        self, number: int, request: Request, validator: RequestValidator, place: Place
    ) -> None:
        started_at = datetime.now(UTC)
        try:
            ending = await self._to_its_end(request, validator, place)
        except asyncio.CancelledError:
            if not self.shutdown.drain.told_to_end:
                raise
            ending = await after_cut_off(self._store, request.request_id)
        finally:
            place.leave()
        result = result_of(
            ending,
            request_id=request.request_id,
            target_action=request.target_action,
            service=self.settings.service,
            started_at=started_at,
        )
        try:
            self.results.write(number, result)
        except FaceIdError as error:
            self.stopped = self.stopped or error
        self.stats.enter(result)
        if ending.deferred and isinstance(ending.deferred.reason, LimitReached):
            self.limits[request.target_action] = ending.deferred.reason
            self.waits_for_limit += 1
        if not ending.was_skipped:
            emit_delivery_event(result, ending, in_batch=True)
        if self.tell:
            self.tell(result)
        if isinstance(ending.failure, AccountError):
            self.stopped = self.stopped or ending.failure
        too_often = self.stats.failed_percent > self.max_failed_percent
        self.failed_too_often |= too_often and self.stats.done >= COUNTED_FROM

    async def _to_its_end(
        self, request: Request, validator: RequestValidator, place: Place
    ) -> DeliveryOutcome:
        try:
            validated = validator.check(request)
            if self._chain_began is not None and (failed := await self._failed_before(validated)):
                return failed
            if waiting := await self._waits_for_next_day(request):
                return waiting
        except FaceIdError as error:
            # The manifest was checked, but a folder may have become a link since then.
            return DeliveryOutcome(failure=error)
        run = CurrentRun(str(flow_run.id))
        return await deliver_request(
            validated,
            self._client,
            self.settings,
            self._store,
            run,
            self._options,
            place,
            self.shutdown.drain,
        )

    def _count_unknown(self) -> None:
        self.unknown += 1
        if self.unknown_too_often:
            self.shutdown.begin()

    async def _waits_for_next_day(self, request: Request) -> DeliveryOutcome | None:
        """Return the outcome of a request that need not begin, because its limit is reached.

        Returns ``None`` if it has to begin nevertheless: an earlier run may have brought it to its
        end or has left something to count.
        """
        reached = self.limits.get(request.target_action)
        if reached is None or reached.until <= datetime.now(UTC):
            return None
        record = await self._store.load(request.request_id)
        if record and (record.verdict or record.intent or record.backoff):
            return None
        deferred = DeliveryDeferred(reached, None)
        return DeliveryOutcome(record, deferred=deferred, was_skipped=True)

    async def _failed_before(self, validated: ValidatedRequest) -> DeliveryOutcome | None:
        """Return the outcome of a request that failed earlier in the chain; otherwise ``None``."""
        assert self._chain_began is not None
        record = await self._store.load(validated.request.request_id)
        if (
            record is None
            or record.error is None
            or record.updated_at < self._chain_began
            or record.request_digest != request_digest(validated)
        ):
            return None
        return DeliveryOutcome(record, failed_before=True)


AT_WORK: ContextVar[Batch] = ContextVar("AT_WORK")
"""The batch that this process delivers. It cannot be a parameter of its shards, which are flows."""
