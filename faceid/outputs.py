"""The outputs of a command: results to stdout, progress and errors to stderr.

An output may break while the command is at work. If its reader has ended, as ``head`` does, nobody
needs to be told. A full disk is told in one line. What the command has in hand is more important
than its output, so a broken output never cuts anything off.
"""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console


class BrokenOutput(Exception):
    """Raised if stdout or a results file cannot be written.

    ``reason`` is a line that tells why; empty if the reader of a pipe has ended.
    """

    def __init__(self, where: str, error: OSError) -> None:
        quiet = isinstance(error, BrokenPipeError)
        self.reason = "" if quiet else f"{where}: cannot be written ({error.strerror})"
        super().__init__(self.reason)


class _Stderr(Console):
    """A console that goes silent when it cannot be written."""

    on_break: Callable[[], object] | None = None
    """Called once when stderr cannot be written, from the thread that tried to write."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        # Rich calls this, too. Its own implementation ends the program.
        if self.quiet:
            return
        self.quiet = True
        if self.on_break:
            self.on_break()


stderr = _Stderr(stderr=True, highlight=False, soft_wrap=True)
"""Console for progress and errors. It uses colours only if stderr is a terminal."""


def print_result(text: str, file: TextIO | None = None) -> None:
    """Print a line to stdout, or to a file, at once. Raises ``BrokenOutput``."""
    try:
        print(text, file=file, flush=True)
    except OSError as error:
        raise BrokenOutput(file.name if file else "stdout", error) from None


@contextmanager
def opened(path: Path | None) -> Generator[TextIO | None]:
    """Open a file for ``print_result``; yield ``None``, which means stdout, if there is none."""
    if path is None:
        yield None
        return
    file = path.open("w")
    try:
        yield file
    finally:
        with suppress(OSError):  # `print_result` has raised the error already
            file.close()


def close_outputs() -> None:
    """Discard what cannot be written, so that Python does not complain of it when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
