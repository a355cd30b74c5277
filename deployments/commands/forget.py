"""``faceid forget``: erases everything that is stored about requests."""

import asyncio
from contextlib import suppress
from typing import Annotated

import orjson
from cyclopts import Parameter
from prefect.settings import PREFECT_API_URL

from deployments.commands.block_settings import block_settings
from faceid.command import Exit
from faceid.errors import InvalidInput
from faceid.outputs import BrokenOutput, print_result, stderr
from flows.forget import Forgetting, Forgotten, moment, open_forgetting
from tasks.settings import DeliverySettings
from tasks.state.record_store import RecordStore


def forget(
    *ids: str,
    older_than: str = "",
    credentials: str = "",
    keep_verdict: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Erase what is stored about requests; print one line of JSON for each request.

    This covers records, cached steps, saved files, result lines in FACEID_STORAGE, and flow runs
    with their logs and artifacts. At the end, the command lists what it cannot erase. Your own
    files are not touched.

    Parameters
    ----------
    ids
        Request IDs. A request that a run is working on is left alone.
    older_than
        Instead of IDs, select all requests that are finished and have not been touched for this
        long, such as 30d, 12h, 90m or 45s.
    credentials
        Name of the tencent-credentials block in Prefect with which the requests were delivered, if
        any.
    keep_verdict
        Keep the verdict: faceid status still shows it, and delivering the request again returns it.
    """
    if bool(ids) == bool(older_than):
        raise InvalidInput("InvalidRequest", "give either request IDs or --older-than, not both")
    settings = block_settings(credentials)
    raise Exit(0 if asyncio.run(_forget(ids, older_than, settings, keep_verdict)) else 1)


async def _forget(
    ids: tuple[str, ...], older_than: str, settings: DeliverySettings, keep_verdict: bool
) -> bool:
    """Forget the requests, print the results, and return whether all of them were forgotten."""
    before = moment(older_than) if older_than else None
    forgotten = left = 0
    async with open_forgetting(
        settings, keep_verdict=keep_verdict, has_server=bool(PREFECT_API_URL.value())
    ) as forgetting:
        store = RecordStore(forgetting.storage, settings.service, settings.account)
        asked = forgetting.older(store, before) if before else forgetting.each(store, ids)
        async for one in asked:
            if isinstance(one, Forgotten):
                forgotten += 1
                with suppress(
                    BrokenOutput
                ):  # whoever reads the results, all requests are forgotten
                    print_result(orjson.dumps(one._asdict()).decode())
            else:
                left += 1
                stderr.print(f"faceid: {one.reason}", markup=False)
        stderr.print(f"{forgotten} forgotten")
        if forgotten:
            stderr.print("What cannot be reached from here:")
            for line in _out_of_reach(forgetting):
                stderr.print(f"  - {line}", markup=False)
    return left == 0


def _out_of_reach(forgetting: Forgetting) -> list[str]:
    lines: list[str] = []
    runs = forgetting.runs
    if runs is None:
        lines.append("flow runs: PREFECT_API_URL is not set, so no Prefect server was asked")
    else:
        if runs.unknown:
            lines.append(
                f"flow runs that are not on this Prefect server ({runs.unknown}): already deleted, "
                "or on another"
            )
        if runs.logs_left:
            lines.append(
                f"logs of deleted flow runs ({runs.logs_left}): the server is slow to delete them"
            )
        lines += [
            "Prefect's events, which hold request IDs and verdicts: nobody can delete them, and "
            "the server drops them after PREFECT_SERVER_EVENTS_RETENTION_PERIOD, 7 days by default",
            "what automations have sent: notifications, and results to a webhook",
            "logs of batches' runs, and their summaries, which name some requests that failed: "
            "delete those runs in the dashboard",
            "free pages in the file of Prefect's database, until they are used again",
        ]
    if forgetting.files_missing:
        lines.append(
            f"files that are not where they were saved ({forgetting.files_missing}): already gone, "
            "or on another machine"
        )
    if forgetting.batches_at_work:
        lines.append(f"result lines of batches that are at work ({forgetting.batches_at_work})")
    return [
        *lines,
        "answers that were spilled on other machines, which remove them in their next sweep",
        "log files of Prefect's server and workers, backups, results in folders that you named",
        "uploads at Tencent, which live up to two hours, and what Tencent itself keeps",
    ]
