"""The ``faceid`` command: for bad input it prints one line, exits with 2 and sends nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.commands.deliver import exit_code
from deployments.commands.local_run import local_run
from deployments.stack import free_port
from faceid.command import _interrupt, one_line  # pyright: ignore[reportPrivateUsage]
from faceid.emulator import Emulator
from faceid.errors import InvalidInput, StorageError
from faceid.models import DeliveryResult, ResultError, Verdict
from tests.deployments.command_line import Ended, deliver_tokens
from tests.flows.helpers import calls_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resource": ["ImageUrl=none.jpg", "VideoUrl=alder.mp4"]}, "ImageUrl: there is no such"),
        ({"action": "Guess"}, "there is no target action 'Guess'"),
        ({"resource": ["ImageUrl=alder.jpg"]}, "resource VideoUrl is missing"),
        ({"param": ["LivenessType=WINK"]}, "LivenessType must be LIP or ACTION or SILENT"),
        ({"param": ["LivenessType"]}, "--param must be NAME=VALUE"),
        ({"param": ["A=1", "A=2"]}, "--param A is given twice"),
        ({"resource": ["ImageUrl"]}, "--resource must be NAME=VALUE"),
        ({"region": "ap-tokyo"}, "region 'ap-tokyo'"),
        ({"region": None}, "the region is missing: VideoLivenessCompare can be used in ap-bang"),
        ({"resource": ["ImageUrl=alder.mp4", "VideoUrl=alder.mp4"]}, "the file is not JPG or PNG"),
        ({"resource": ["ImageUrl=large.jpg", "VideoUrl=alder.mp4"]}, "the file is larger than"),
        ({"request_id": "r/1"}, "request_id: must be"),
        ({"request_id": None}, "--request-id is missing: see faceid deliver --help"),
        ({"resource": None}, "--resource is missing: see faceid deliver --help"),
        ({"max_windows": "0"}, "--max-windows must be 1 to 1000"),
        ({"max_windows": "1001"}, "--max-windows must be 1 to 1000"),
        ({"max_windows": "many"}, "--max-windows"),
        ({"on_unknown_outcome": "cry"}, "--on-unknown-outcome"),
        ({"nonsense": "1"}, "--nonsense"),
    ],
)
def test_bad_input_gets_one_line_and_nothing_is_sent(
    faceid: Callable[..., Ended], emulator: Emulator, changes: dict[str, Any], message: str
):
    Path("large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(3_000_000))
    code, out, err = faceid(*deliver_tokens(**changes))
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert emulator.requests() == []


def test_a_file_that_is_not_there_is_told_with_its_path(
    faceid: Callable[..., Ended], emulator: Emulator
):
    code, _, err = faceid(*deliver_tokens(resource=["ImageUrl=none.jpg", "VideoUrl=alder.mp4"]))
    assert code == 2
    missing = Path("none.jpg").absolute()
    assert err == (
        f"faceid: InvalidResource: resource ImageUrl: there is no such file: {missing}\n"
    )


def test_a_secret_in_the_location_of_a_file_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    error = InvalidInput("InvalidResource", "resource ImageUrl: there is no such file")
    error.location = "s3://me:topsecret@bucket/none.jpg?q-signature=topsecret"
    assert one_line(error).startswith("InvalidResource: resource ImageUrl: there is no such file: ")
    assert "topsecret" not in one_line(error)


def test_missing_credentials_get_one_line(
    faceid: Callable[..., Ended], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TENCENTCLOUD_SECRET_ID")
    code, _, err = faceid(*deliver_tokens())
    assert code == 2
    assert "TENCENTCLOUD_SECRET_ID is not set" in err
    assert err.count("\n") == 1
    assert emulator.requests() == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FACEID_ENDPOINT": "nowhere"}, "FACEID_ENDPOINT: must look like https://host"),
        ({"FACEID_SPILL": "s3://bucket/spill"}, "FACEID_SPILL: must be the absolute"),
        ({"FACEID_RATES": "fast"}, "FACEID_RATES: must be JSON"),
        ({"FACEID_ACTIONS": "none.json"}, "FACEID_ACTIONS: cannot read none.json"),
    ],
)
def test_a_bad_setting_gets_one_line(
    faceid: Callable[..., Ended],
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = faceid(*deliver_tokens())
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("tokens", "environment", "message"),
    [
        (["up"], {}, "choose a service: --emulator, or --live"),
        (["up", "--live"], {}, "TENCENTCLOUD_SECRET_ID is not set"),
        (["up", "--live", "--emulator"], {}, "exclude each other"),
        (
            ["up", "--live"],
            {"FACEID_ENDPOINT": "http://127.0.0.1:1"},
            "--live, but FACEID_ENDPOINT is 127.0.0.1:1",
        ),
        (["up"], {"FACEID_ENDPOINT": "http://127.0.0.1:1"}, "TENCENTCLOUD_SECRET_ID is not set"),
        (["demo", "--items", "0"], {}, "--items must be 1 or more"),
        (["emulator", "--rates", "fast"], {}, "--rates: must be JSON"),
        (["emulator", "--window", "-5"], {}, "WINDOW"),
        (["emulator"], {"FACEID_EMULATOR_PORT": "high"}, "FACEID_EMULATOR_PORT"),
        (["frobnicate"], {}, "frobnicate"),
        (["status"], {}, "give one or more request IDs"),
    ],
)
def test_a_bad_command_gets_one_line(
    faceid: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tokens: list[str],
    environment: dict[str, str],
    message: str,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = faceid(*tokens)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_taken_port_gets_one_line(faceid: Callable[..., Ended], emulator: Emulator):
    port = emulator.url.rpartition(":")[2]
    for tokens in (["up", "--emulator", "--port", port], ["emulator", "--port", port]):
        code, _, err = faceid(*tokens)
        assert code == 2
        assert port in err
        assert err.count("\n") == 1


def test_help_explains_itself(faceid: Callable[..., Ended]):
    code, out, _ = faceid("--help")
    assert code == 0
    for command in ("demo", "up", "deliver", "emulator"):
        assert command in out
    code, out, _ = faceid("deliver", "--help")
    assert code == 0
    assert "--on-unknown-outcome" in out
    code, out, _ = faceid("emulator", "--help")
    assert code == 0
    assert "such as FACEID_EMULATOR_PORT." in " ".join(out.split())


def _result(**fields: Any) -> DeliveryResult:
    return DeliveryResult.model_validate(
        {
            "request_id": "r-1",
            "service": "emulator",
            "status": "failed",
            "target_action": "VideoLivenessCompare",
            "started_at": 0,
            "finished_at": 1,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fields", "require_passed", "code"),
    [
        ({"status": "verdict", "verdict": Verdict(passed=True, result="Success")}, True, 0),
        ({"status": "verdict", "verdict": Verdict(passed=False, result="x")}, False, 0),
        ({"status": "verdict", "verdict": Verdict(passed=False, result="x")}, True, 3),
        ({"status": "verdict", "verdict": Verdict(passed=None, result=None)}, True, 0),
        ({"status": "waiting"}, False, 4),
        ({"error": ResultError(code="c", message="m", kind="input")}, False, 2),
        ({"error": ResultError(code="c", message="m", kind="account"), "windows": 1}, False, 1),
        ({"error": ResultError(code="c", message="m", kind="unavailable")}, False, 1),
    ],
)
def test_exit_codes(fields: dict[str, Any], require_passed: bool, code: int):
    assert exit_code(_result(**fields), require_passed=require_passed) == code


def test_deliver_prints_the_result_object(
    faceid: Callable[..., Ended], emulator: Emulator, prefect_api: str
):
    code, out, err = faceid(*deliver_tokens())
    assert code == 0
    result = DeliveryResult.model_validate_json(out)
    assert result.status == "verdict"
    assert result.verdict is not None
    assert result.verdict.passed is True
    assert "2 files to VideoLivenessCompare, emulator service" in err

    emulator.add_fault("VideoLivenessCompare", "result:FailedOperation.SilentThreshold")
    code, out, _ = faceid(*deliver_tokens(request_id="r-2"), "--require-passed")
    assert code == 3
    assert json.loads(out)["verdict"]["passed"] is False


def test_an_outage_is_told_at_the_first_attempt(
    faceid: Callable[..., Ended],
    emulator: Emulator,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
):
    host = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("FACEID_ENDPOINT", f"http://{host}")
    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "1")
    code, out, err = faceid(*deliver_tokens())
    assert code == 4
    assert json.loads(out)["status"] == "waiting"
    # Two tickets are requested at the same time. The retries are told once.
    told = f"ConnectError: cannot connect ({host}); trying again for up to about 1 s"
    assert err.count("trying again") == err.count(told) == 1
    assert "r-1 is waiting: the same command continues it" in err

    monkeypatch.setenv("FACEID_WAIT_IN_RUN", "0")
    assert "trying again" not in faceid(*deliver_tokens()).err


def test_a_conflict_is_refused_before_a_server_is_started(
    faceid: Callable[..., Ended],
    emulator: Emulator,
    prefect_api: str,
    samples: Path,
):
    assert faceid(*deliver_tokens()).code == 0
    sent = emulator.requests()
    other = ["ImageUrl=birch.jpg", "VideoUrl=birch.mp4"]
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, out, err = faceid(*deliver_tokens(resource=other))
    assert (code, out) == (2, "")
    assert "RequestIdConflict: request r-1 already has a different input" in err
    assert err.count("\n") == 1
    assert emulator.requests() == sent

    # The same files elsewhere are the same input.
    (samples / "copy.jpg").write_bytes((samples / "alder.jpg").read_bytes())
    same = ["ImageUrl=copy.jpg", "VideoUrl=alder.mp4"]
    assert faceid(*deliver_tokens(resource=same)).code == 0
    assert calls_of(emulator) == 1


def test_a_wrong_key_says_the_code_and_what_to_do(
    faceid: Callable[..., Ended],
    emulator: Emulator,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", "AKIDnobodyKnowsThisOne00000000000000")
    code, out, err = faceid(*deliver_tokens())
    assert code == 1  # the request for a ticket was sent
    assert json.loads(out)["error"]["code"] == "AuthFailure.SecretIdNotFound"
    assert "Check TENCENTCLOUD_SECRET_ID" in err


def test_the_emulator_runs_as_a_command(tmp_path: Path):
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "faceid", "emulator", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--ready-file", str(ready)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        line = json.loads(process.stdout.readline())
        assert set(line) == {"url", "secret_id", "secret_key"}
        assert json.loads(ready.read_text()) == line
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.usefixtures("prefect_api")
def test_an_error_of_the_server_in_a_flow_is_no_traceback(caplog: pytest.LogCaptureFixture):
    @flow
    async def asking() -> None:
        async with get_client() as client:
            await client.read_flow_runs(limit=100_000)  # more than the server allows

    with pytest.raises(StorageError, match=r"the Prefect server failed \(422"):
        local_run(asking)
    assert caplog.text == ""


@pytest.mark.usefixtures("prefect_api")
def test_an_error_of_the_server_in_mid_run_is_told_as_one_of_ours():
    async def run() -> None:
        async with get_client() as client:
            await client.read_flow_runs(limit=100_000)  # more than the server allows

    with pytest.raises(StorageError, match=r"a call to the Prefect server failed \(422"):
        local_run(run)


@pytest.mark.usefixtures("prefect_api")
def test_a_server_that_has_gone_since_is_told_as_one_of_ours():
    @flow
    async def nothing() -> None:
        pass

    async def run() -> None:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
            await nothing()

    with pytest.raises(StorageError, match=r"the Prefect server failed \(no answer, or an"):
        local_run(run)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Handle SIGTERM as the command does."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("prefect_api", "interrupts")
def test_sigterm_while_a_flow_begins_is_like_ctrl_c():
    @flow
    async def beginning() -> None:
        # From a thread, while the event loop waits and no task is at work.
        await asyncio.to_thread(os.kill, os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        local_run(beginning)
