"""Checks of the settings, the storage, the locks and the Face ID service."""

import os
import time
from functools import partial
from uuid import uuid4

import anyio.to_thread

from deployments.checks.records import check_records
from deployments.checks.results import Check, CheckResult
from faceid.actions import CREATE_UPLOAD_URL
from faceid.client import FaceIdClient
from faceid.errors import StorageError
from tasks.credentials import check_credentials
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.claims import fail_if_locked
from tasks.state.limits import open_limit
from tasks.state.locks import acquire_lock
from tasks.state.shared_storage import NO_CONDITIONS, NO_LOCKS, try_conditional_writes
from tasks.state.spill import open_spill
from tasks.state.storage import Storage, open_storage, storage_url

MAX_SKEW = 300.0
"""Clock skew in seconds from which on the service refuses signatures (documented)."""

NOTABLE_SKEW = 5.0
"""Clock skew in seconds from which on there is a warning."""

NOTHING_DELIVERED = "until then, nothing is delivered with this storage"
"""Advice where a message says what to set."""

OF_THE_KEY = ("clock", "credentials")
"""Names of the checks that need a key."""


def checks(settings: DeliverySettings) -> list[tuple[str, Check]]:
    """Return the checks of these settings, each with its name.

    ``settings`` are those of the environment or of a credentials block.
    """
    return [
        ("storage", partial(check_storage, settings)),
        ("spill", partial(check_spill, settings)),
        ("records", partial(check_records, settings)),
        ("locks", partial(check_locks, settings)),
        ("limits", partial(check_limits, settings)),
        ("limit", partial(check_daily_limits, settings)),
        ("resource roots", partial(check_roots, settings)),
        ("clock", partial(check_clock, settings)),
        ("credentials", partial(check_key, settings)),
    ]


async def check_storage(settings: DeliverySettings) -> list[CheckResult]:
    """Check the storage: write, read and remove a document, and read a record of each account.

    If it is not on this machine, find out whether the store honours conditional writes.
    """
    storage = open_storage(settings)
    return [await anyio.to_thread.run_sync(_try_storage, storage, settings)]


def _try_storage(storage: Storage, settings: DeliverySettings) -> CheckResult:
    name = f"doctor/{uuid4().hex}.json"
    try:
        storage.write(name, {"written": "by faceid doctor"})
        storage.read(name)
        storage.remove(name)
    except StorageError as error:
        advice = "check FACEID_STORAGE: the folder, its owner, the disk, the store's keys"
        return CheckResult("storage", "problem", error.message, advice)
    for account in storage.folders(f"{layout.RECORDS}/{settings.service}"):
        for there in storage.names(f"{layout.RECORDS}/{settings.service}/{account}"):
            try:
                storage.read(there)
            except StorageError as error:
                advice = "append the key that encrypted it to FACEID_DATA_KEY, after the newest key"
                return CheckResult("storage", "problem", error.message, advice)
            break
    said = f"{storage_url(settings)}, encrypted with our key"
    if storage.folder is None:
        trial = try_conditional_writes(storage)
        if not trial.honoured:
            return CheckResult("storage", "problem", NO_CONDITIONS, NOTHING_DELIVERED)
        said += f"; conditional writes shown {trial.at:%Y-%m-%d %H:%M} UTC"
    return CheckResult("storage", "ok", said)


async def check_spill(settings: DeliverySettings) -> list[CheckResult]:
    """Count the answers on this machine that wait for the storage; no result if there are none."""
    spill = open_spill(settings, open_storage(settings))
    count = len(await anyio.to_thread.run_sync(spill.all))
    if not count:
        return []
    said = f"{count} {'answer waits' if count == 1 else 'answers wait'} in {spill.folder}"
    advice = "deliver the requests again, or start sweep/default on this machine"
    return [CheckResult("spill", "warning", said, advice)]


async def check_locks(settings: DeliverySettings) -> list[CheckResult]:
    """Check that the locks suit the storage and, with Redis, that a lock can be acquired."""
    storage = open_storage(settings)
    if not settings.locks:
        if storage.folder is None:
            return [CheckResult("locks", "problem", NO_LOCKS, NOTHING_DELIVERED)]
        return [CheckResult("locks", "ok", "files, for one machine only")]
    folder = layout.locks_folder(storage.folder)
    async with acquire_lock(settings.locks, folder, uuid4().hex, fail_if_locked):
        return [CheckResult("locks", "ok", "Redis, for all machines that use it")]


async def check_limits(settings: DeliverySettings) -> list[CheckResult]:
    """Check that every name in ``FACEID_RATES`` is an action."""
    known = {CREATE_UPLOAD_URL, *settings.target_actions()}
    if unknown := sorted(set(settings.rates) - known):
        said = f"FACEID_RATES names unknown actions: {', '.join(unknown)}"
        return [CheckResult("limits", "warning", said, "correct the name: this rate has no effect")]
    said = ", ".join(f"{action} {rate:g}/s" for action, rate in settings.rates.items())
    return [CheckResult("limits", "ok", said or "the API's defaults; FACEID_RATES is not set")]


async def check_daily_limits(settings: DeliverySettings) -> list[CheckResult]:
    """Tell how many calls are left today, for each action with a limit."""
    results: list[CheckResult] = []
    for action in settings.max_calls_per_day:
        limit = open_limit(settings, open_storage(settings), action)
        assert limit
        if await limit.left():
            results.append(CheckResult("limit", "ok", await limit.describe()))
        else:
            advice = "requests wait for the next day; or raise FACEID_MAX_CALLS_PER_DAY"
            results.append(CheckResult("limit", "warning", await limit.describe(), advice))
    return results


async def check_roots(settings: DeliverySettings) -> list[CheckResult]:
    """Check that ``FACEID_RESOURCE_ROOTS`` is set, and that its folders are there."""
    folders = [root for root in settings.resource_roots if "://" not in root]
    there = await anyio.to_thread.run_sync(lambda: [*map(os.path.isdir, folders)])
    missing = [root for root, is_there in zip(folders, there, strict=True) if not is_there]
    if missing:
        said = f"not a folder: {', '.join(missing)}"
        return [CheckResult("resource roots", "warning", said, "check FACEID_RESOURCE_ROOTS")]
    if settings.resource_roots:
        return [CheckResult("resource roots", "ok", ", ".join(settings.resource_roots))]
    return [
        CheckResult(
            "resource roots",
            "warning",
            "FACEID_RESOURCE_ROOTS is not set",
            "commands and faceid up read the working folder; a worker without it reads no files",
        )
    ]


async def check_clock(settings: DeliverySettings) -> list[CheckResult]:
    """Compare this machine's clock with the service's. No action is called."""
    async with FaceIdClient(settings.endpoint, settings.credentials()) as client:
        await client.learn_clock()
        skew = client.server_now().timestamp() - time.time()
    said = f"the service's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) < NOTABLE_SKEW:
        return [CheckResult("clock", "ok", f"agrees with {settings.host}")]
    status = "problem" if abs(skew) >= MAX_SKEW else "warning"
    return [CheckResult("clock", status, said, "set this machine's clock (NTP)")]


async def check_key(settings: DeliverySettings) -> list[CheckResult]:
    """Check the key by requesting an upload ticket that is not used, which is not billed."""
    await check_credentials(settings)
    said = f"accepted by {settings.host}, account {settings.account}"
    if settings.service == "emulator":
        said += "; an emulator: its verdicts are not real"
    return [CheckResult("credentials", "ok", said)]
