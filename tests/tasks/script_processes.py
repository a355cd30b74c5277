"""Talking to a script that runs as a process of its own."""

import subprocess


def next_line(process: "subprocess.Popen[str]") -> str:
    """Waits for the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def close_input(process: "subprocess.Popen[str]") -> None:
    """The sign for a script to go on."""
    assert process.stdin is not None
    process.stdin.close()
