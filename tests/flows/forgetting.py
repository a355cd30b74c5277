"""Helpers for the tests of forgetting, which erase requests and make them look older."""

from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_client
from prefect.exceptions import ObjectNotFound

from flows.forget import Forgotten, Left, moment, open_forgetting
from tasks.settings import DeliverySettings
from tests.flows.helpers import (
    aged,
    record_of,
    records,
)
from tests.flows.traces import database


async def forgotten(*request_ids: str, keep_verdict: bool = False) -> list[Forgotten | Left]:
    async with open_forgetting(DeliverySettings.load(), keep_verdict=keep_verdict) as forgetting:
        return [one async for one in forgetting.each(records(), request_ids)]


async def forgotten_of_old(*, keep_verdict: bool = False) -> list[Forgotten | Left]:
    """Forget the requests that were last touched more than an hour ago."""
    async with open_forgetting(DeliverySettings.load(), keep_verdict=keep_verdict) as forgetting:
        return [one async for one in forgetting.older(records(), moment("1h"))]


async def age(*request_ids: str) -> None:
    """Make requests look as if they had last been touched two hours ago."""
    for request_id in request_ids:
        store, record = records(), await record_of(request_id)
        record = aged(record, hours=2)
        store.storage.write(store.name(request_id), record.model_dump(mode="json"))


def age_run(flow_run_id: UUID) -> None:
    """Make a run look as if it had ended two hours ago."""
    ended = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with closing(database()) as connection, connection:
        changed = connection.execute(
            "UPDATE flow_run SET end_time = ? WHERE id = ?", (ended, str(flow_run_id))
        )
        assert changed.rowcount == 1


async def is_there(flow_run_id: UUID | str) -> bool:
    async with get_client() as client:
        with suppress(ObjectNotFound):
            await client.read_flow_run(UUID(str(flow_run_id)))
            return True
    return False


def one_run(request_id: str, *, steps: int = 0, kept: bool = False) -> Forgotten:
    """Return the outcome for a request of which one run and ``steps`` cached steps were erased."""
    return Forgotten(request_id, 1, 0, steps, verdict_kept=kept)
