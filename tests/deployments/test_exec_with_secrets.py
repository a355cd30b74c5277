"""Secrets are passed from files to the only command that needs them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.exec_with_secrets import read_secrets
from faceid.errors import InvalidInput
from tests.waiting import until

SECRET = "p@ss w:rd%41#$HOME"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "PREFECT_API_AUTH_STRING").write_text(f"{SECRET}\n")
    return folder


def test_the_command_has_the_secret_and_nobody_sees_it(folder: Path, tmp_path: Path):
    told = tmp_path / "told"
    script = (
        "import os, pathlib, signal;"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7));"
        f"pathlib.Path({str(told)!r}).write_text(os.environ['PREFECT_API_AUTH_STRING']);"
        "signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "deployments.exec_with_secrets", sys.executable, "-c", script],
        env={**os.environ, "FACEID_SECRETS": str(folder)},
    ) as process:
        until(lambda: told.exists() and told.read_text(), "the command's start")
        assert told.read_text() == SECRET
        # The command has replaced our process, and receives the signals that are sent to it.
        assert psutil.Process(process.pid).cmdline() == [sys.executable, "-c", script]
        assert psutil.Process(process.pid).children() == []
        process.terminate()
        assert process.wait(30) == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("FACEID_DATA_KEY", "", "must contain exactly one line"),
        ("FACEID_DATA_KEY", "one\ntwo\n", "must contain exactly one line"),
        ("FACEID_DATA_KEY", "\x00", "must contain exactly one line"),
        ("data-key.txt", "k", "the file name is not a valid variable name"),
        ("HOME", "k", "is set both in the environment and in"),
    ],
)
def test_what_is_no_secret_is_refused(folder: Path, name: str, content: str, message: str):
    (folder / name).write_text(content)
    with pytest.raises(InvalidInput, match=message) as refused:
        read_secrets(folder, {"HOME": "/"})
    assert SECRET not in str(refused.value)
    assert str(folder / name) in str(refused.value)


def test_what_cannot_be_read_is_named(folder: Path):
    (folder / "FACEID_DATA_KEY").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"cannot read .*FACEID_DATA_KEY: it is not text"):
        read_secrets(folder, {})
    (folder / "FACEID_DATA_KEY").unlink()
    (folder / "FACEID_DATA_KEY").mkdir()
    with pytest.raises(InvalidInput, match=r"cannot read .*FACEID_DATA_KEY: Is a directory"):
        read_secrets(folder, {})
    with pytest.raises(InvalidInput, match=r"the secrets folder .* does not exist"):
        read_secrets(folder / "none", {})


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.exec_with_secrets", *command],
        env={**os.environ, "FACEID_SECRETS": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_starts_without_its_secrets(folder: Path, tmp_path: Path):
    for refused, said in (
        (call(folder), "name the command to run with the secrets"),
        (call(tmp_path / "none", "true"), f"the secrets folder {tmp_path / 'none'} does not exist"),
        (call(folder, "no-such-command"), "cannot run no-such-command: No such file"),
    ):
        assert refused.returncode == 2
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1
