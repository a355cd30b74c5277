"""The layout of the storage: the names of all folders and documents in it.

::

    records/<service>/<account>/<2 hex>/<digest>.json    record of a request
    open/<service>/<account>/<2 hex>/<digest>.json       marks a request that is still open
    cache/<digest>                                       result of a cached step
    locks/<digest>                                       locks, on a local file system
    pace/<digest>                                        pacing state of an action, also local
    batches/<flow run ID>/                               result lines of a batch
    data.key                                             the key of an emulator's storage

Digests are SHA-256 in hexadecimal, because a request ID may identify a person, and because some
file systems are not case-sensitive. Locks and pacing state need a local file system. If the storage
is remote, they are in the folder ``faceid`` of Prefect's home. If ``FACEID_LOCKS`` names a Redis
server, they are kept on that server instead.
"""

import hashlib
from pathlib import Path

from prefect.settings import PREFECT_HOME

RECORDS, OPEN, CACHE, BATCHES = "records", "open", "cache", "batches"


def record_name(service: str, account: str, request_id: str) -> str:
    """Return the name of a request's record."""
    return f"{RECORDS}/{_of_request(service, account, request_id)}"


def open_name(service: str, account: str, request_id: str) -> str:
    """Return the name that marks a request as open, so the sweeper need not read every record."""
    return f"{OPEN}/{_of_request(service, account, request_id)}"


def step_name(*parts: object) -> str:
    """Return the cache key of a step, a digest of the given parts."""
    return digest("\n".join(map(str, parts)))


def cached_step_name(key: str) -> str:
    """Return the name of the document for a cache key."""
    return f"{CACHE}/{key}"


def locks_folder(local: Path | None) -> Path:
    """Return the folder for locks. ``local`` is the storage's folder, ``None`` if it is remote."""
    return _machine_folder(local) / "locks"


def pace_folder(local: Path | None) -> Path:
    """Return the pacing folder. ``local`` is the storage's folder, ``None`` if it is remote."""
    return _machine_folder(local) / "pace"


def digest(text: str) -> str:
    """Return the SHA-256 digest of a text in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _of_request(service: str, account: str, request_id: str) -> str:
    name = digest(request_id)
    return f"{service}/{account}/{name[:2]}/{name}.json"


def _machine_folder(local: Path | None) -> Path:
    return local or PREFECT_HOME.value() / "faceid"
