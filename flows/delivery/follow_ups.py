"""A request that cannot be brought to its end now is left to a later run: its follow-up.

Two reasons: its window ran out (then the next run is due at once), or the service cannot be reached
for longer than a run may wait (then it is due later, with growing delays, and given up after
``FACEID_GIVE_UP_AFTER``). The follow-up is a run of the same deployment, scheduled by Prefect, so
nobody sits in a worker's slot meanwhile, and worker and server may restart in between.

Everything is in the record before Prefect hears of it: whoever finds a follow-up there that Prefect
does not have schedules it, with the same idempotency key (``flows.sweep``).
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

from faceid.errors import FaceIdError, InvalidInput
from faceid.models import Service
from faceid.settings import FaceIdSettings
from flows.server.runs import tag_of
from tasks.delivery import Delivery
from tasks.retries import is_passing
from tasks.state.claims import CurrentRun
from tasks.state.record_store import RecordStore
from tasks.state.records import Backoff, FollowUp, Origin, Record

SHORTEST_DELAY = 5.0
LONGEST_DELAY = 3600.0
"""Seconds between two runs of a request while the service is unavailable."""


class DeliveryDeferred(Exception):
    """This run ends without a verdict and without having failed.

    ``follow_up`` goes on from here; ``None`` where this run has no deployment: then the same
    request is to be delivered again.
    """

    def __init__(self, reason: FaceIdError, follow_up: FollowUp | None) -> None:
        super().__init__(reason.code)
        self.reason = reason
        self.follow_up = follow_up


async def current_run(flow_run_id: str, service: Service) -> CurrentRun:
    """The current flow run, and what another would be started with in its place.

    Raises ``InvalidInput`` where it goes on with a request to another service: what an emulator
    was asked is never asked of the live service unseen.
    """
    async with get_client() as client:
        run = await client.read_flow_run(UUID(flow_run_id))
        if (other := tag_of(run, "service")) not in (None, service):
            raise InvalidInput("OtherService", f"the run was scheduled for the {other} service")
        return CurrentRun(flow_run_id, await origin_of(client, run))


async def origin_of(client: PrefectClient, run: FlowRun) -> Origin | None:
    """``None`` where the run has no deployment, or one that is gone."""
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
    """Leaves the next window to a run that is due at once."""
    delivery.record.defer(to_next_window=True)
    return DeliveryDeferred(reason, await _leave(delivery, datetime.now(UTC)))


async def defer_until_available(delivery: Delivery, reason: FaceIdError) -> DeliveryDeferred | None:
    """Leaves the request to a later run; ``None`` where waiting cannot help, or did not."""
    record = delivery.record
    if not is_passing(reason):
        return None
    due = next_attempt_at(record, delivery.settings)
    return due and DeliveryDeferred(reason, await _leave(delivery, due))


def next_attempt_at(
    record: Record, settings: FaceIdSettings, *, at_once: bool = False
) -> datetime | None:
    """Counts a setback; says when the next run is due, ``None`` when it is time to give up.

    The delays begin with what a run itself waits, and double up to an hour. With ``at_once`` the
    first one in a row costs no time.
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


def delay_after(backoff: int, settings: FaceIdSettings) -> float:
    """Seconds until the next run, after so many setbacks before this one."""
    delay = max(settings.wait_in_run, SHORTEST_DELAY) * 2.0 ** min(backoff, 20)
    # Requests that failed together do not come back together.
    return min(delay, LONGEST_DELAY) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


async def _leave(delivery: Delivery, due: datetime) -> FollowUp | None:
    record = delivery.record
    if record.origin is None and record.follow_up is None:
        record.defer()
        await delivery.save()
        return None
    async with get_client() as client:
        # An earlier run may have left the request to one that is still to come.
        if await is_to_come(client, record.follow_up):
            record.defer()
            await delivery.save()
        else:
            await schedule(client, delivery.store, record, due)
    return record.follow_up


async def is_to_come(client: PrefectClient, follow_up: FollowUp | None) -> bool:
    if follow_up is None or follow_up.flow_run_id is None:
        return False
    run = await read_run(client, follow_up.flow_run_id)
    return run is not None and run.state is not None and run.state.is_scheduled()


async def read_run(client: PrefectClient, flow_run_id: str) -> FlowRun | None:
    """``None`` where the server does not know it: it was deleted, or the database is a new one."""
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
    """Leaves the request to a new run that is due then, where there is a deployment for it.

    ``previous`` is the run in whose place it comes, if not the one that took the request on last.
    To be called with the request's lock held. Raises ``StorageError``.
    """
    record.plan_follow_up(due, previous)
    await store.save(record)
    if record.follow_up:
        await submit(client, store, record)


async def submit(client: PrefectClient, store: RecordStore, record: Record) -> None:
    """Has Prefect schedule the record's follow-up, and saves its run's ID.

    Nothing changes where its deployment is gone: the sweeper tries again. A follow-up that a
    person cancelled is not scheduled again, and the request is cancelled.
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
        # The key of a run that has ended gives that dead run.
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
    """Another run for the request, or the one that has the key already.

    ``None`` where there is no such deployment.
    """
    request_id = origin.parameters["request_id"]
    tags = [f"request:{request_id}", f"service:{service}", *tags]
    return await create_from(client, origin, key, due, f"deliver {request_id}", tags)


async def create_from(
    client: PrefectClient, origin: Origin, key: str, due: datetime, name: str, tags: list[str]
) -> FlowRun | None:
    """A run of the deployment that another run came from; ``None`` where that is gone, or does not
    take such parameters (any more)."""
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
