"""Checks of the Prefect server: connection, settings, database, registrations and workers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import prefect
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import DeploymentStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL

from deployments.checks.results import CheckResult, run_check
from deployments.registration.register import register
from deployments.settings_files import APPLICATION_NAME, SERVER_SETTINGS

DELIVER = "deliver/default"
"""The deployment by which the work pool and the worker are found."""
PARTS = ("block type", "work pool", "work queue", "deployment", "automation")
"""The kinds of objects that are registered. A line in ``Registration.changes`` begins with one of
them."""

_MATTERS = ("PREFECT_SERVER_SERVICES_", "PREFECT_SERVER_CONCURRENCY_")
"""Prefixes of the settings in ``server.env`` without which something is lost."""


async def check_server() -> list[CheckResult]:
    """Check the Prefect server at ``PREFECT_API_URL``, and return the results.

    If there is no server, or it does not answer, all further checks are skipped.
    """
    url = PREFECT_API_URL.value()
    if not url:
        return [
            CheckResult(
                "server",
                "warning",
                "PREFECT_API_URL is not set",
                "deliver and batch start a temporary server; set PREFECT_API_URL to check yours",
            ),
            *_skipped(
                "PREFECT_API_URL is not set", "server settings", "database", *PARTS, "worker"
            ),
        ]
    async with get_client() as client:
        found = await run_check("server", lambda: _reached(client, url))
        if found[0].status == "problem":
            return [
                *found,
                *_skipped(
                    "the server check failed", "server settings", "database", *PARTS, "worker"
                ),
            ]
        found += await run_check("server settings", lambda: _settings(client))
        found += await run_check("database", lambda: _database(client))
        found += await run_check("registered", lambda: _registered(client))
        found += await run_check("worker", lambda: _worker(client))
    return found


def _skipped(why: str, *checks: str) -> list[CheckResult]:
    return [CheckResult(check, "skipped", why) for check in checks]


async def _reached(client: PrefectClient, url: str) -> list[CheckResult]:
    if await client.api_healthcheck() is not None:
        return [
            CheckResult("server", "problem", f"no server answers at {url}", "start it: faceid up")
        ]
    try:
        version = await client.api_version()
        await client.read_flows(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        advice = "set PREFECT_API_AUTH_STRING to the server's PREFECT_SERVER_API_AUTH_STRING"
        if PREFECT_API_KEY.value():
            advice += ", and unset PREFECT_API_KEY, which takes precedence"
        return [CheckResult("server", "problem", f"{url} rejected our credentials", advice)]
    said = f"{url}, Prefect {version}"
    if version == prefect.__version__:
        return [CheckResult("server", "ok", said)]
    same = version.split(".")[:2] == prefect.__version__.split(".")[:2]
    advice = f"run the server with Prefect {prefect.__version__}, as installed here"
    return [CheckResult("server", "warning" if same else "problem", said, advice)]


async def _settings(client: PrefectClient) -> list[CheckResult]:
    """Check the settings without which the server loses task runs, or concurrency limits."""
    reply = await client.request("GET", "/admin/settings")
    actual = dict(_flat("PREFECT", reply.json()))
    expected = {k: v for k, v in SERVER_SETTINGS.items() if k.startswith(_MATTERS)}
    wrong = [
        CheckResult(
            "server settings",
            "problem",
            f"{name} is {actual.get(name, 'unknown')}: task runs or limits may be lost",
            f"start the server with {name}={value}",
        )
        for name, value in expected.items()
        if not _will_do(name, actual.get(name), value)
    ]
    return wrong or [
        CheckResult("server settings", "ok", f"all {len(expected)} are set as expected")
    ]


async def _database(client: PrefectClient) -> list[CheckResult]:
    """Check that the database does not refuse concurrent writes, as SQLite does by default."""
    settings = dict(_flat("PREFECT", (await client.request("GET", "/admin/settings")).json()))
    name = settings.get("PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME")
    if name == APPLICATION_NAME:
        return [CheckResult("database", "ok", "concurrent writers wait for each other")]
    flows = await client.read_flows(limit=1)
    if not flows:
        return [CheckResult("database", "skipped", "not known until the server has a flow")]
    # The server's settings do not show which database it has, but a backslash in a LIKE pattern
    # does: SQLite takes it literally, and PostgreSQL treats it as an escape character.
    pattern = f"{flows[0].name[:-1]}\\{flows[0].name[-1]}"
    query = {"flows": {"name": {"like_": pattern}}}
    if (await client.request("POST", "/flows/count", json=query)).json():
        return [CheckResult("database", "ok", "PostgreSQL")]
    return [
        CheckResult(
            "database",
            "warning",
            "SQLite with an unmodified Prefect server: while a batch runs, it refuses about half "
            "of all triggers (503), loses events, and may stall for a minute",
            "start it with faceid up or python -m deployments.server start, or use PostgreSQL",
        )
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield nested settings as pairs of an environment variable and its value."""
    if isinstance(value, Mapping):
        for name, part in cast("Mapping[str, Any]", value).items():
            yield from _flat(f"{prefix}_{name.upper()}", part)
    else:
        yield prefix, str(value)


def _will_do(name: str, actual: str | None, expected: str) -> bool:
    if name.endswith("_BATCH_SIZE") and actual and actual.isdecimal():
        return int(actual) >= int(expected)
    return actual is not None and _number(actual) == _number(expected)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


async def _registered(client: PrefectClient) -> list[CheckResult]:
    """Check that everything that this checkout registers is on the server and is the same there."""
    try:
        pool = (await client.read_deployment_by_name(DELIVER)).work_pool_name is not None
    except ObjectNotFound:
        pool = True
    changes = (await register(pool=pool, write=False)).changes
    advice = "register it: make deploy" if pool else "register it: start faceid up again"
    found: list[CheckResult] = []
    for part in PARTS if pool else (part for part in PARTS if not part.startswith("work ")):
        different = [change.removeprefix(f"{part} ") for change in changes if _is_of(part)(change)]
        if different:
            said = f"missing, or different from this checkout: {', '.join(different)}"
            status = "warning" if part == "automation" else "problem"
            found.append(CheckResult(part, status, said, advice))
        else:
            found.append(CheckResult(part, "ok", "same as in this checkout"))
    return found


def _is_of(part: str) -> Callable[[str], bool]:
    return lambda change: change.startswith(f"{part} ")


async def _worker(client: PrefectClient) -> list[CheckResult]:
    """Check that a worker polls for runs, which the server reports as a deployment's status."""
    try:
        deliver = await client.read_deployment_by_name(DELIVER)
    except ObjectNotFound:
        return _skipped(f"there is no {DELIVER}", "worker")
    if deliver.paused:
        advice = "resume it in the dashboard"
        return [CheckResult("worker", "problem", f"{DELIVER} is paused", advice)]
    pool = deliver.work_pool_name
    if pool and (await client.read_work_pool(pool)).is_paused:
        advice = "resume it in the dashboard: Work Pools"
        return [CheckResult("worker", "problem", f"the work pool {pool} is paused", advice)]
    if deliver.status == DeploymentStatus.READY:
        return [CheckResult("worker", "ok", f"polls for runs of {pool or 'faceid up'}")]
    start = f"python -m deployments.worker --pool={pool}" if pool else "faceid up"
    return [
        CheckResult("worker", "problem", "no worker has polled for runs lately", f"start {start}")
    ]
