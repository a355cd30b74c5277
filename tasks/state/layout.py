"""Where things lie in the storage: every folder and name in it is known here.

::

    records/<service>/<account>/<2 hex>/<digest>.json    the record of a request
    open/<service>/<account>/<2 hex>/<digest>.json       the name of a request that is still open
    cache/<digest>                                       a cached step
    locks/<digest>                                       locks, on a local file system
    pace/<digest>                                        when an action was last called, likewise
    batches/<flow run ID>/                               result lines of a batch
    data.key                                             the key of an emulator's storage

Digests are SHA-256 in hexadecimal: an ID may be a person's, and some file systems do not tell
upper case from lower case. Locks and rates need a file system. Where the storage is remote, they
are in the folder ``faceid`` of Prefect's home, unless ``FACEID_LOCKS`` names a Redis server.
"""

import hashlib
from pathlib import Path

from prefect.settings import PREFECT_HOME

RECORDS, OPEN, CACHE, BATCHES = "records", "open", "cache", "batches"


def record_name(service: str, account: str, request_id: str) -> str:
    return f"{RECORDS}/{_of_request(service, account, request_id)}"


def open_name(service: str, account: str, request_id: str) -> str:
    """The name that says that a request is open: the sweeper reads these, and not every record."""
    return f"{OPEN}/{_of_request(service, account, request_id)}"


def step_name(*parts: object) -> str:
    """A step's result in Prefect's cache, by all that its key is made from."""
    return digest("\n".join(map(str, parts)))


def cached_step_name(key: str) -> str:
    return f"{CACHE}/{key}"


def locks_folder(local: Path | None) -> Path:
    """``local`` is the storage's own folder; ``None`` where the storage is remote."""
    return _machine_folder(local) / "locks"


def pace_folder(local: Path | None) -> Path:
    """``local`` is the storage's own folder; ``None`` where the storage is remote."""
    return _machine_folder(local) / "pace"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _of_request(service: str, account: str, request_id: str) -> str:
    name = digest(request_id)
    return f"{service}/{account}/{name[:2]}/{name}.json"


def _machine_folder(local: Path | None) -> Path:
    return local or PREFECT_HOME.value() / "faceid"
