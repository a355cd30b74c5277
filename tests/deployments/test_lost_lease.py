"""A process that is stopped for longer than its lease wakes up, and takes nothing from another one.

Real processes, stopped with SIGSTOP, with locks on a Redis server of the test's own.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from faceid.emulator import Emulator
from tasks.settings import DeliverySettings
from tasks.state.file_locks import file_lock
from tasks.state.record_store import RecordStore
from tasks.state.storage import open_storage
from tests.deployments.command_line import deliver_tokens
from tests.redis_server import lock_of_request
from tests.sample_request import REQUEST
from tests.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ACTION = REQUEST["target_action"]


@contextmanager
def delivering(prefect_api: str) -> Generator["subprocess.Popen[str]"]:
    """Run ``faceid deliver`` on the sample request, recorded at the tests' server."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": prefect_api,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "faceid", *deliver_tokens()],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("op", "calls"),
    [
        # Stopped before its call: it must not call after the other one has.
        ("PutObject", 1),
        # Stopped with its call out: the service has two, and both count.
        (ACTION, 2),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_verdict_of_the_one_that_took_over(
    prefect_api: str, emulator: Emulator, own_redis: "Redis", op: str, calls: int
):
    emulator.add_fault(op, "delay:4", times=2 if op == "PutObject" else 1)
    with delivering(prefect_api) as stopped:
        until(lambda: lock_of_request(own_redis), "the lock")
        if op == "PutObject":
            until(lambda: len(emulator.requests(op="CreateUploadUrl")) == 2, "the tickets")
        else:
            store = RecordStore(open_storage(DeliverySettings.load()), "emulator", "default")
            until(lambda: any(r.intent for r in store.all()), "the intent")
        stopped.send_signal(signal.SIGSTOP)
        own_redis.flushall()  # as when its lease has run out, or the server lost its memory
        with delivering(prefect_api) as other:
            out, err = other.communicate(timeout=120)
            assert other.returncode == 0, err
            first = json.loads(out)
        stopped.send_signal(signal.SIGCONT)
        out, err = stopped.communicate(timeout=120)
        assert stopped.returncode == 0, err
        second = json.loads(out)
    assert second["verdict"] == first["verdict"]
    assert emulator.stats()["calls"][ACTION] == calls
    assert second["calls"] == calls
    store = RecordStore(open_storage(DeliverySettings.load()), "emulator", "default")
    (record,) = store.all()
    assert (record.state, record.calls) == ("done", calls)
    assert record.verdict is not None
    assert record.reply is not None
    assert record.reply.tencent_request_id in first["tencent_request_ids"]


@pytest.fixture
def store(emulator: Emulator) -> RecordStore:
    return RecordStore(open_storage(DeliverySettings.load()), "emulator", "default")


def _writing(store: RecordStore) -> Path:
    """Return the path of the lock that is held while the sample request's record is written."""
    folder, name = store.storage.folder, store.name(REQUEST["request_id"])
    assert folder
    return folder / "locks" / hashlib.sha256(f"write {name}".encode()).hexdigest()


@contextmanager
def stopped(pid: int) -> Generator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_run_that_was_stopped_between_its_intent_and_its_call_does_not_call(
    prefect_api: str, emulator: Emulator, own_redis: "Redis", store: RecordStore
):
    emulator.add_fault("PutObject", "delay:4", times=2)
    with delivering(prefect_api) as first:
        key = until(lambda: lock_of_request(own_redis), "the lock")
        until(lambda: len(emulator.requests(op="CreateUploadUrl")) == 2, "the tickets")
        with file_lock(_writing(store), 10):
            paced = f"{{faceid:pace:emulator/default/{ACTION}}}:starts"
            until(lambda: own_redis.exists(paced), "the pacer's leave to call")
            # It now waits to store its intent, and will then ask Redis for its lock.
            keeper = int(own_redis.info("server")["process_id"])
            os.kill(keeper, signal.SIGSTOP)
            address = ("127.0.0.1", urlsplit(os.environ["FACEID_LOCKS"]).port or 0)
            lost = socket.create_connection(address)
            lost.sendall(b"DEL " + key + b"\r\n")  # before all that it asks
        until(lambda: any(record.calls for record in store.all()), "the intent")
        with stopped(first.pid):
            os.kill(keeper, signal.SIGCONT)
            until(lambda: not own_redis.exists(key), "the loss of the lock")
            lost.close()
            assert emulator.stats()["calls"].get(ACTION, 0) == 0
            with delivering(prefect_api) as other:
                out, err = other.communicate(timeout=120)
                assert other.returncode == 0, err
        again, err = first.communicate(timeout=120)
        assert first.returncode == 0, (first.returncode, again, err)
    assert json.loads(again)["verdict"] == json.loads(out)["verdict"]
    assert emulator.stats()["calls"][ACTION] == 1
    (record,) = store.all()
    assert record.state == "done"
    assert record.calls >= 1
