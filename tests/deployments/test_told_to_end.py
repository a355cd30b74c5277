"""Commands that are told to end, or whose output breaks: what is in flight comes home."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faceid.emulator import Emulator
from tests.deployments.command_line import DELIVER, deliver_tokens
from tests.waiting import until

ACTION = "VideoLivenessCompare"
REQUEST_ID = str(DELIVER["--request-id"])

pytestmark = pytest.mark.long

Start = Callable[..., "subprocess.Popen[str]"]


def calls(emulator: Emulator) -> int:
    return emulator.stats()["calls"].get(ACTION, 0)


@pytest.fixture
def start(prefect_api: str, emulator: Emulator, samples: Path) -> Start:
    """A function that starts the ``faceid`` command."""

    def begin(
        *tokens: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        before: Callable[[], None] | None = None,
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "faceid", *tokens],
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            text=True,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=before,  # noqa: PLW1509 - the rule is about threads
        )

    return begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_call_in_flight_comes_home(start: Start, emulator: Emulator, number: signal.Signals):
    emulator.add_fault(ACTION, "delay:2")
    deliver = start(*deliver_tokens())
    until(lambda: calls(emulator), "the call")
    deliver.send_signal(number)
    out, err = deliver.communicate()
    assert deliver.returncode == 130
    assert json.loads(out)["verdict"]["passed"] is True
    assert "stopping: 1 call in flight, up to 65 seconds to end; interrupt again to cut off" in err
    assert "Crash detected" not in err
    assert "Traceback" not in err
    again = start(*deliver_tokens())
    assert json.loads(again.communicate()[0])["calls"] == 1
    assert again.returncode == 0
    assert calls(emulator) == 1


def test_a_call_that_is_cut_off_is_named(start: Start, emulator: Emulator):
    emulator.add_fault(ACTION, "delay:120")
    deliver = start(*deliver_tokens())
    until(lambda: calls(emulator), "the call")
    deliver.send_signal(signal.SIGINT)
    assert deliver.stderr
    told = next(line for line in deliver.stderr if "stopping" in line)
    assert "interrupt again" in told
    deliver.send_signal(signal.SIGINT)
    out, err = deliver.communicate()
    assert (deliver.returncode, out) == (130, "")
    assert f"cut off; the outcome of these calls is unknown: {REQUEST_ID}" in err
    assert "Traceback" not in err
    stopped = start(*deliver_tokens(on_unknown_outcome="stop"))
    assert json.loads(stopped.communicate()[0])["error"]["kind"] == "unknown"
    assert calls(emulator) == 1


def test_before_the_call_it_ends_at_once_and_nothing_is_called(start: Start, emulator: Emulator):
    emulator.add_fault("PutObject", "delay:120", times=0)
    deliver = start(*deliver_tokens())
    until(lambda: emulator.stats()["calls"].get("PutObject"), "the upload")
    deliver.send_signal(signal.SIGTERM)
    out, err = deliver.communicate()
    assert (deliver.returncode, out) == (130, "")
    assert "stopping: no call is in flight" in err
    assert "cancelled: no call is in flight; the same request goes on from here" in err
    assert "Traceback" not in err
    emulator.clear_faults()
    assert start(*deliver_tokens()).wait() == 0
    assert calls(emulator) == 1


def test_who_ignores_hangups_goes_on(start: Start, emulator: Emulator):
    emulator.add_fault(ACTION, "delay:2")
    deliver = start(*deliver_tokens(), before=ignore_hangups)
    until(lambda: calls(emulator), "the call")
    deliver.send_signal(signal.SIGHUP)
    out, err = deliver.communicate()
    assert deliver.returncode == 0
    assert json.loads(out)["status"] == "verdict"
    assert "stopping" not in err


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_batch_lets_its_calls_come_home_and_goes_on(
    start: Start, emulator: Emulator, manifest: Callable[..., str], samples: Path
):
    emulator.add_fault(ACTION, "delay:1", times=0)
    command = ["batch", manifest(40), "--concurrency", "4", "--results", "out.jsonl"]
    batch = start(*command)
    until(lambda: calls(emulator) >= 4, "four calls")
    batch.send_signal(signal.SIGINT)
    _, err = batch.communicate()
    assert batch.returncode == 130
    assert "interrupt again to cut off" in err
    assert "Crash detected" not in err
    assert "Traceback" not in err
    done = calls(emulator)
    assert done < 40
    lines = [json.loads(line) for line in (samples / "out.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines].count("verdict") == done
    emulator.clear_faults()
    assert start(*command).wait() == 0
    assert calls(emulator) == 40
    assert len((samples / "out.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_ended_stops_a_batch_quietly(
    start: Start, emulator: Emulator, manifest: Callable[..., str], both: bool
):
    emulator.add_fault(ACTION, "delay:1", times=0)
    reader, writer = os.pipe()
    stderr = writer if both else subprocess.PIPE
    batch = start("batch", manifest(40), "--concurrency", "4", stdout=writer, stderr=stderr)
    os.close(writer)
    with os.fdopen(reader) as lines:
        lines.readline()
    _, err = batch.communicate()
    assert batch.returncode == 4
    done = calls(emulator)
    assert done < 40
    if not both:
        assert "stopping: " in err
        assert "Traceback" not in err
        assert "BrokenPipe" not in err
    emulator.clear_faults()
    assert start("batch", manifest(40)).wait() == 0
    assert calls(emulator) == 40


def test_a_full_disk_stops_a_batch_with_one_line(
    start: Start, emulator: Emulator, manifest: Callable[..., str], samples: Path
):
    emulator.add_fault(ACTION, "delay:1", times=0)
    # Writing to this device fails like writing to a full disk.
    (samples / "full.jsonl").symlink_to("/dev/full")
    command = ["batch", manifest(40), "--concurrency", "4", "--results", "full.jsonl"]
    batch = start(*command)
    _, err = batch.communicate()
    assert batch.returncode == 4
    assert err.count("full.jsonl: cannot be written (No space left on device)") == 1
    assert "Traceback" not in err
    assert Path("/dev/full").is_char_device()
    emulator.clear_faults()
    assert start("batch", manifest(40)).wait() == 0
    assert calls(emulator) == 40


def test_a_verdict_is_a_success_although_nobody_reads_it(start: Start, emulator: Emulator):
    reader, writer = os.pipe()
    os.close(reader)
    deliver = start(*deliver_tokens(), stdout=writer)
    os.close(writer)
    _, err = deliver.communicate()
    assert deliver.returncode == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_the_emulator_survives_its_terminal(tmp_path: Path):
    ready = tmp_path / "ready"
    emulator = subprocess.Popen(
        [sys.executable, "-m", "faceid", "emulator", "--port", "0", "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
        preexec_fn=ignore_hangups,  # noqa: PLW1509 - the rule is about threads
    )
    until(ready.exists, "the emulator")
    emulator.send_signal(signal.SIGHUP)
    emulator.send_signal(signal.SIGTERM)
    assert emulator.wait() == 0
