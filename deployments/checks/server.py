"""The Prefect server, as ``faceid doctor`` looks at it: reachable, ours, set right, at work."""

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
PARTS = ("block type", "work pool", "work queue", "deployment", "automation")
"""What is registered, by the first words of what ``register`` says of it."""

_MATTERS = ("PREFECT_SERVER_SERVICES_", "PREFECT_SERVER_CONCURRENCY_")


async def check_server() -> list[CheckResult]:
    url = PREFECT_API_URL.value()
    if not url:
        return [
            CheckResult(
                "server",
                "warning",
                "PREFECT_API_URL is not set",
                "deliver and batch start a server for themselves; set it to look at yours",
            ),
            *_skipped("no server is named", "server settings", "database", *PARTS, "worker"),
        ]
    async with get_client() as client:
        found = await run_check("server", lambda: _reached(client, url))
        if found[0].status == "problem":
            return [*found, *_skipped("no server", "server settings", "database", *PARTS, "worker")]
        found += await run_check("server settings", lambda: _settings(client))
        found += await run_check("database", lambda: _database(client))
        found += await run_check("registered", lambda: _registered(client))
        found += await run_check("worker", lambda: _worker(client))
    return found


def _skipped(why: str, *checks: str) -> list[CheckResult]:
    return [CheckResult(check, "skipped", why) for check in checks]


async def _reached(client: PrefectClient, url: str) -> list[CheckResult]:
    if await client.api_healthcheck() is not None:
        return [CheckResult("server", "problem", f"none answers at {url}", "start it: faceid up")]
    try:
        version = await client.api_version()
        await client.read_flows(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        advice = "set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING"
        if PREFECT_API_KEY.value():
            advice += ", and unset PREFECT_API_KEY, which goes before it"
        return [CheckResult("server", "problem", f"{url} refuses us", advice)]
    said = f"{url}, Prefect {version}"
    if version == prefect.__version__:
        return [CheckResult("server", "ok", said)]
    same = version.split(".")[:2] == prefect.__version__.split(".")[:2]
    advice = f"run the server with Prefect {prefect.__version__}, which is ours"
    return [CheckResult("server", "warning" if same else "problem", said, advice)]


async def _settings(client: PrefectClient) -> list[CheckResult]:
    """Those without which it loses task runs under load, and leases when it is restarted."""
    reply = await client.request("GET", "/admin/settings")
    actual = dict(_flat("PREFECT", reply.json()))
    expected = {k: v for k, v in SERVER_SETTINGS.items() if k.startswith(_MATTERS)}
    wrong = [
        CheckResult(
            "server settings",
            "problem",
            f"{name} is {actual.get(name, 'unknown')}: task runs or limits get lost",
            f"start the server with {name}={value}",
        )
        for name, value in expected.items()
        if not _will_do(name, actual.get(name), value)
    ]
    return wrong or [CheckResult("server settings", "ok", f"{len(expected)} as they should be")]


async def _database(client: PrefectClient) -> list[CheckResult]:
    """Whether those who write at the same time wait for each other, or are refused."""
    settings = dict(_flat("PREFECT", (await client.request("GET", "/admin/settings")).json()))
    name = settings.get("PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME")
    if name == APPLICATION_NAME:
        return [CheckResult("database", "ok", "its writers take turns")]
    flows = await client.read_flows(limit=1)
    if not flows:
        return [CheckResult("database", "skipped", "the server has no flow yet to tell by")]
    # The settings do not tell which database it is. A backslash in a pattern does: it stands for
    # itself in SQLite, and PostgreSQL takes it away.
    pattern = f"{flows[0].name[:-1]}\\{flows[0].name[-1]}"
    query = {"flows": {"name": {"like_": pattern}}}
    if (await client.request("POST", "/flows/count", json=query)).json():
        return [CheckResult("database", "ok", "PostgreSQL")]
    return [
        CheckResult(
            "database",
            "warning",
            "SQLite behind a plain Prefect server: while a batch is at work it refuses about half "
            "of all triggers (503), loses events, and may stand still for a minute",
            "start it with faceid up or python -m deployments.server start, or give it PostgreSQL",
        )
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings by the variables that set them."""
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
    """Whether the server has what this checkout registers, the limits of deployments included."""
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
            said = f"missing, or not as here: {', '.join(different)}"
            status = "warning" if part == "automation" else "problem"
            found.append(CheckResult(part, status, said, advice))
        else:
            found.append(CheckResult(part, "ok", "as in this checkout"))
    return found


def _is_of(part: str) -> Callable[[str], bool]:
    return lambda change: change.startswith(f"{part} ")


async def _worker(client: PrefectClient) -> list[CheckResult]:
    """Whether somebody asks for runs: the server notes it of each deployment."""
    try:
        deliver = await client.read_deployment_by_name(DELIVER)
    except ObjectNotFound:
        return _skipped(f"there is no {DELIVER}", "worker")
    if deliver.paused:
        advice = "switch it on in the dashboard"
        return [CheckResult("worker", "problem", f"{DELIVER} is paused", advice)]
    pool = deliver.work_pool_name
    if pool and (await client.read_work_pool(pool)).is_paused:
        advice = "switch it on in the dashboard: Work Pools"
        return [CheckResult("worker", "problem", f"the work pool {pool} is paused", advice)]
    if deliver.status == DeploymentStatus.READY:
        return [CheckResult("worker", "ok", f"takes runs of {pool or 'faceid up'}")]
    start = f"python -m deployments.worker --pool={pool}" if pool else "faceid up"
    return [CheckResult("worker", "problem", "nobody has asked for runs lately", f"start {start}")]
