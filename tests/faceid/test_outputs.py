"""Outputs that break: a reader that has ended, and a disk that is full."""

import io
import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest

from faceid.outputs import BrokenOutput, _Stderr, opened, print_result  # pyright: ignore[reportPrivateUsage]  # each test needs a new one


def test_results_go_to_stdout_or_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with opened(None) as file:
        print_result("one", file)
    assert capsys.readouterr().out == "one\n"
    with opened(tmp_path / "results") as file:
        print_result("two", file)
    assert (tmp_path / "results").read_text() == "two\n"


def test_a_full_disk_is_told_in_one_line():
    full = Path("/dev/full")  # writing to it fails like writing to a full disk
    with opened(full) as file, pytest.raises(BrokenOutput) as broken:
        print_result("lost", file)
    assert broken.value.reason == f"{full}: cannot be written (No space left on device)"


def test_a_reader_that_has_ended_is_not_told_of():
    reader, writer = os.pipe()
    os.close(reader)
    with opened(Path(f"/dev/fd/{writer}")) as file, pytest.raises(BrokenOutput) as broken:
        print_result("lost", file)
    os.close(writer)
    assert broken.value.reason == ""


class _Full(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(ENOSPC, "No space left on device")


class _Unread(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("file", [_Full(), _Unread()])
def test_a_broken_stderr_goes_silent_and_says_so_once(file: io.StringIO):
    told: list[None] = []
    console = _Stderr(file=file)
    console.on_break = lambda: told.append(None)
    console.print("lost")
    console.print("lost, too")
    assert told == [None]
    assert console.quiet


def test_python_does_not_complain_of_a_broken_output_when_it_exits():
    reader, writer = os.pipe()
    os.close(reader)
    script = (
        "import sys; from faceid.outputs import close_outputs; sys.stdout.write('lost'); "
        "close_outputs()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
