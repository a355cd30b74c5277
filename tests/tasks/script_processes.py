"""Communication with a script that runs in a separate process."""

import subprocess


def next_line(process: "subprocess.Popen[str]") -> str:
    """Wait for the next line that the process prints, and return it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def close_input(process: "subprocess.Popen[str]") -> None:
    """Close the script's input, which signals it to go on."""
    assert process.stdin is not None
    process.stdin.close()
