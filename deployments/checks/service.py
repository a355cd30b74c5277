"""Settings, storage, locks and the service, as ``faceid doctor`` looks at them."""

import time
from functools import partial
from uuid import uuid4

import anyio.to_thread

from deployments.checks.results import Check, CheckResult
from faceid.actions import CREATE_UPLOAD_URL
from faceid.client import FaceIdClient
from faceid.errors import StorageError
from faceid.settings import FaceIdSettings
from tasks.credentials import check_credentials
from tasks.state import layout
from tasks.state.claims import fail_if_locked
from tasks.state.locks import acquire_lock
from tasks.state.storage import Storage, open_storage, storage_url

MAX_SKEW = 300.0
"""Seconds by which a clock may be off for a signature to be taken (the vendor's figure)."""

NOTABLE_SKEW = 5.0

OF_THE_KEY = ("clock", "credentials")
"""What cannot be looked at without a key."""


def checks(settings: FaceIdSettings) -> list[tuple[str, Check]]:
    """What there is to look at, by name; ``settings`` may be those of a block."""
    return [
        ("storage", partial(check_storage, settings)),
        ("locks", partial(check_locks, settings)),
        ("limits", partial(check_limits, settings)),
        ("resource roots", partial(check_roots, settings)),
        ("clock", partial(check_clock, settings)),
        ("credentials", partial(check_key, settings)),
    ]


async def check_storage(settings: FaceIdSettings) -> list[CheckResult]:
    """Writes, reads back and removes a document, and opens one that is there."""
    storage = open_storage(settings)
    return [await anyio.to_thread.run_sync(_try_storage, storage, settings)]


def _try_storage(storage: Storage, settings: FaceIdSettings) -> CheckResult:
    name = f"doctor/{uuid4().hex}.json"
    try:
        storage.write(name, {"written": "by faceid doctor"})
        storage.read(name)
        storage.remove(name)
    except StorageError as error:
        advice = "look at FACEID_STORAGE: the folder, its owner, the disk, the store's keys"
        return CheckResult("storage", "problem", error.message, advice)
    for account in storage.folders(f"{layout.RECORDS}/{settings.service}"):
        for there in storage.names(f"{layout.RECORDS}/{settings.service}/{account}"):
            try:
                storage.read(there)
            except StorageError as error:
                advice = "add the key that it was written with to FACEID_DATA_KEY, behind the new"
                return CheckResult("storage", "problem", error.message, advice)
            break
    return CheckResult("storage", "ok", f"{storage_url(settings)}, encrypted with our key")


async def check_locks(settings: FaceIdSettings) -> list[CheckResult]:
    """Takes a lock and gives it back."""
    storage = open_storage(settings)
    if not settings.locks:
        if storage.folder is None:
            advice = "set FACEID_LOCKS to a redis:// URL before a second machine delivers"
            said = "files of this machine, and the storage is another's"
            return [CheckResult("locks", "warning", said, advice)]
        return [CheckResult("locks", "ok", "files, for one machine")]
    folder = layout.locks_folder(storage.folder)
    async with acquire_lock(settings.locks, folder, uuid4().hex, fail_if_locked):
        return [CheckResult("locks", "ok", "Redis, for all machines that name it")]


async def check_limits(settings: FaceIdSettings) -> list[CheckResult]:
    known = {CREATE_UPLOAD_URL, *settings.target_actions()}
    if unknown := sorted(set(settings.rates) - known):
        said = f"FACEID_RATES names what is no action: {', '.join(unknown)}"
        return [
            CheckResult("limits", "warning", said, "mend the name: it is not paced by that rate")
        ]
    said = ", ".join(f"{action} {rate:g}/s" for action, rate in settings.rates.items())
    return [CheckResult("limits", "ok", said or "the API's own; FACEID_RATES raises none")]


async def check_roots(settings: FaceIdSettings) -> list[CheckResult]:
    if settings.resource_roots:
        return [CheckResult("resource roots", "ok", ", ".join(settings.resource_roots))]
    return [
        CheckResult(
            "resource roots",
            "warning",
            "FACEID_RESOURCE_ROOTS is not set",
            "commands and faceid up read the working folder; a worker needs it to read any file",
        )
    ]


async def check_clock(settings: FaceIdSettings) -> list[CheckResult]:
    """Asks the service for its time; that is no call of any action."""
    async with FaceIdClient(settings.endpoint, settings.credentials()) as client:
        await client.learn_clock()
        skew = client.server_now().timestamp() - time.time()
    said = f"the service's is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) < NOTABLE_SKEW:
        return [CheckResult("clock", "ok", f"{settings.host} has the same time")]
    status = "problem" if abs(skew) >= MAX_SKEW else "warning"
    return [CheckResult("clock", status, said, "set this machine's clock (NTP)")]


async def check_key(settings: FaceIdSettings) -> list[CheckResult]:
    """One upload ticket that nobody uses: not billed."""
    await check_credentials(settings)
    said = f"accepted by {settings.host}, account {settings.account}"
    if settings.service == "emulator":
        said += "; an emulator: no verdict of it is real"
    return [CheckResult("credentials", "ok", said)]
