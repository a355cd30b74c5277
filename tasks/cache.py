"""Prefect's cache for the steps that may be repeated: ticket and upload, per request ID.

A retry, a crash, a second trigger continue where the last one stopped, and show ``Cached``. The key
is service, account, request ID, generation, window and resource field, and nothing that changes
when code is edited. How long a ticket may be used is not the cache's to say: ``check_expiry`` asks
the server's clock.

Prefect takes whatever goes wrong here for a miss: then a ticket is asked for once more.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, cast, get_args
from uuid import UUID

import anyio.to_thread
import attrs
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.serializers import Serializer
from pydantic import PrivateAttr, SecretStr

from faceid.errors import FaceIdError
from faceid.models import Upload, UploadTicket
from faceid.settings import FaceIdSettings
from tasks.delivery import Delivery
from tasks.state import layout
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import open_storage

Step = Literal["ticket", "upload"]

NOTHING = b"null"
"""How a step's error is serialized: Prefect would keep those, too, and nobody would read them."""

logger = logging.getLogger(__name__)


def step_key(step: Step, store: RecordStore, record: Record, window: int, field: str) -> str:
    """What a step on one resource of a request is kept under, in one window."""
    parts = (store.service, store.account, record.request_id, record.generation, window, field)
    return layout.step_name(step, *parts)


def cached_steps(store: RecordStore, record: Record, fields: set[str]) -> Iterator[str]:
    """The names that a request's cached steps may have in the storage."""
    for window in range(1, record.window + 1):
        for step in get_args(Step):
            for field in fields:
                yield layout.cached_step_name(step_key(step, store, record, window, field))


@dataclass(kw_only=True)
class PerRequest(CachePolicy):
    """The cache key of a step on one resource of a request, in the window that is open."""

    step: Step

    # Prefect calls it with all of these.
    def compute_key(
        self,
        task_ctx: TaskRunContext,  # noqa: ARG002
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> str:
        delivery = cast("Delivery", inputs["delivery"])
        record, field = delivery.record, inputs["file"].field
        return step_key(self.step, delivery.store, record, record.window, field)


class StepStorage(WritableFileSystem):
    """Prefect's result storage in ours: encrypted, and under ``FACEID_STORAGE``."""

    _block_type_slug = "faceid-step-storage"
    # Prefect takes no block as storage that has no ID. This one has no document at the server:
    # results are read here, where the settings are, and nowhere else.
    _block_document_id: UUID | None = PrivateAttr(UUID("5d3cc8a7-3d0f-4b6f-9a51-7f0f6f1a52ce"))

    async def read_path(self, path: str) -> bytes:
        return await anyio.to_thread.run_sync(_read, path)

    async def write_path(self, path: str, content: bytes) -> Any:
        await anyio.to_thread.run_sync(_write, path, content)


def _read(path: str) -> bytes:
    found = open_storage(FaceIdSettings.load()).read(layout.cached_step_name(path))
    if found is None:
        raise FileNotFoundError(path)
    return json.dumps(found).encode()


def _write(path: str, content: bytes) -> None:
    record: dict[str, Any] = json.loads(content)
    if record["result"] == NOTHING.decode():
        return
    try:
        # A ticket that a power cut takes is asked for once more.
        storage = open_storage(FaceIdSettings.load())
        storage.write(layout.cached_step_name(path), record, durable=False)
    except FaceIdError as error:
        # The step is done all the same; it may have to be done again.
        logger.warning("a step could not be cached: %s", error)


class StepSerializer(Serializer):
    """Tickets and uploads as JSON, URLs in clear: ``StepStorage`` encrypts what it is given."""

    # Prefect declares `type` as a str, and picks the serializer by this literal.
    type: Literal["faceid-step"] = "faceid-step"  # pyright: ignore[reportIncompatibleVariableOverride]

    def dumps(self, obj: Any) -> bytes:
        if isinstance(obj, BaseException):
            return NOTHING
        content = attrs.asdict(obj, value_serializer=_plain)
        return json.dumps({"kind": type(obj).__name__, **content}).encode()

    def loads(self, blob: bytes) -> Any:
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
    result_storage: StepStorage
    result_serializer: StepSerializer
    cache_result_in_memory: bool


CACHED: Cached = {
    "result_storage": StepStorage(),
    "result_serializer": StepSerializer(),
    # What is on disk decides, also in a process that lives long.
    "cache_result_in_memory": False,
}
"""For ``@task(cache_policy=PerRequest(...), **CACHED)``."""


class Uncached(TypedDict):
    cache_policy: CachePolicy
    persist_result: bool
    result_storage: StepStorage


UNCACHED: Uncached = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    # Nothing is written there; but for its own default Prefect resolves a path each time.
    "result_storage": CACHED["result_storage"],
}
"""For ``@task(**UNCACHED)``: a step that is done each time it is asked for."""
