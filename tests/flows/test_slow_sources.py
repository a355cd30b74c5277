"""Batches with slow sources: they hold up their own requests, and no others."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from faceid.emulator import Emulator
from faceid.files import sources
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.helpers import ACTION, calls_of, record_of, records
from tests.slow_sources import SlowSources, slow_sources
from tests.waiting import wait_until


@pytest.fixture
def slow(samples: Path) -> Iterator[SlowSources]:
    with slow_sources(samples / "alder.jpg") as found:
        yield found


@pytest.fixture
def soon_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SLOW_SECONDS", 0.2)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "readings"), [("hang", 1), ("second", 2)])
async def test_others_come_to_their_verdicts_while_sources_hang(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    slow: SlowSources,
    soon_slow: None,
    fast: None,
    kind: str,
    readings: int,
):
    """Sources hang when they are checked, or when they are read again for the upload."""
    links = [f"{slow.url}/{kind}/{n}.jpg" for n in range(48)]
    entries = [
        entry(f"s-{n}", resources={"ImageUrl": link, "VideoUrl": "alder.mp4"})
        for n, link in enumerate(links)
    ]
    entries += [entry(f"p-{n}") for n in range(3)]
    manifest = write(samples / "people.jsonl", entries)
    batch = asyncio.create_task(run_batch(manifest, concurrency=8))

    async def has_verdict(request_id: str) -> bool:
        record = await records().load(request_id)
        return record is not None and record.verdict is not None

    for n in range(3):
        await wait_until(lambda n=n: has_verdict(f"p-{n}"), f"the verdict of p-{n}")
    await asyncio.to_thread(slow.wait_for, f"/{kind}/", 48 * readings)
    assert calls_of(emulator) == 3
    assert not batch.done()
    slow.release()
    state, _, lines, _ = await batch
    assert state.message == "completed: 51 verdicts of 51 requests [emulator]"
    assert [line.request_id for line in lines] == [line["request_id"] for line in entries]
    assert calls_of(emulator) == 51


async def test_a_source_that_takes_too_long_fails_its_request_only(
    run_batch: RunBatch,
    emulator: Emulator,
    samples: Path,
    slow: SlowSources,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_SOURCE_SECONDS", "2")
    links = {"ImageUrl": f"{slow.url}/trickle/a.jpg", "VideoUrl": "alder.mp4"}
    manifest = write(samples / "people.jsonl", [entry("s-1", resources=links), entry("p-1")])
    state, _, lines, failures = await run_batch(manifest)
    assert state.message == "partial: 1 verdicts, 1 failed of 2 requests [emulator]"
    assert failures == ["s-1"]
    error = lines[0].error
    assert error is not None
    assert (error.kind, error.code) == ("input", "InvalidResource")
    assert error.message.endswith("could not be read within 2 s (FACEID_SOURCE_SECONDS)")
    assert slow.url not in lines[0].model_dump_json()
    assert calls_of(emulator) == 1


async def test_a_source_may_become_slow_during_the_delivery(
    run_deliver: Deliver,
    emulator: Emulator,
    slow: SlowSources,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FACEID_SOURCE_SECONDS", "2")
    monkeypatch.setenv("FACEID_RESOURCE_ROOTS", "/,http://")
    links = {"ImageUrl": f"{slow.url}/second/a.jpg", "VideoUrl": "alder.mp4"}
    _, result, _ = await run_deliver(resources=links)
    assert result.error is not None
    assert result.error.code == "InvalidResource"
    assert calls_of(emulator, ACTION) == 0
    slow.release()
    _, result, _ = await run_deliver(resources=links)
    assert result.status == "verdict"
    assert (await record_of()).verdict is not None
