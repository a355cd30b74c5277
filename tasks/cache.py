"""Prefect's cache for the two steps that may be repeated: ``ticket`` and ``upload``.

After a retry, a crash or a second trigger, a run continues where the last run stopped, and the
dashboard shows its earlier steps as ``Cached``. The cache key consists of service, account, request
ID, generation, window and resource field, so that editing the code does not change it. The cache
does not decide how long a ticket may be used: ``check_expiry`` does, by the server's clock.

Prefect treats every error in this module as a cache miss, and then performs the step again.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, cast, get_args
from uuid import UUID

import attrs
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.serializers import Serializer
from pydantic import PrivateAttr, SecretStr

from faceid.errors import FaceIdError
from faceid.models import Upload, UploadTicket
from tasks.delivery import Delivery
from tasks.settings import DeliverySettings
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import open_storage
from tasks.state.threads import in_storage_thread

Step = Literal["ticket", "upload"]
"""Name of a cached step."""

NOTHING = b"null"
"""Serialized form of a step's error. Prefect hands errors to the storage, too; ``StepStorage`` does
not store them."""

logger = logging.getLogger(__name__)


def step_key(step: Step, store: RecordStore, record: Record, window: int, field: str) -> str:
    """Return the cache key of a step: 64 hexadecimal digits.

    ``window`` is the number of the window, and ``field`` the resource field that the step is for.
    """
    parts = (store.service, store.account, record.request_id, record.generation, window, field)
    return layout.step_name(step, *parts)


def cached_steps(store: RecordStore, record: Record, fields: set[str]) -> Iterator[str]:
    """Yield all names that the cached steps of a request may have in the storage.

    ``fields`` are the resource fields that a request may have, of all target actions.
    """
    for window in range(1, record.window + 1):
        for step in get_args(Step):
            for field in fields:
                yield layout.cached_step_name(step_key(step, store, record, window, field))


@dataclass(kw_only=True)
class PerRequest(CachePolicy):
    """Cache policy of a step for one resource of a request, in the record's current window."""

    step: Step
    """The step that is cached."""

    # Prefect passes all of these arguments.
    def compute_key(
        self,
        task_ctx: TaskRunContext,  # noqa: ARG002 - Prefect passes it
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002 - likewise
        **kwargs: Any,  # noqa: ARG002 - likewise
    ) -> str:
        """Return the cache key for the step's arguments ``delivery`` and ``file``."""
        delivery = cast("Delivery", inputs["delivery"])
        record, field = delivery.record, inputs["file"].field
        return step_key(self.step, delivery.store, record, record.window, field)


class StepStorage(WritableFileSystem):
    """Stores Prefect's results in our storage: encrypted, and under ``FACEID_STORAGE``."""

    _block_type_slug = "faceid-step-storage"
    # Prefect accepts only blocks with an ID as storage. This block has an ID but no document on the
    # server, because only the processes that run flows, which have the settings, read results.
    _block_document_id: UUID | None = PrivateAttr(UUID("5d3cc8a7-3d0f-4b6f-9a51-7f0f6f1a52ce"))

    async def read_path(self, path: str) -> bytes:
        """Return the result with this cache key.

        Raises ``FileNotFoundError`` if there is none, and ``StorageError`` if it cannot be read.
        """
        return await in_storage_thread(_read, path)

    async def write_path(self, path: str, content: bytes) -> Any:
        """Store a result under its cache key, unless it is an error.

        If that fails, a warning is logged, because the step itself has succeeded.
        """
        await in_storage_thread(_write, path, content)


def _read(path: str) -> bytes:
    found = open_storage(DeliverySettings.load()).read(layout.cached_step_name(path))
    if found is None:
        raise FileNotFoundError(path)
    return json.dumps(found).encode()


def _write(path: str, content: bytes) -> None:
    record: dict[str, Any] = json.loads(content)
    if record["result"] == NOTHING.decode():
        return
    try:
        # The result need not be durable: a step that is lost in a power cut is performed again.
        storage = open_storage(DeliverySettings.load())
        storage.write(layout.cached_step_name(path), record, durable=False)
    except FaceIdError as error:
        # The step itself has succeeded. At worst, it is performed again.
        logger.warning("a step could not be cached: %s", error)


class StepSerializer(Serializer):
    """Serializes tickets and uploads as JSON, with URLs in clear text.

    ``StepStorage`` encrypts the JSON.
    """

    # Prefect declares `type` as a str, and selects the serializer by this literal.
    type: Literal["faceid-step"] = "faceid-step"  # pyright: ignore[reportIncompatibleVariableOverride]  # see above

    def dumps(self, obj: Any) -> bytes:
        """Return a ticket or an upload as JSON, or ``NOTHING`` for an error."""
        if isinstance(obj, BaseException):
            return NOTHING
        content = attrs.asdict(obj, value_serializer=_plain)
        return json.dumps({"kind": type(obj).__name__, **content}).encode()

    def loads(self, blob: bytes) -> Any:
        """Return the ticket or upload in a JSON text that ``dumps`` has returned."""
        content: dict[str, Any] = json.loads(blob)
        if content.pop("kind") == Upload.__name__:
            return Upload(ticket=_ticket(content["ticket"]), md5=content["md5"])
        return _ticket(content)


def _plain(_owner: Any, _field: Any, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.isoformat() if isinstance(value, datetime) else value


def _ticket(content: dict[str, Any]) -> UploadTicket:
    return UploadTicket(
        field=content["field"],
        upload_url=SecretStr(content["upload_url"]),
        resource_url=SecretStr(content["resource_url"]),
        issued_at=datetime.fromisoformat(content["issued_at"]),
        expires_at=datetime.fromisoformat(content["expires_at"]),
        tencent_request_id=content["tencent_request_id"],
    )


class Cached(TypedDict):
    """Type of ``CACHED``: Prefect's task options of these names."""

    result_storage: StepStorage
    result_serializer: StepSerializer
    cache_result_in_memory: bool


CACHED: Cached = {
    "result_storage": StepStorage(),
    "result_serializer": StepSerializer(),
    # Even in a long-lived process, the stored result must be read, because another process may have
    # replaced it.
    "cache_result_in_memory": False,
}
"""Options of a cached step, for ``@task(cache_policy=PerRequest(...), **CACHED)``."""


class Uncached(TypedDict):
    """Type of ``UNCACHED``: Prefect's task options of these names."""

    cache_policy: CachePolicy
    persist_result: bool
    result_storage: StepStorage


UNCACHED: Uncached = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    # Nothing is written to this storage, but Prefect would resolve the path of its default storage
    # at each call.
    "result_storage": CACHED["result_storage"],
}
"""Options of a step that is performed at every call, for ``@task(**UNCACHED)``."""
