"""Storage that was restored from a backup older than the last calls: who tells, and who waits."""

import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio import run_process
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from pydantic import SecretStr

from deployments.checks.records import check_records
from deployments.checks.results import CheckResult
from faceid.emulator import Emulator
from flows.server.runs import list_runs
from flows.upkeep import restored
from tasks.credentials import TencentCredentials
from tasks.settings import DeliverySettings
from tests.docs.pages import ROOT, blocks
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, swept
from tests.flows.forgetting import forgotten
from tests.flows.helpers import ACTION, calls_of
from tests.flows.sweeping import PASSED
from tests.tasks.spilled_answers import open_both, spilled
from tests.waiting import wait_until

Die = Callable[..., Coroutine[Any, Any, UUID]]

ALL_KNOWN = "lack none of the newest calls of Prefect's runs; compared: "
OLDER = "older than runs with a verdict or an unknown outcome, for "


@pytest.fixture(autouse=True)
async def alone(
    prefect_api: str, nothing_crashed_before: None, settles_soon: None, fast: None
) -> None:
    """Take the tags from runs of other tests, whose storages are gone, so that nobody finds them.

    They are not deleted, because the server might not have written down all of their steps yet.
    """
    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=["service:emulator"]))
    async with get_client() as client:
        for run in await list_runs(client, ["deliver", "deliver-shard"], ours):
            await client.update_flow_run(run.id, tags=[])


@pytest.fixture
def storage(samples: Path) -> Path:
    return samples / "storage"


def back_up(storage: Path) -> None:
    shutil.copytree(storage, storage.with_name("backup"))


def restore(storage: Path) -> None:
    shutil.rmtree(storage)
    storage.with_name("backup").rename(storage)


async def check() -> CheckResult:
    (found,) = await check_records(DeliverySettings.load())
    assert found.check == "records"
    return found


async def test_a_verdict_that_the_backup_lacks_is_named(run_deliver: Deliver, storage: Path):
    assert (await check()).message == "no run tells of a call"
    await run_deliver(request_id="before")
    back_up(storage)
    for number in range(4):
        await run_deliver(request_id=f"after-{number}")
    found = await check()
    assert (found.status, found.requests) == ("ok", ())
    assert found.message == ALL_KNOWN + "5"
    restore(storage)
    found = await check()
    assert found.status == "warning"
    assert found.message == OLDER + "4 requests: after-3, after-2, after-1, …"
    assert found.requests == ("after-3", "after-2", "after-1", "after-0")
    assert "Restored from a backup" in found.advice


async def test_older_runs_are_compared_while_any_are_missing(
    run_deliver: Deliver, storage: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(restored, "PAGE", 2)
    await run_deliver(request_id="oldest")
    await run_deliver(request_id="old")
    await run_deliver(request_id="older")
    back_up(storage)
    for number in range(3):
        await run_deliver(request_id=f"after-{number}")
    assert (await check()).message == ALL_KNOWN + "2"
    restore(storage)
    assert (await check()).requests == ("after-2", "after-1", "after-0")


async def test_a_record_copied_while_its_run_was_at_work_is_named(
    worker: Worker, storage: Path, die: Die, emulator: Emulator
):
    await die()
    back_up(storage)
    assert await swept() == "1 marked Crashed, 1 scheduled"
    assert (await worker.work(worker.newest()["id"])).message == PASSED
    assert (await check()).status == "ok"
    restore(storage)
    found = await check()
    assert found.message.endswith(f", for 1 request: {worker.request_id}")

    # The sweep leaves it to a person, however often it looks.
    before = worker.chain()
    for _ in range(2):
        assert await swept() == "1 older than their runs"
    assert worker.chain() == before
    assert (await check()).requests == (worker.request_id,)
    # Somebody decides to call again.
    assert (await worker.deliver()).message == PASSED
    assert calls_of(emulator) == 2
    assert (await check()).status == "ok"


async def test_another_accounts_verdict_holds_nothing_up(
    worker: Worker, die: Die, emulator: Emulator
):
    block = TencentCredentials(
        secret_id=emulator.secret_id, secret_key=SecretStr(emulator.secret_key), account="other"
    )
    await block.asave("other-account", overwrite=True)
    await die()
    assert (await worker.deliver(credentials="other-account")).message == PASSED
    assert await swept() == "1 marked Crashed, 1 scheduled"


async def test_a_call_without_an_answer_is_named(
    run_deliver: Deliver, emulator: Emulator, storage: Path
):
    await run_deliver(request_id="before")
    back_up(storage)
    emulator.add_fault(ACTION, "commit-then-reset")
    _, result, _ = await run_deliver(request_id="after", on_unknown_outcome="stop")
    assert result.error
    assert result.error.kind == "unknown"
    assert (await check()).status == "ok"
    restore(storage)
    assert (await check()).requests == ("after",)


async def test_the_sweep_does_not_repeat_a_call_without_an_answer(
    worker: Worker, storage: Path, die: Die, emulator: Emulator
):
    await die(await worker.trigger(on_unknown_outcome="stop"))
    back_up(storage)
    assert await swept() == "1 marked Crashed, 1 scheduled"
    emulator.add_fault(ACTION, "commit-then-reset")
    state = await worker.work(worker.newest()["id"])
    assert (state.message or "").startswith("outcome-unknown")
    restore(storage)
    assert await swept() == "1 older than their runs"
    assert (await check()).requests == (worker.request_id,)


@pytest.mark.parametrize("keep_verdict", [False, True])
async def test_what_is_forgotten_raises_no_alarm(run_deliver: Deliver, keep_verdict: bool):
    await run_deliver(request_id="kept")
    await run_deliver(request_id="gone")
    await forgotten("gone", keep_verdict=keep_verdict)
    assert (await check()).message == ALL_KNOWN + "1"


async def test_a_storage_that_knows_nothing(run_deliver: Deliver, storage: Path):
    await run_deliver(request_id="r-1")
    shutil.rmtree(storage)
    found = await check()
    assert (found.status, found.requests) == ("warning", ("r-1",))
    assert found.message == "none knows of the calls of Prefect's runs, for 1 request: r-1"
    assert found.advice.startswith("check FACEID_STORAGE")


async def test_requests_of_a_batch_are_named(
    run_batch: RunBatch, samples: Path, storage: Path, emulator: Emulator
):
    await run_batch(write(samples / "before.jsonl", [entry("b-1"), entry("b-2")]))
    back_up(storage)
    await run_batch(write(samples / "after.jsonl", [entry("a-1"), entry("a-2")]))

    async def all_written() -> bool:  # the server writes task runs in groups
        return (await check()).message == ALL_KNOWN + "4"

    await wait_until(all_written, "the steps of both batches")
    restore(storage)
    found = await check()
    assert (found.status, sorted(found.requests)) == ("warning", ["a-1", "a-2"])
    await forgotten("a-1", "b-1")
    assert sorted((await check()).requests) == ["a-1", "a-2"]  # no record tells of its batch
    await run_batch(write(samples / "after.jsonl", [entry("a-1"), entry("a-2")]))
    assert calls_of(emulator) == 6
    assert (await check()).status == "ok"


async def test_a_spilled_answer_whose_record_is_missing_is_named(
    emulator: Emulator, storage: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_SPILL", str(storage.with_name("spill")))
    store, spill = open_both()
    back_up(storage)
    await spilled(store, spill, storage)
    assert (await check()).status == "ok"
    restore(storage)
    answer, runs = await check_records(DeliverySettings.load())
    assert (answer.status, answer.requests, runs.status) == ("warning", ("r-1",), "ok")
    assert answer.message == "the storage does not know 1 request with a spilled answer: r-1"
    assert "FACEID_SPILL" in answer.advice

    # The page has a program that stores it.
    (program,) = (b for b in blocks(ROOT / "docs" / "operations.md") if b.language == "python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    await run_process([sys.executable, "-c", program.text], env=environment)
    assert (await check()).status == "ok"
    assert await swept() == "1 spilled answers stored"
    record = await store.load("r-1")
    assert record is not None
    assert record.verdict is not None
    assert spill.all() == []
