"""The check of the storage against Prefect's runs, which tell if it was restored from a backup."""

from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from deployments.checks.results import CheckResult
from faceid.errors import FaceIdError
from flows.server.runs import server_errors
from flows.upkeep.restored import compare, spilled_without_record
from tasks.settings import DeliverySettings

EXAMPLES = 3
"""Number of request IDs that a message names. The result has all of them."""

RESTORED = "docs/operations.md, 'Restored from a backup'"
"""Where the advice for a restored storage is."""


async def check_records(settings: DeliverySettings) -> list[CheckResult]:
    """Compare the records with the newest runs in Prefect, and with the spilled answers."""
    try:
        return [*await _spilled(settings), await _runs(settings)]
    except FaceIdError as error:  # other checks report it as a problem
        return [CheckResult("records", "skipped", f"they cannot be compared: {error.message}")]


async def _spilled(settings: DeliverySettings) -> list[CheckResult]:
    ids = sorted(set(await spilled_without_record(settings)))
    if not ids:
        return []
    said = f"the storage does not know {_counted(ids)} with a spilled answer: {_named(ids)}"
    advice = f"copy FACEID_SPILL before a sweep takes them for forgotten: see {RESTORED}"
    return [CheckResult("records", "warning", said, advice, tuple(ids))]


async def _runs(settings: DeliverySettings) -> CheckResult:
    if not PREFECT_API_URL.value():
        return CheckResult("records", "skipped", "PREFECT_API_URL is not set")
    with server_errors():
        async with get_client() as client:
            found = await compare(client, settings)
    ids = [call.request_id for call in found.missing]
    if not ids:
        said = f"lack none of the newest calls of Prefect's runs; compared: {found.known}"
        return CheckResult("records", "ok", said if found.known else "no run tells of a call")
    if not found.known:
        said = f"none knows of the calls of Prefect's runs, for {_counted(ids)}: {_named(ids)}"
        advice = f"check FACEID_STORAGE; if it was restored or lost, see {RESTORED}"
    else:
        said = f"older than runs with a verdict or an unknown outcome, for {_counted(ids)}: "
        said += _named(ids)
        advice = f"deliver nothing, and start no worker, before you have read {RESTORED}"
    return CheckResult("records", "warning", said, advice, tuple(ids))


def _counted(ids: Sequence[str]) -> str:
    return f"{len(ids)} {'request' if len(ids) == 1 else 'requests'}"


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:EXAMPLES]) + (", …" if len(ids) > EXAMPLES else "")
