"""``faceid status`` and ``faceid answer``: print what is stored about requests."""

import asyncio
from typing import Any

import orjson

from deployments.commands.block_settings import block_settings
from faceid.command import Exit
from faceid.errors import InvalidInput
from faceid.outputs import print_result, stderr
from tasks.settings import DeliverySettings
from tasks.state.claims import is_locked
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.spill import open_spill
from tasks.state.storage import open_storage


def _store(credentials: str) -> RecordStore:
    settings = block_settings(credentials)
    return RecordStore(open_storage(settings), settings.service, settings.account)


def _print(document: Any) -> None:
    print_result(orjson.dumps(document).decode())


def status(*ids: str, credentials: str = "") -> None:
    """Print the state of requests, one line of JSON for each request.

    The exit code is 1 if nothing is known about one of the requests.

    Parameters
    ----------
    ids
        Request IDs or Tencent request IDs.
    credentials
        Name of the tencent-credentials block in Prefect with which the requests were delivered, if
        any.
    """
    if not ids:
        raise InvalidInput("InvalidRequest", "give one or more request IDs")
    store = _store(credentials)
    unknown = 0
    for request_id in ids:
        record = _find(store, request_id)
        if record is None:
            stderr.print(f"faceid: nothing is known about {request_id}", markup=False)
            unknown += 1
        else:
            _print(_status(record, at_work=asyncio.run(_is_at_work(store, record))))
            _tell_of_spilled(store, record)
    raise Exit(1 if unknown else 0)


def _find(store: RecordStore, given: str) -> Record | None:
    found = asyncio.run(store.load(given))
    if found is not None:
        return found
    # It may be a Tencent request ID. Records are not indexed by Tencent request IDs, so all records
    # are searched.
    return next((record for record in store.all() if given in record.tencent_request_ids), None)


def _tell_of_spilled(store: RecordStore, record: Record) -> None:
    spill = open_spill(DeliverySettings.load(), store.storage)
    if spill.of(store, record.request_id):
        stderr.print(
            f"faceid: an answer to {record.request_id} lies encrypted in {spill.folder}; "
            "the next run of the request or the next sweep on this machine stores it",
            markup=False,
            soft_wrap=True,
        )


async def _is_at_work(store: RecordStore, record: Record) -> bool:
    """Return whether a run is at work on the request, on any machine that shares the locks."""
    return record.outcome is None and await is_locked(
        store, DeliverySettings.load(), record.request_id
    )


def _status(record: Record, *, at_work: bool) -> dict[str, Any]:
    if record.outcome is not None:
        state = record.outcome
    elif at_work:
        state = "at work"
    elif record.intent is not None:
        state = "outcome-unknown"
    else:
        state = "interrupted"  # the request's run died; the next run continues
    fields = "request_id target_action region verdict error tencent_request_ids updated_at"
    stored = record.model_dump(mode="json", include=set(fields.split()))
    first = {name: stored[name] for name in ("request_id", "target_action", "region")}
    shown = {**first, "calls": record.calls, **stored}
    follow_up = record.follow_up and record.follow_up.model_dump(mode="json")
    return {
        "state": state,
        "windows": record.window,
        **shown,
        "flow_runs": [run.model_dump(mode="json", exclude={"calls"}) for run in record.runs],
        "next": follow_up,
    }


def answer(request_id: str, *, credentials: str = "") -> None:
    """Print the stored answer of a request as JSON. It may contain faces and personal data.

    The exit code is 1 if no answer is stored.

    Parameters
    ----------
    request_id
        ID of the request.
    credentials
        Name of the tencent-credentials block in Prefect with which the request was delivered, if
        any.
    """
    record = asyncio.run(_store(credentials).load(request_id))
    if record is None or record.reply is None:
        stderr.print(f"faceid: no answer is stored for {request_id}", markup=False)
        raise Exit(1)
    reply = record.reply
    if reply.code is None:
        content = reply.fields
    else:
        content = {"Error": {"Code": reply.code, "Message": reply.message}}
    _print({**content, "RequestId": reply.tencent_request_id})
