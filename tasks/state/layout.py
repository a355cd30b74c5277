"""The layout of the storage: the names of all folders and documents in it.

::

    records/<service>/<account>/<2 digits>/<digest>.json  record of a request
    open/<service>/<account>/<2 digits>/<digest>.json     marks a request that is still open
    cache/<digest>                                        result of a cached step
    locks/<digest>                                        lock of a request
    pace/<digest>                                         times of an action's last calls
    calls/<digest>.json                                   an action's calls of the last days
    batches/<flow run ID>/                                result lines of a batch
    probe/conditional-writes.json                         what a trial has shown of the store
    data.key                                              key of an emulator's storage

The digests are SHA-256 in hexadecimal; the folder above a record is named after the first two
digits. Names are digests because a request ID may identify a person, and because some file systems
are not case-sensitive. In the folder of ``FACEID_SPILL``, which is not part of the storage, are the
answers that a storage has not accepted::

    <digest of the storage>/<service>/<account>/<2 digits>/<digest>.<flow run ID>.json

If ``FACEID_LOCKS`` names a Redis server, which remote storage needs, locks, times and calls are
kept on that server instead of in ``locks``, ``pace`` and ``calls``.
"""

import hashlib
from pathlib import Path

from prefect.settings import PREFECT_HOME

from tasks.state.documents import TRIALS

RECORDS, OPEN, CACHE, BATCHES = "records", "open", "cache", "batches"
"""Names of the folders of documents and result lines."""

TRIAL = f"{TRIALS}/conditional-writes.json"
"""Name of the document about the store's last trial."""


def record_name(service: str, account: str, request_id: str) -> str:
    """Return the name of a request's record."""
    return f"{RECORDS}/{_of_request(service, account, request_id)}"


def open_name(service: str, account: str, request_id: str) -> str:
    """Return the name of the document that marks a request as open.

    Because of these documents, the sweep need not read every record.
    """
    return f"{OPEN}/{_of_request(service, account, request_id)}"


def step_name(*parts: object) -> str:
    """Return the cache key of a step: the digest of what identifies the step."""
    return digest("\n".join(map(str, parts)))


def cached_step_name(key: str) -> str:
    """Return the name of the document that has the result for a cache key."""
    return f"{CACHE}/{key}"


def spilled_stem(storage: str, service: str, account: str, request_id: str) -> str:
    """Return how the names of a request's spilled answers begin; IDs of flow runs follow.

    ``storage`` is the place of the storage that has the request's record.
    """
    of_request = _of_request(service, account, request_id)
    return f"{digest(storage)}/{of_request.removesuffix('json')}"


def locks_folder(local: Path | None) -> Path:
    """Return the folder for lock files.

    ``local`` is the folder of the storage; ``None`` if the storage is remote. Then the folder is in
    Prefect's home, and only commands that write no records use it.
    """
    return _machine_folder(local) / "locks"


def pace_folder(local: Path | None) -> Path:
    """Return the folder for the files of pacers.

    ``local`` is the folder of the storage; ``None`` if the storage is remote.
    """
    return _machine_folder(local) / "pace"


def calls_file(local: Path | None, name: str) -> Path:
    """Return the file that has the number of an action's calls by day.

    ``local`` is the folder of the storage; ``None`` if the storage is remote. ``name`` identifies
    service, account and action.
    """
    return _machine_folder(local) / "calls" / f"{digest(name)}.json"


def digest(text: str) -> str:
    """Return the SHA-256 digest of a text: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _of_request(service: str, account: str, request_id: str) -> str:
    name = digest(request_id)
    return f"{service}/{account}/{name[:2]}/{name}.json"


def _machine_folder(local: Path | None) -> Path:
    return local or PREFECT_HOME.value() / "faceid"
