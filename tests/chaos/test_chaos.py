"""Short schedules of faults, after which the books balance; and what makes a schedule."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tests.chaos.schedule import Kind, Setup, as_json, from_json, make_schedule

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("setup", get_args(Setup))
def test_a_seed_fixes_a_schedule_that_can_be_fed_back(setup: Setup):
    schedule = make_schedule(7, setup, 500)
    assert schedule == make_schedule(7, setup, 500)
    assert schedule != make_schedule(8, setup, 500)
    assert from_json(as_json(schedule)) == schedule
    possible = {kind for kind in get_args(Kind) if setup == "shared" or "redis" not in kind}
    assert {fault.kind for fault in schedule} <= possible


@pytest.mark.parametrize("change", [{"kind": "flood"}, {"step": "lunch"}])
def test_a_schedule_with_an_unknown_fault_is_refused(change: dict[str, str]):
    (fault, *_) = json.loads(as_json(make_schedule(1, "local", 60)))
    with pytest.raises(ValueError, match="unknown step or kind"):
        from_json(json.dumps([fault | change]))


@pytest.mark.services
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("setup", get_args(Setup))
def test_the_books_balance(setup: Setup):
    needed = [] if setup == "local" else ["redis-server", "initdb", "pg_ctl"]
    missing = [command for command in needed if not shutil.which(command)]
    if missing and os.environ.get("FACEID_TEST_SERVICES") != "required":
        pytest.skip(f"not installed: {', '.join(missing)}")
    ended = chaos("--setup", setup, "--requests", "60")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "the books balance" in ended.stdout


@pytest.mark.services
@pytest.mark.timeout(1200)
def test_the_books_do_not_balance_if_one_save_is_dropped(tmp_path: Path):
    schedule = tmp_path / "schedule.json"
    schedule.write_text("[]")
    ended = chaos("--requests", "30", "--schedule", str(schedule), "--mutant")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "the books DO NOT BALANCE: answers lost" in ended.stdout


def chaos(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
