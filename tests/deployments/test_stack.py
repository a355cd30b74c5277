"""The local stack as real processes: ``demo``, ``up`` and the temporary server."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

from deployments.commands.up import trigger_command
from deployments.stack import MAX_RESTARTS, EmulatorAddress, StackError, child
from faceid.emulator import Emulator
from faceid.models import DeliveryResult
from tests.deployments.command_line import Ended, deliver_tokens
from tests.deployments.stack_processes import assert_all_gone, parts_of_up, running_up
from tests.deployments.triggered_runs import final_state, trigger
from tests.docs.pages import ROOT
from tests.flows.helpers import nobody_at_work
from tests.sample_request import REQUEST
from tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_demo_takes_every_request_to_its_verdict_and_leaves_nothing(tmp_path: Path):
    home = tmp_path / "home"
    temporary = tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    environment.pop("PREFECT_HOME")
    before = {process.pid for process in psutil.process_iter()}

    ended = subprocess.run(
        [sys.executable, "-m", "faceid", "demo", "--items", "3", "--json"],
        capture_output=True,
        env=environment,
        cwd=tmp_path,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    results = [DeliveryResult.model_validate(item) for item in json.loads(ended.stdout)]
    assert [result.request_id for result in results] == ["demo-1", "demo-2", "demo-3"]
    verdicts = [result.verdict and result.verdict.passed for result in results]
    assert verdicts == [True, True, False]
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []
    left = [
        process
        for process in psutil.process_iter()
        if process.pid not in before and _has(process, temporary)
    ]
    assert_all_gone(left)


def _has(process: psutil.Process, temporary: Path) -> bool:
    try:
        return process.environ().get("TMPDIR", "").startswith(str(temporary))
    except psutil.Error:
        return False


@pytest.fixture
def guarded(samples: Path) -> Iterator[dict[str, str]]:
    """The local stack with basic auth, started with a Prefect Cloud key in the environment."""
    with running_up(
        samples, PREFECT_SERVER_API_AUTH_STRING="admin:let me in", PREFECT_API_KEY="pnu_0"
    ) as ready:
        yield ready


def test_up_serves_the_deployment_to_the_api(
    guarded: dict[str, str],
    capfd: pytest.CaptureFixture[str],
):
    ready = guarded
    assert set(ready) == {
        "api_url",
        "dashboard",
        "service",
        "endpoint",
        "secret_id",
        "secret_key",
    }
    assert ready["service"] == "emulator"
    assert "let me in" not in str(ready)
    assert httpx.post(ready["api_url"] + "/flow_runs/filter", json={}).status_code == 401
    stranger = subprocess.run(
        [sys.executable, "-m", "faceid", *deliver_tokens()],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **EmulatorAddress(
                ready["endpoint"], ready["secret_id"], ready["secret_key"]
            ).environment(),
            "PREFECT_API_URL": ready["api_url"],
        },
        check=False,
    )
    assert stranger.returncode == 1
    _, said = stranger.stderr.splitlines()
    assert "a call to the Prefect server failed (401 Unauthorized). Check " in said
    assert "PREFECT_API_AUTH_STRING" in said
    with httpx.Client(base_url=ready["api_url"], auth=("admin", "let me in"), timeout=30) as api:
        dashboard = httpx.get(ready["dashboard"] + "/ui-settings").json()
        assert dashboard["api_url"] == ready["api_url"]
        deployment = api.get("/deployments/name/deliver/default").json()
        assert deployment["entrypoint"] == "flows.deliver.deliver"

        create = f"/deployments/{deployment['id']}/create_flow_run"
        for wrong in (
            {"target_action": "Guess"},
            {"region": "ap-tokyo"},
            {"request_id": "r 1"},
            {"max_windows": 0},
            {"unheard": 1},
        ):
            refused = api.post(create, json={"parameters": REQUEST | wrong})
            assert refused.status_code == 409, wrong

        ended = final_state(api, trigger(api))
        assert ended["type"] == "COMPLETED"
        assert ended["message"] == "verdict: passed, Success [emulator]"
    assert "let me in" not in "".join(capfd.readouterr())


def test_up_refuses_a_password_that_is_empty(faceid: Callable[..., Ended]):
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: ""}):
        code, _, err = faceid("up", "--emulator", "--port", "0")
    assert code == 2
    assert err == (
        "faceid: Configuration: PREFECT_SERVER_API_AUTH_STRING is empty: give user:password, or "
        "unset it\n"
    )


def test_up_looks_after_itself_and_keeps_what_was_made_in_the_dashboard(
    up: Callable[[], dict[str, str]],
):
    def schedules(api: httpx.Client, name: str) -> list[dict[str, Any]]:
        return api.get(f"/deployments/name/{name}/default").json()["schedules"]

    ready = up()
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api:
        (sweep,), (forget,) = schedules(api, "sweep"), schedules(api, "forget")
        assert (sweep["active"], sweep["schedule"]["interval"]) == (True, 180)
        assert (forget["active"], forget["schedule"]["cron"]) == (False, "0 3 * * *")

        def scheduled() -> bool:
            query = {"flows": {"name": {"any_": ["sweep"]}}}
            runs = api.post("/flow_runs/filter", json=query).json()
            swept = [run for run in runs if run["state"]["message"] == "nothing is open"]
            return bool(swept) and any(run["auto_scheduled"] for run in runs)

        until(scheduled, "a sweep at the start, and scheduled sweeps")

        # Changes that users make in the dashboard.
        of_forget = api.get("/deployments/name/forget/default").json()["id"]
        path = f"/deployments/{of_forget}/schedules/{forget['id']}"
        api.patch(path, json={"active": True}).raise_for_status()
        deliver = api.get("/deployments/name/deliver/default").json()["id"]
        daily = [{"schedule": {"cron": "0 6 * * *"}, "active": True, "parameters": REQUEST}]
        api.post(f"/deployments/{deliver}/schedules", json=daily).raise_for_status()

        # A change that the next registration overwrites.
        forget_path = f"/deployments/{of_forget}"
        ours = api.get(forget_path).json()["description"]
        api.patch(forget_path, json={"description": "another checkout's"}).raise_for_status()
        worker = next(
            process for process in parts_of_up() if "deployments.serve" in process.cmdline()
        )
        worker.kill()

        def back() -> bool:
            described = api.get(forget_path).json()["description"] == ours
            return described and len(schedules(api, "sweep")) == 1

        until(back, "a restarted worker and registered deployments")
        assert schedules(api, "forget")[0]["active"] is True
        assert [entry["schedule"]["cron"] for entry in schedules(api, "deliver")] == ["0 6 * * *"]


def test_two_deployed_runs_of_a_request_make_one_set_of_calls(
    up: Callable[[], dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "storage"))
    ready = up()
    monkeypatch.setenv("FACEID_ENDPOINT", ready["endpoint"])
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api, asyncio.Runner() as runner:
        lock = nobody_at_work()
        runner.run(lock.__aenter__())
        runs = [trigger(api), trigger(api)]

        def both_at_work() -> bool:
            replies = [api.get(f"/flow_runs/{run}").json() for run in runs]
            states = [reply["state"] and reply["state"]["type"] for reply in replies]
            return states == ["RUNNING", "RUNNING"]

        until(both_at_work, "two runs in separate processes")
        runner.run(lock.__aexit__(None, None, None))
        ends = [final_state(api, run) for run in runs]
    assert [end["type"] for end in ends] == ["COMPLETED", "COMPLETED"]
    assert {end["message"] for end in ends} == {"verdict: passed, Success [emulator]"}
    calls = httpx.get(ready["endpoint"] + "/_emulator/stats").json()["calls"]
    assert (calls["CreateUploadUrl"], calls["PutObject"]) == (2, 2)
    assert calls["VideoLivenessCompare"] == 1


def test_up_prints_a_command_that_works_and_says_that_it_stops(samples: Path, tmp_path: Path):
    (samples / "alder.jpg").rename(samples / "id-photo.jpg")
    (samples / "alder.mp4").rename(samples / "selfie.mp4")
    log = tmp_path / "up.log"
    with log.open("wb") as output, running_up(samples, output=output):
        said = log.read_text()
        command = said[said.index("PREFECT_API_URL=") : said.index("stop       Ctrl-C")]
        pasted = subprocess.run(
            ["bash", "-c", command], cwd=samples, capture_output=True, text=True, check=False
        )
        assert pasted.returncode == 0, pasted.stdout + pasted.stderr
        assert "finished successfully in 'Completed'" in pasted.stdout
    assert log.read_text().splitlines()[-2:] == ["stopping ...", "stopped"]


def test_up_delivers_samples_only_where_runs_may_read_them(monkeypatch: pytest.MonkeyPatch):
    api_url = "http://127.0.0.1:4200/api"
    monkeypatch.chdir(ROOT)
    assert "faceid/samples/alder.jpg" in trigger_command(api_url, "emulator")
    assert "samples" not in trigger_command(api_url, "live")
    monkeypatch.chdir(ROOT / "docs")
    assert "samples" not in trigger_command(api_url, "emulator")


def test_up_ends_in_order_with_a_run_at_work(up: Callable[[], dict[str, str]]):
    ready = up()
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api:
        fault = {"op": "VideoLivenessCompare", "do": "stall:60"}
        assert httpx.post(ready["endpoint"] + "/_emulator/faults", json=fault).is_success
        trigger(api)
        stats = ready["endpoint"] + "/_emulator/stats"
        until(lambda: "VideoLivenessCompare" in httpx.get(stats).json()["calls"], "the call")
    # The fixture's teardown asserts that all processes end.


def test_deliver_brings_a_temporary_server_where_there_is_none(emulator: Emulator, tmp_path: Path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "faceid", "deliver", "--request-id", "r-1"]
        + ["--action", "VideoLivenessCompare", "--region", "ap-singapore"]
        + ["--resource", "ImageUrl=alder.jpg", "--resource", "VideoUrl=alder.mp4"]
        + ["--param", "LivenessType=SILENT"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "TMPDIR": str(temporary),
            # meant for `up`, but the temporary server reads it, too
            "PREFECT_SERVER_API_AUTH_STRING": "admin:let me in",
        },
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["status"] == "verdict"
    assert "temporary Prefect server" in ended.stderr
    assert list(temporary.iterdir()) == []


def test_a_part_that_ends_is_told_with_its_last_words(tmp_path: Path):
    log = tmp_path / "log"
    command = ["json.tool", str(tmp_path / "none.json")]
    with (
        pytest.raises(StackError, match=r"(?s)the oracle ended with exit code 2.*No such file"),
        child("the oracle", command, os.environ, log, tmp_path / "never"),
    ):
        pass


def test_a_part_that_dies_is_started_again_but_not_for_ever(tmp_path: Path):
    ready = tmp_path / "ready"
    # Runs until it is killed.
    script = f"import pathlib, signal; pathlib.Path({str(ready)!r}).write_text('x'); signal.pause()"
    module = tmp_path / "part_that_stays.py"
    module.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    log = tmp_path / "log"
    with child("the part", ["part_that_stays"], environment, log, ready) as part:
        for _ in range(MAX_RESTARTS):
            before = part.process.pid
            part.keep_alive()
            assert part.process.pid == before
            part.process.kill()
            part.process.wait()
            part.keep_alive()
            assert part.process.pid != before
        part.process.kill()
        part.process.wait()
        with pytest.raises(StackError, match="the part ended with exit code -9"):
            part.keep_alive()


def test_a_part_that_ends_while_it_is_restarted_is_restarted_once_more(tmp_path: Path):
    ready, broken = tmp_path / "ready", tmp_path / "broken"
    (tmp_path / "part_that_stumbles.py").write_text(
        "import pathlib, signal, sys\n"
        f"broken = pathlib.Path({str(broken)!r})\n"
        "if broken.exists():\n"
        "    broken.unlink()\n"
        "    sys.exit(1)\n"
        f"pathlib.Path({str(ready)!r}).write_text('x')\n"
        "signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with child("the part", ["part_that_stumbles"], environment, tmp_path / "log", ready) as part:
        broken.touch()
        part.process.kill()
        part.process.wait()
        part.keep_alive()
        assert part.process.wait() == 1
        part.keep_alive()
        part.check()
