"""Chains of batch runs: each run leaves the requests it did not complete to the next run.

A batch that cannot finish all of its requests schedules one later run of the same manifest, which
finds the verdicts of the other requests in their records. The sweep does the same for a batch that
died. A request that failed in a chain is not tried again in that chain. A run without a deployment
has no later run; running the same command again continues such a batch.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from faceid.errors import InvalidInput
from faceid.manifests.reading import name_of
from flows.delivery.follow_ups import create_from, delay_after, origin_of, read_run
from flows.delivery.outcome import add_tags
from flows.server.runs import tag_of
from tasks.settings import DeliverySettings

MAX_DEATHS = 8
"""Number of runs of a chain that may die in succession."""

DAY = "faceid.day"
"""Label of a run with the date that replaced ``{date}`` in the location of its manifest."""


class Begun(NamedTuple):
    """The manifest and the chain of a batch that begins."""

    manifest: str
    """Location of the manifest, with the date filled in."""
    chain_began: datetime | None
    """When the first run of the chain began; ``None`` if this run is the first."""


async def begin(manifest: str, settings: DeliverySettings) -> Begun:
    """Tag the current run, and return its manifest and the beginning of its chain.

    ``manifest`` is the location that the run was given, in which ``{date}`` is replaced. Raises
    ``InvalidInput`` if the run was scheduled for another service.
    """
    async with get_client() as client:
        run = await client.read_flow_run(flow_run.id)
        if (other := tag_of(run, "service")) not in (None, settings.service):
            raise InvalidInput("OtherService", f"the run was scheduled for the {other} service")
        first = tag_of(run, "chain")
        began = await read_run(client, first) if first else None
        located = await _fill_in_date(client, manifest, run)
        if located != manifest:
            await client.update_flow_run(run.id, name=f"batch {name_of(located)}")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name_of(located).partition(".")[0]).strip("-")
    await add_tags(f"batch:{stem}", f"service:{settings.service}")
    return Begun(located, began and began.start_time)


async def tag_shard() -> None:
    """Tag the current run, which is a shard, with its batch's name and service."""
    async with get_client() as client:
        batch = await client.read_flow_run(UUID(flow_run.parent_flow_run_id))
    await add_tags(*(tag for tag in batch.tags if tag.startswith(("batch:", "service:"))))


def run_name() -> str:
    """Return the name of the current run: ``batch`` and the manifest's name without its folder."""
    return f"batch {name_of(str(flow_run.parameters['manifest']).partition('?')[0])}"


async def _fill_in_date(client: PrefectClient, manifest: str, run: FlowRun) -> str:
    """Return the location with ``{date}`` replaced by the day for which the run was scheduled.

    The day is that in the time zone of the run's schedule.
    """
    if "{date}" not in manifest:
        return manifest
    day = run.labels.get(DAY)
    if day is None:
        scheduled = run.expected_start_time or datetime.now(UTC)
        day = f"{scheduled.astimezone(await _zone_of(client, run)):%Y-%m-%d}"
        # The day is stored in a label because the schedule may be changed or deleted later.
        await client.update_flow_run_labels(run.id, {DAY: day})
    return manifest.replace("{date}", str(day))


async def _zone_of(client: PrefectClient, run: FlowRun) -> ZoneInfo:
    """Return the time zone of the schedule that created the run; UTC without a schedule."""
    schedule = run.created_by and run.created_by.id
    if run.deployment_id is None or schedule is None:
        return ZoneInfo("UTC")
    deployment = await client.read_deployment(run.deployment_id)
    zones = {entry.id: getattr(entry.schedule, "timezone", None) for entry in deployment.schedules}
    return ZoneInfo(zones.get(schedule) or "UTC")


async def schedule_remainder(settings: DeliverySettings, due: datetime | None = None) -> str | None:
    """Schedule a later run for the requests that wait, and return its ID.

    Returns ``None`` if the current run has no deployment. ``due`` is when the limit allows calls
    again, if that is all that the requests wait for. Otherwise, the delay grows with each run of
    the chain. The chain comes to an end, because requests that have waited for
    ``FACEID_GIVE_UP_AFTER`` seconds for something else fail.
    """
    async with get_client() as client:
        run = await client.read_flow_run(flow_run.id)
        attempt = _number(tag_of(run, "attempt"))
        if due is None:
            delay = delay_after(attempt, settings)
            attempt += 1
        else:
            delay = (due - datetime.now(UTC)).total_seconds()
        follow_up = await _schedule(client, run, delay, attempt, deaths=0)
    if follow_up is None:
        return None
    await add_tags(f"next:{follow_up.id}")
    return str(follow_up.id)


async def replace_dead(
    client: PrefectClient, run: FlowRun, settings: DeliverySettings
) -> FlowRun | None:
    """Schedule and return another run in place of a run that died.

    Returns ``None`` if the dead run has no deployment or no manifest, or if more than
    ``MAX_DEATHS`` runs have died in succession.
    """
    deaths = 1 + _number(tag_of(run, "deaths"))
    if deaths > MAX_DEATHS:
        return None
    delay = 0 if deaths == 1 else delay_after(deaths - 1, settings)
    return await _schedule(client, run, delay, _number(tag_of(run, "attempt")), deaths)


async def _schedule(
    client: PrefectClient, run: FlowRun, delay: float, attempt: int, deaths: int
) -> FlowRun | None:
    """Schedule the next run of a chain in ``delay`` seconds, and return it.

    If the next run has been scheduled before, it is only returned. ``attempt`` is the number of
    runs that left requests waiting for more than the next day, and ``deaths`` the number of runs
    that died in succession. Returns ``None`` if ``run`` has no deployment or no manifest.
    """
    origin = await origin_of(client, run)
    if origin is None or "manifest" not in origin.parameters:
        return None
    manifest = await _fill_in_date(client, str(origin.parameters["manifest"]), run)
    parameters = {**origin.parameters, "manifest": manifest}
    origin = origin.model_copy(update={"parameters": parameters})
    tags = [tag for tag in run.tags if tag.startswith(("batch:", "service:"))]
    tags += [f"previous:{run.id}", f"chain:{tag_of(run, 'chain') or run.id}"]
    tags += [f"attempt:{attempt}"] if attempt else []
    tags += [f"deaths:{deaths}"] if deaths else []
    return await create_from(
        client,
        origin,
        key=hashlib.sha256(f"goes on from {run.id}".encode()).hexdigest(),
        due=datetime.now(UTC) + timedelta(seconds=delay),
        name=run.name,
        tags=tags,
    )


def _number(text: str | None) -> int:
    """Return the number in the value of a tag; 0 if it is not a number, as people can add tags."""
    return int(text) if text and text.isdecimal() else 0


async def last_of_chain(client: PrefectClient, run: FlowRun) -> FlowRun:
    """Return the last run of the chain that has begun, whose result lines cover the whole chain.

    ``run`` is any run of the chain.
    """
    seen: set[UUID] = set()
    while run.id not in seen and (following := tag_of(run, "next")):
        seen.add(run.id)
        later = await read_run(client, str(UUID(following)))
        if later is None or later.start_time is None:
            return run
        run = later
    return run
