"""Follow-ups: later runs that continue requests which cannot be completed now.

There are three reasons for a follow-up. If the window of a request is over, the follow-up is due
immediately. If the service is unavailable for longer than a run may wait, the follow-up is due
later, with growing delays, until the request is given up after ``FACEID_GIVE_UP_AFTER`` seconds. If
the account has made as many calls as ``FACEID_MAX_CALLS_PER_DAY`` allows, the follow-up is due on
the next day, and nothing is given up because of that. A follow-up is a run of the same deployment,
scheduled by Prefect. Until it is due, it does not occupy a worker's slot, and the worker and the
server may be restarted.

A follow-up is stored in the record before it is scheduled. If the process dies in between, the
sweep schedules the follow-up with the same idempotency key (``flows.sweep``).
"""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Scheduled

from faceid.errors import FaceIdError, InvalidInput, ServiceUnavailable
from faceid.models import Service
from flows.server.events import NOBODY_LISTENS, emit_limit_event
from flows.server.runs import server_unavailable, tag_of
from tasks.delivery import Delivery
from tasks.retries import is_passing
from tasks.settings import DeliverySettings
from tasks.state.claims import CurrentRun
from tasks.state.limits import LimitReached
from tasks.state.record_store import RecordStore
from tasks.state.records import Backoff, FollowUp, Origin, Record

SHORTEST_DELAY = 5.0
"""Shortest delay before the first follow-up of a request, in seconds, without jitter."""
LONGEST_DELAY = 3600.0
"""Longest delay before a follow-up, in seconds, without jitter."""

TURN_SECONDS = 60.0
"""Seconds from the beginning of a day over which the requests that waited for it are spread."""


class DeliveryDeferred(Exception):
    """Raised if a run ends without a verdict, but the request is left to a later run.

    ``reason`` is the error because of which the request cannot be completed now. ``follow_up`` is
    the run that continues the request; ``None`` if the current run has no deployment. In that case
    somebody has to deliver the request again.
    """

    def __init__(self, reason: FaceIdError, follow_up: FollowUp | None) -> None:
        super().__init__(reason.code)
        self.reason = reason
        self.follow_up = follow_up


async def current_run(flow_run_id: str, service: Service) -> CurrentRun:
    """Return the current flow run and its origin, from which a follow-up can be scheduled.

    ``service`` is that of the settings. Raises ``InvalidInput`` if the run was scheduled for
    another service, so that a request to an emulator is never continued on the live service by
    accident.
    """
    async with get_client() as client:
        run = await client.read_flow_run(UUID(flow_run_id))
        if (other := tag_of(run, "service")) not in (None, service):
            raise InvalidInput("OtherService", f"the run was scheduled for the {other} service")
        return CurrentRun(flow_run_id, await origin_of(client, run))


async def origin_of(client: PrefectClient, run: FlowRun) -> Origin | None:
    """Return the deployment and parameters of a run.

    Returns ``None`` if the run has no deployment, or if the deployment no longer exists.
    """
    if run.deployment_id is None:
        return None
    try:
        deployment = await client.read_deployment(run.deployment_id)
    except ObjectNotFound:
        return None
    flow = await client.read_flow(run.flow_id)
    return Origin(
        deployment=f"{flow.name}/{deployment.name}",
        parameters=run.parameters,
        job_variables=run.job_variables or None,
        work_queue=run.work_queue_name,
    )


async def defer_to_next_window(delivery: Delivery, reason: FaceIdError) -> DeliveryDeferred:
    """Leave the request and its next window to a follow-up that is due immediately.

    Returns the exception for the current run to raise. ``reason`` is why the window is over.
    """
    delivery.record.defer(to_next_window=True)
    return DeliveryDeferred(reason, await _leave(delivery, datetime.now(UTC)))


async def defer_until_available(delivery: Delivery, reason: FaceIdError) -> DeliveryDeferred | None:
    """Leave the request to a follow-up that is due after a delay.

    Returns the exception for the current run to raise. Returns ``None`` if waiting cannot help with
    ``reason``, or if it is time to give the request up.
    """
    record = delivery.record
    if not is_passing(reason):
        return None
    due = next_attempt_at(record, delivery.settings)
    return due and DeliveryDeferred(reason, await _leave(delivery, due))


async def defer_to_next_day(delivery: Delivery, reason: LimitReached) -> DeliveryDeferred:
    """Leave the request to a follow-up that is due when the day of a reached limit is over.

    Returns the exception for the current run to raise. The first run that reaches the limit on a
    day emits an event, unless nobody would hear of it.
    """
    heard = not NOBODY_LISTENS.get()
    if heard and delivery.limit and await delivery.limit.is_first_to_tell():
        emit_limit_event(delivery.limit, delivery.settings, reason)
    due = after_turn(reason)
    delivery.record.wait_until(due)
    return DeliveryDeferred(reason, await _leave(delivery, due))


def after_turn(reason: LimitReached) -> datetime:
    """Return when to go on after a reached limit (UTC): within ``TURN_SECONDS`` of the next day."""
    seconds = random.uniform(0, TURN_SECONDS)  # noqa: S311 - no secret
    return reason.until + timedelta(seconds=seconds)


def next_attempt_at(
    record: Record, settings: DeliverySettings, *, at_once: bool = False
) -> datetime | None:
    """Count a setback of the request, and return when its next run is due (UTC).

    Returns ``None`` if it is time to give the request up. The delay is ``FACEID_WAIT_IN_RUN``
    seconds after the first setback, and doubles with each further setback, up to an hour. With
    ``at_once``, there is no delay after the first setback.
    """
    now = datetime.now(UTC)
    backoff = record.backoff or Backoff(since=now)
    last = backoff.since + timedelta(seconds=settings.give_up_after)
    if now >= last:
        return None
    first = at_once and backoff.count == 0
    delay = 0 if first else delay_after(backoff.count, settings)
    record.back_off()
    return min(now + timedelta(seconds=delay), last)


def delay_after(backoff: int, settings: DeliverySettings) -> float:
    """Return the delay until the next run in seconds, with jitter.

    ``backoff`` is the number of previous setbacks.
    """
    delay = max(settings.wait_in_run, SHORTEST_DELAY) * 2.0 ** min(backoff, 20)
    # Because of the jitter, requests that failed together are not retried together.
    return min(delay, LONGEST_DELAY) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


async def _leave(delivery: Delivery, due: datetime) -> FollowUp | None:
    """End the run, and leave the request to a follow-up, which is returned if there is one."""
    record = delivery.record
    if record.origin is None and record.follow_up is None:
        record.defer()
        await delivery.save()
        return None
    try:
        with server_unavailable():
            async with get_client() as client:
                # A follow-up that an earlier run scheduled may not have started yet.
                if await is_to_come(client, record.follow_up):
                    record.defer()
                    await delivery.save()
                else:
                    await schedule(client, delivery.store, record, due)
    except ServiceUnavailable:
        # The next sweep schedules what is planned, unless it finds what was scheduled earlier.
        if record.outcome is None:
            if record.follow_up:
                record.defer()
            else:
                record.plan_follow_up(due)
            await delivery.save()
    return record.follow_up


async def is_to_come(client: PrefectClient, follow_up: FollowUp | None) -> bool:
    """Return whether a follow-up is scheduled in Prefect and has not started yet."""
    if follow_up is None or follow_up.flow_run_id is None:
        return False
    run = await read_run(client, follow_up.flow_run_id)
    return run is not None and run.state is not None and run.state.is_scheduled()


async def read_run(client: PrefectClient, flow_run_id: str) -> FlowRun | None:
    """Return the flow run with this ID; ``None`` if the Prefect server does not have it."""
    try:
        return await client.read_flow_run(UUID(flow_run_id))
    except ObjectNotFound:
        return None


async def schedule(
    client: PrefectClient,
    store: RecordStore,
    record: Record,
    due: datetime,
    previous: str | None = None,
) -> None:
    """Leave the request to a follow-up that is due at ``due``, if the last run has a deployment.

    ``previous`` is the ID of the run that the follow-up replaces; by default, the last run that
    claimed the request. The caller must hold the request's lock. Raises ``StorageError`` if the
    record cannot be saved.
    """
    record.plan_follow_up(due, previous)
    await store.save(record)
    if record.follow_up:
        await submit(client, store, record)


async def submit(client: PrefectClient, store: RecordStore, record: Record) -> None:
    """Schedule the record's follow-up in Prefect, and save the ID of its flow run.

    If the deployment no longer exists, nothing is changed, and the next sweep tries again. If
    somebody has cancelled the follow-up, it is not scheduled again, and the request is cancelled.
    The caller must hold the request's lock. Raises ``StorageError`` if the record cannot be saved.
    """
    assert record.origin is not None
    while True:
        assert record.follow_up is not None
        tags = [
            f"previous:{record.follow_up.previous}",
            f"window:{record.window}",
            f"attempt:{record.attempt}",
        ]
        key = _idempotency_key(store, record)
        run = await create_run(
            client, record.origin, key, record.follow_up.due, store.service, tags
        )
        if run is None:
            return
        # If a run with this key has ended, Prefect returns that run, and another one is planned.
        if run.state is None or not run.state.is_final():
            break
        if run.state.is_cancelled():
            record.cancel()
            await store.save(record)
            return
        record.plan_follow_up(record.follow_up.due, str(run.id))
        await store.save(record)
    record.follow_up_scheduled(str(run.id))
    await store.save(record)


def _idempotency_key(store: RecordStore, record: Record) -> str:
    parts = (store.service, store.account, record.request_id, record.generation)
    text = "\n".join((*parts, str(record.window), str(record.attempt)))
    return hashlib.sha256(text.encode()).hexdigest()


async def create_run(
    client: PrefectClient,
    origin: Origin,
    key: str,
    due: datetime,
    service: Service,
    tags: list[str],
) -> FlowRun | None:
    """Schedule and return a run for the request of an origin, due at ``due``.

    If there is a run with the idempotency key already, that run is returned. Returns ``None`` if
    the deployment does not exist or does not accept the parameters.
    """
    request_id = origin.parameters["request_id"]
    tags = [f"request:{request_id}", f"service:{service}", *tags]
    return await create_from(client, origin, key, due, f"deliver {request_id}", tags)


async def create_from(
    client: PrefectClient, origin: Origin, key: str, due: datetime, name: str, tags: list[str]
) -> FlowRun | None:
    """Schedule and return a run of an origin's deployment, due at ``due``.

    If there is a run with the idempotency key already, that run is returned. Returns ``None`` if
    the deployment does not exist or does not accept the parameters.
    """
    try:
        deployment = await client.read_deployment_by_name(origin.deployment)
    except ObjectNotFound:
        return None
    try:
        return await client.create_flow_run_from_deployment(
            deployment.id,
            parameters=origin.parameters,
            state=Scheduled(scheduled_time=due),
            name=name,
            tags=tags,
            idempotency_key=key,
            job_variables=origin.job_variables,
            work_queue_name=origin.work_queue,
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
        return None
