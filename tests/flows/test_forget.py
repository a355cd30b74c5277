"""Forgetting erases everything that is stored about a request, and nothing else."""

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Running
from pydantic import SecretStr

from faceid.emulator import Emulator
from faceid.errors import StorageError
from flows.forget import Forgotten, Left, open_forgetting
from flows.server import runs
from tasks.credentials import TencentCredentials
from tasks.settings import DeliverySettings
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, next_run, swept
from tests.flows.forgetting import forgotten, forgotten_of_old, is_there, one_run
from tests.flows.helpers import (
    ACTION,
    REFUSES_THE_FILE,
    calls_of,
    nobody_at_work,
    record_file,
    record_of,
    records,
    start_deliver,
    steps_of,
)
from tests.flows.traces import documents_with, files_with, rows_with
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("settles_soon")


async def test_nothing_of_a_request_is_left_anywhere(
    worker: Worker, emulator: Emulator, samples: Path
):
    mark = uuid4().hex[:12]
    for name in ("alder.jpg", "alder.mp4"):
        shutil.copy(samples / name, samples / f"{mark}-{name}")
    mine: dict[str, Any] = {
        "resources": {"ImageUrl": f"{mark}-alder.jpg", "VideoUrl": f"{mark}-alder.mp4"},
        "save_files_to": "saved",
    }
    done, failed, waiting, other = (f"{worker.request_id}-{i}" for i in ("d", "f", "w", "o"))
    await worker.deliver(request_id=other, save_files_to="saved")
    # Delivered twice, and triggered once more.
    await worker.deliver(request_id=done, **mine)
    await worker.deliver(request_id=done, **mine)
    await worker.trigger(request_id=done, **mine)
    # Failed twice, the second time with another input and in a second window.
    emulator.add_fault(ACTION, REFUSES_THE_FILE, times=2)
    await worker.deliver(request_id=failed, **mine)
    birch = {"ImageUrl": "birch.jpg", "VideoUrl": f"{mark}-alder.mp4"}
    await worker.deliver(request_id=failed, resources=birch)
    # Left to a follow-up.
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver(request_id=waiting, **mine))

    verdict = await record_of(done)
    assert verdict.reply
    answers = [verdict.reply.fields["BestFrame"]["Url"].partition("?")[0]]
    for request_id in (done, failed, waiting):
        record = await record_of(request_id)
        answers += record.tencent_request_ids
        answers += [run.flow_run_id for run in record.runs]
    texts = [mark, done, failed, waiting, follow_up, *answers]
    # Check the search: each text can be found somewhere by now.
    await APILogHandler.aflush()
    a_run = (await record_of(failed)).runs[0].flow_run_id

    async def is_written_down() -> bool:
        return {"log.flow_run_id", "task_run.flow_run_id", "flow_run.id"} <= rows_with(a_run)

    await wait_until(is_written_down, "logs and steps in the database")
    for text in texts:
        assert rows_with(text) | set(documents_with(text)), text
    assert files_with(done, samples / "saved") == [samples / "saved" / f"{done}.BestFrame.jpg"]

    assert await forgotten(done, failed, waiting) == [
        Forgotten(done, flow_runs=3, saved_files=1, cached_steps=4, verdict_kept=False),
        Forgotten(failed, flow_runs=2, saved_files=0, cached_steps=8, verdict_kept=False),
        Forgotten(waiting, flow_runs=2, saved_files=0, cached_steps=4, verdict_kept=False),
    ]

    for text in texts:
        assert rows_with(text) == set(), text
        assert documents_with(text) == [], text
        assert files_with(text, samples / "storage") == [], text
        assert files_with(text, samples / "saved") == [], text
    # The caller's own files are kept, and so is everything of another request.
    assert (samples / f"{mark}-alder.jpg").exists()
    assert files_with(other, samples / "saved") == [samples / "saved" / f"{other}.BestFrame.jpg"]
    store = records()
    names = [
        name for folder in ("records", "open", "cache") for name in store.storage.names(folder)
    ]
    assert len(names) == 1 + 4
    assert list((samples / "storage" / "locks").iterdir()) == []
    kept = await record_of(other)
    assert kept.verdict
    async with get_client() as client:
        run = await client.read_flow_run(UUID(kept.runs[0].flow_run_id))
    assert len(await steps_of(run, 7)) == 7
    assert worker.result(run.id).status == "verdict"


async def test_a_forgotten_request_is_delivered_anew(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    await run_deliver(request_id=request_id)
    before = await record_of(request_id)
    assert await forgotten(request_id) == [one_run(request_id, steps=4)]
    _, result, run = await run_deliver(request_id=request_id)
    assert (result.status, result.windows, result.calls) == ("verdict", 1, 1)
    assert set((await steps_of(run, 6)).values()) == {"Completed"}
    assert calls_of(emulator) == 2
    assert (await record_of(request_id)).generation != before.generation


async def test_other_runs_keep_their_steps_when_one_is_forgotten_at_once(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    # The server writes the task runs of both runs in one batch: see SETTLING_SECONDS.
    _, _, run = await run_deliver(request_id=f"{request_id}-2")
    await run_deliver(request_id=request_id)
    assert await forgotten(request_id) == [one_run(request_id, steps=4)]
    assert len(await steps_of(run, 6)) == 6


async def test_a_request_at_work_is_left_alone_and_others_are_not(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    other = f"{request_id}-2"
    _, _, run = await run_deliver(request_id=request_id)
    await run_deliver(request_id=other)
    async with nobody_at_work(request_id):
        left, done, unknown = await forgotten(request_id, other, "nobody")
    assert left == Left(
        "AtWork", f"a run is at work on {request_id}: wait for its end, or cancel it"
    )
    assert done == one_run(other, steps=4)
    assert unknown == Left("Unknown", "nothing is known about nobody")
    assert (await record_of(request_id)).reply
    assert await is_there(run.id)


async def test_what_cannot_be_read_is_left_alone(
    run_deliver: Deliver, emulator: Emulator, samples: Path, request_id: str
):
    _, _, run = await run_deliver(request_id=request_id)
    store = records()
    record_file(samples / "storage").write_text("damaged")
    for found in (await forgotten(request_id), await forgotten_of_old()):
        (left,) = found
        assert isinstance(left, Left)
        assert left.code == "DamagedDocument"
        assert store.name(request_id) in left.reason
    assert await is_there(run.id)
    assert len(list(store.storage.names("cache"))) == 4


async def test_nothing_is_removed_when_the_server_does_not_answer(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    _, _, run = await run_deliver(request_id=request_id)
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(StorageError, match=r"ConnectError.*Check PREFECT_API_URL"),
    ):
        await forgotten(request_id)
    # Nor is anything removed if the server becomes unreachable in between.
    async with open_forgetting(DeliverySettings.load(), keep_verdict=False) as forgetting:
        async with get_client() as strict_schema:
            pass
        assert forgetting.runs
        forgetting.runs.client = strict_schema
        (left,) = [one async for one in forgetting.each(records(), [request_id])]
    assert isinstance(left, Left)
    assert left.code == "PrefectUnavailable"
    assert (await record_of(request_id)).reply
    assert await is_there(run.id)


async def test_without_a_server_runs_are_left_and_all_else_goes(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    _, _, run = await run_deliver(request_id=request_id)
    settings = DeliverySettings.load()
    async with open_forgetting(settings, keep_verdict=False, has_server=False) as forgetting:
        done = await forgetting.forget(records(), request_id)
    assert done == Forgotten(request_id, 0, 0, 4, verdict_kept=False)
    assert documents_with(request_id) == []
    assert await is_there(run.id)
    # With a server the runs are deleted, although no record names them any more.
    assert await forgotten(request_id) == [one_run(request_id)]


async def test_a_follow_up_never_runs(worker: Worker, emulator: Emulator):
    emulator.add_fault(ACTION, "expire-now")
    follow_up, _ = next_run(await worker.deliver())
    (done,) = await forgotten(worker.request_id)
    assert isinstance(done, Forgotten)
    assert done.flow_runs == 2
    assert not await is_there(follow_up)
    await swept()
    assert worker.chain() == []
    assert rows_with(worker.request_id) == set()


async def test_runs_that_did_not_come_to_be_tagged_are_found(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs, "PAGE", 2)
    request_id = worker.request_id
    triggered = [await worker.trigger() for _ in range(7)]
    cancelled, died, renamed, of_live, *_ = triggered
    async with get_client() as client:
        await client.set_flow_run_state(cancelled, Cancelled())
        for run_id, name in ((died, f"deliver {request_id}"), (renamed, "renamed")):
            await worker.taken(run_id)
            await client.set_flow_run_state(run_id, Running())
            await client.update_flow_run(run_id, name=name)
        await client.update_flow_run(renamed, tags=[f"request:{request_id}", "service:emulator"])
        await client.update_flow_run(of_live, tags=[f"request:{request_id}", "service:live"])
    other = await worker.trigger(request_id=f"{request_id}-2")
    assert await forgotten(request_id) == [Forgotten(request_id, 6, 0, 0, verdict_kept=False)]
    assert [run_id for run_id in triggered if await is_there(run_id)] == [of_live]
    assert await is_there(other)


async def test_a_request_of_another_account_is_another_request(
    worker: Worker, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    request_id = worker.request_id
    await worker.deliver()
    (first,) = (await record_of(request_id)).runs
    block = TencentCredentials(secret_id="AKID", secret_key=SecretStr("-"), account="third")
    await block.asave(f"third-{request_id[2:]}")
    of_third = await worker.trigger(credentials=f"third-{request_id[2:]}")
    of_nobody = await worker.trigger(credentials="gone")
    monkeypatch.setenv("FACEID_ACCOUNT", "other")
    await worker.deliver()
    (second,) = (await record_of(request_id)).runs
    # A run without a record, whose block is gone, counts as one of the environment's account.
    assert await forgotten(request_id) == [Forgotten(request_id, 2, 0, 4, verdict_kept=False)]
    gone = (second.flow_run_id, of_nobody)
    assert [await is_there(run_id) for run_id in gone] == [False, False]
    assert [await is_there(run_id) for run_id in (first.flow_run_id, of_third)] == [True, True]
    monkeypatch.setenv("FACEID_ACCOUNT", "default")
    assert (await record_of(request_id)).reply
    assert len(list(records().storage.names("cache"))) == 4


async def test_an_artifact_goes_whose_run_was_deleted_in_the_dashboard(
    run_deliver: Deliver, emulator: Emulator, request_id: str
):
    _, _, run = await run_deliver(request_id=request_id)
    await steps_of(run, 6)
    async with get_client() as client:
        await client.delete_flow_run(run.id)
    assert rows_with(request_id) >= {"artifact.data", "artifact_collection.data"}
    async with open_forgetting(DeliverySettings.load(), keep_verdict=False) as forgetting:
        done = await forgetting.forget(records(), request_id)
        assert forgetting.runs
        assert forgetting.runs.unknown == 1
    assert done == Forgotten(request_id, 0, 0, 4, verdict_kept=False)
    assert rows_with(request_id) == set()


async def test_a_file_that_cannot_be_deleted_is_named_and_tried_again(
    run_deliver: Deliver, emulator: Emulator, samples: Path, request_id: str
):
    _, _, run = await run_deliver(request_id=request_id, save_files_to="saved")
    saved = samples / "saved" / f"{request_id}.BestFrame.jpg"
    saved.unlink()
    saved.mkdir()
    (left,) = await forgotten(request_id)
    assert isinstance(left, Left)
    assert left.code == "CannotDelete"
    assert f"cannot delete {saved} (" in left.reason
    # What is deleted before the files is gone, and the record names what is left.
    assert not await is_there(run.id)
    assert (await record_of(request_id)).saved_files == (str(saved),)

    saved.rmdir()
    saved.write_text("a face")
    assert await forgotten(request_id) == [Forgotten(request_id, 0, 1, 4, verdict_kept=False)]
    assert list((samples / "saved").iterdir()) == []
    assert documents_with(request_id) == []


async def test_a_file_that_is_gone_is_counted_as_missing(
    run_deliver: Deliver, emulator: Emulator, samples: Path, request_id: str
):
    await run_deliver(request_id=request_id, save_files_to="saved")
    shutil.rmtree(samples / "saved")
    (samples / "saved").write_text("a file where the folder was")
    async with open_forgetting(DeliverySettings.load(), keep_verdict=False) as forgetting:
        done = await forgetting.forget(records(), request_id)
        assert forgetting.files_missing == 1
    assert done == one_run(request_id, steps=4)


async def test_what_a_killed_run_had_saved_by_half_goes_too(
    prefect_api: str, emulator: Emulator, samples: Path, request_id: str
):
    emulator.add_fault("GetObject", "stall:60", match={"key": "*BestFrame*"})
    process = start_deliver(prefect_api, request_id, "--save-files-to", "saved")
    try:

        async def is_there() -> bool:
            assert process.poll() is None
            begun = any((samples / "saved").glob(f".{request_id}*"))
            return begun and bool(emulator.faults()[0]["fired"])

        await wait_until(is_there, "a partly downloaded file", seconds=60)
    finally:
        process.kill()
        process.communicate()
    (done,) = await forgotten(request_id)
    assert done == one_run(request_id, steps=4)
    assert list((samples / "saved").iterdir()) == []
    assert rows_with(request_id) == set()


async def test_a_removal_that_was_interrupted_leaves_nothing_open(
    worker: Worker, emulator: Emulator
):
    emulator.add_fault(ACTION, "expire-now")
    await worker.deliver()
    store = records()
    store.storage.remove(store.name(worker.request_id))
    assert documents_with(worker.request_id)
    assert await forgotten(worker.request_id) == [
        Forgotten(worker.request_id, 2, 0, 0, verdict_kept=False)
    ]
    assert documents_with(worker.request_id) == []
