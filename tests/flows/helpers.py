"""Helpers for tests of a request's life: its record, task runs and events, and the calls."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, TaskRun

from faceid.emulator import Emulator
from tasks.settings import DeliverySettings
from tasks.state.locks import acquire_lock
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import open_storage
from tests.flows.deliveries import task_runs_of
from tests.sample_request import REQUEST
from tests.waiting import wait_until

ACTION = "VideoLivenessCompare"
REFUSES_THE_FILE = "api:FailedOperation.ImageDecodeFailed"
"""A fault of the target action that ends a run: it is no verdict, and is not retried."""
REFUSES_THE_ACCOUNT = "api:ResourceUnavailable.InArrears"
"""Another such fault, whose reason is not the input."""

OTHER_INPUT: dict[str, Any] = {"resources": {"ImageUrl": "birch.jpg", "VideoUrl": "alder.mp4"}}


def aged(record: Record, hours: float) -> Record:
    """Return the record as if it had last been touched this many hours earlier."""
    touched = record.updated_at - timedelta(hours=hours)
    return record.model_copy(update={"updated_at": touched})


def calls_of(emulator: Emulator, op: str = ACTION) -> int:
    return emulator.stats()["calls"].get(op, 0)


async def called(emulator: Emulator, times: int = 1, op: str = ACTION) -> None:
    """Wait until the service has received ``times`` calls of ``op``."""

    async def look() -> bool:
        return await asyncio.to_thread(calls_of, emulator, op) >= times

    await wait_until(look, f"{times} calls of {op}")


async def steps_of(run: FlowRun, count: int) -> dict[str, str]:
    """Wait until ``count`` task runs of the run have ended, and return their final states by name.

    The names are those that the dashboard shows, in the order in which the task runs started:
    ``{"ticket ImageUrl": "Cached", "check expiry": "Failed, Completed"}``. Fails if there are more.
    """

    async def look() -> list[TaskRun] | None:
        runs = await task_runs_of(run)
        ended = [task for task in runs if task.state and task.state.is_final() and task.start_time]
        return ended if len(ended) >= count else None

    found = await wait_until(look, f"{count} task runs that have ended")
    assert len(found) == count, [task.name for task in found]
    steps: dict[str, str] = {}
    for task in sorted(found, key=lambda task: str(task.start_time)):
        assert task.state
        steps[task.name] = ", ".join(filter(None, (steps.get(task.name), task.state.name)))
    return steps


def records() -> RecordStore:
    settings = DeliverySettings.load()
    return RecordStore(open_storage(settings), settings.service, settings.account)


async def record_of(request_id: str = "r-1") -> Record:
    record = await records().load(request_id)
    assert record is not None
    return record


def record_file(storage: Path) -> Path:
    """Return the path of the only record in the storage."""
    (path,) = (storage / "records").rglob("*.json")
    return path


@asynccontextmanager
async def no_folder(folder: Path) -> AsyncGenerator[None]:
    """Replace the folder by a file, so that nothing below it can be read or written."""
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("a file where the folder should be")
    yield
    assert folder.read_text() == "a file where the folder should be"
    folder.unlink()
    away.rename(folder)


@asynccontextmanager
async def nobody_at_work(request_id: str = "r-1") -> AsyncGenerator[None]:
    """Hold the request's lock, so that runs wait until the context ends."""

    async def refuse() -> None:
        raise AssertionError("somebody is at work")

    store = records()
    assert store.storage.folder
    async with acquire_lock("", store.storage.folder / "locks", store.name(request_id), refuse):
        yield


async def runs_at_work(request_id: str, count: int) -> list[FlowRun]:
    """Wait until exactly ``count`` runs of the request are running, and return them."""

    async def look() -> list[FlowRun] | None:
        tags = FlowRunFilterTags(all_=[f"request:{request_id}"])
        async with get_client() as client:
            runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tags))
        found = [run for run in runs if run.state and run.state.is_running()]
        return found if len(found) == count else None

    return await wait_until(look, f"{count} runs at work")


Start = Callable[..., "subprocess.Popen[str]"]


def deliver_command(request_id: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "faceid", "deliver", "--request-id", request_id]
    command += ["--action", ACTION, "--region", REQUEST["region"], "--param", "LivenessType=SILENT"]
    for field, location in REQUEST["resources"].items():
        command += ["--resource", f"{field}={location}"]
    return command + list(more)


def start_deliver(api_url: str, request_id: str, *more: str) -> "subprocess.Popen[str]":
    """Start ``faceid deliver`` as a separate process."""
    return subprocess.Popen(
        deliver_command(request_id, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PREFECT_API_URL": api_url},
    )


Event = dict[str, Any]


async def told_of(api_url: str, resource_id: str, count: int) -> list[Event]:
    """Wait until a resource has ``count`` events, and return them, oldest first.

    Fails if there are more.
    """
    query = {"filter": {"resource": {"id": [resource_id]}, "order": "ASC"}}

    async def look() -> list[Event] | None:
        async with httpx.AsyncClient(base_url=api_url, timeout=30) as api:
            events = (await api.post("/events/filter", json=query)).json()["events"]
        return events if len(events) >= count else None

    found = await wait_until(look, f"{count} events of {resource_id}")
    assert len(found) == count, [event["event"] for event in found]
    return found
