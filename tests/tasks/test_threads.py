"""Records are loaded and saved, however busy the threads of other work are."""

import asyncio
import threading
from pathlib import Path

import anyio.to_thread
import pytest

from tests.tasks.record_saves import new_record
from tests.tasks.test_record_store import open_store


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path))


async def test_a_record_is_saved_while_all_other_threads_are_busy():
    over = threading.Event()
    threads = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    barrier = threading.Barrier(threads + 1)

    def hang() -> None:
        barrier.wait(timeout=90)
        over.wait()

    busy = [asyncio.create_task(anyio.to_thread.run_sync(hang)) for _ in range(threads)]
    try:
        await asyncio.to_thread(barrier.wait, 90)
        store, record = open_store(), new_record()
        await store.save(record)
        assert await store.load(record.request_id) == record
        assert not any(task.done() for task in busy)
    finally:
        over.set()
        await asyncio.gather(*busy)
