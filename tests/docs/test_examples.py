"""The programs in examples/ run as they stand, and print what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"

# Regular expressions for lines of the output, in their order.
WITHOUT_PREFECT = {
    "client.py": [
        "service: emulator",
        "passed: True, result: Success",
        r"similarity: 89\.88 of 100",
        "best frame: [0-9]+ bytes, intact: True",
    ],
    "own_action.py": [
        "the file and the Python object are the same action: True",
        "passed: True, result: NoMask",
        "InvalidParameterValue: parameter Mode must be FAST or STRICT",
    ],
}
WITH_PREFECT = {
    "one_file.py": [
        '  "status": "verdict",',
        '    "passed": true,',
        "again: the same verdict is True, calls: 1",
    ],
    "expired_window.py": [
        "windows: 2, calls: 2",
        "verdict: passed=True .*",
        "tickets: 4, uploads: 4",
    ],
    "batch.py": [
        r"partial: 2 verdicts, 1 failed of 3 requests \[emulator\]",
        "p-1 verdict passed=True .*",
        "p-2 verdict passed=True .*",
        "p-3 failed code='InvalidResource' .*",
    ],
}


def run(folder: Path, *command: str) -> str:
    """Run a Python command in the checkout, with a home of its own; return its stdout."""
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def check(name: str, lines: list[str], folder: Path) -> None:
    printed = run(folder, f"examples/{name}")
    assert re.search(r"^(.*\n)*".join(f"{line}\n" for line in lines), printed, re.M), printed
    assert [path.name for path in folder.iterdir() if path.name != "prefect"] == []


@pytest.mark.parametrize("name", WITHOUT_PREFECT)
def test_an_example_of_the_library(name: str, tmp_path: Path):
    check(name, WITHOUT_PREFECT[name], tmp_path)


@pytest.mark.docs
@pytest.mark.parametrize("name", WITH_PREFECT)
def test_an_example_of_the_flows(name: str, tmp_path: Path):
    check(name, WITH_PREFECT[name], tmp_path)


def test_the_example_of_tests(tmp_path: Path):
    options = ["-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'pytest'}"]
    printed = run(tmp_path, "-m", "pytest", *options, "examples/test_faults.py")
    assert "3 passed" in printed


def test_every_example_is_run_and_listed():
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {*WITHOUT_PREFECT, *WITH_PREFECT, "test_faults.py"}
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in programs if f"]({name})" not in listed] == []
