"""The runs of one manifest, one after the other: what waits, or was dropped, is left to the next.

A batch that cannot bring all its requests to their end leaves the rest to one later run of the same
manifest, which finds all other verdicts there; and so does the sweeper for a batch that died. What
has failed in the chain is not tried again by it. Runs without a deployment have no follow-up: the
same command continues.
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
from faceid.settings import FaceIdSettings
from flows.delivery.follow_ups import create_from, delay_after, origin_of, read_run
from flows.delivery.outcome import add_tags
from flows.server.runs import tag_of

MAX_DEATHS = 8
"""How many runs of a chain may die one after the other."""


DAY = "faceid.day"
"""The label of a run that says what ``{date}`` is to it."""


class Begun(NamedTuple):
    """What a batch begins with."""

    manifest: str
    """Its location, the date filled in."""
    chain_began: datetime | None
    """When the first run of its chain did; ``None`` where this is the first."""


async def begin(manifest: str, settings: FaceIdSettings) -> Begun:
    """Tags the current run, and says what it is about.

    Raises ``InvalidInput`` where it goes on with a batch of another service.
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
    """The current run, a shard, is found by the tags of its batch, too."""
    async with get_client() as client:
        batch = await client.read_flow_run(UUID(flow_run.parent_flow_run_id))
    await add_tags(*(tag for tag in batch.tags if tag.startswith(("batch:", "service:"))))


def run_name() -> str:
    """Says which manifest; without its folder."""
    return f"batch {name_of(str(flow_run.parameters['manifest']).partition('?')[0])}"


async def _fill_in_date(client: PrefectClient, manifest: str, run: FlowRun) -> str:
    """``{date}`` becomes the day that the run was scheduled for, by its schedule's own clock."""
    if "{date}" not in manifest:
        return manifest
    day = run.labels.get(DAY)
    if day is None:
        scheduled = run.expected_start_time or datetime.now(UTC)
        day = f"{scheduled.astimezone(await _zone_of(client, run)):%Y-%m-%d}"
        # The schedule may be changed or gone when the run is looked at next.
        await client.update_flow_run_labels(run.id, {DAY: day})
    return manifest.replace("{date}", str(day))


async def _zone_of(client: PrefectClient, run: FlowRun) -> ZoneInfo:
    """The time zone of the schedule that made the run; UTC where none did."""
    schedule = run.created_by and run.created_by.id
    if run.deployment_id is None or schedule is None:
        return ZoneInfo("UTC")
    deployment = await client.read_deployment(run.deployment_id)
    zones = {entry.id: getattr(entry.schedule, "timezone", None) for entry in deployment.schedules}
    return ZoneInfo(zones.get(schedule) or "UTC")


async def is_being_cancelled() -> bool:
    """Whether a person cancelled the current run."""
    async with get_client() as client:
        state = (await client.read_flow_run(flow_run.id)).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


async def schedule_remainder(settings: FaceIdSettings) -> str | None:
    """Leaves what waits to a later run, and gives its ID; that comes later each time.

    A request that has waited for too long fails, so this has an end.
    """
    async with get_client() as client:
        run = await client.read_flow_run(flow_run.id)
        attempt = 1 + _number(tag_of(run, "attempt"))
        delay = delay_after(attempt - 1, settings)
        follow_up = await _schedule(client, run, delay, attempt, deaths=0)
    if follow_up is None:
        return None
    await add_tags(f"next:{follow_up.id}")
    return str(follow_up.id)


async def replace_dead(
    client: PrefectClient, run: FlowRun, settings: FaceIdSettings
) -> FlowRun | None:
    """Another run for one that died; ``None`` where nothing is to be done, or it died too often."""
    deaths = 1 + _number(tag_of(run, "deaths"))
    if deaths > MAX_DEATHS:
        return None
    delay = 0 if deaths == 1 else delay_after(deaths - 1, settings)
    return await _schedule(client, run, delay, _number(tag_of(run, "attempt")), deaths)


async def _schedule(
    client: PrefectClient, run: FlowRun, delay: float, attempt: int, deaths: int
) -> FlowRun | None:
    """The next run of the chain, due after so many seconds, or the one that is there already."""
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
    """0 for what is none: a person may have tagged the run, too."""
    return int(text) if text and text.isdecimal() else 0


async def last_of_chain(client: PrefectClient, run: FlowRun) -> FlowRun:
    """The last run of the chain that has begun: its books cover all of it."""
    seen: set[UUID] = set()
    while run.id not in seen and (following := tag_of(run, "next")):
        seen.add(run.id)
        later = await read_run(client, str(UUID(following)))
        if later is None or later.start_time is None:
            return run
        run = later
    return run
