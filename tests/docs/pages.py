"""The blocks of README.md and docs/, and how they are run.

How a block is run depends on its language:

- ``console``: lines that begin with ``$`` are run in one bash session per page, in a folder that
  looks like a fresh clone after ``make install``. The lines that follow a command are its output,
  with stdout and stderr mixed. ``...`` stands for any text within a line, and alone for any lines.
  A command continues on the next line after a backslash and within quotes.
- ``python``: a program that must end without an error, in the same folder and environment.
- ``json``, ``yaml``, ``toml``: must parse.
- Anything else is shown only.

A comment before a block changes that::

    <!-- run: background -->   starts the last command, waits until it has printed the output shown,
                               and ends it with the page
    <!-- run: no, REASON -->   shown only: this needs something that no test has
    <!-- run: file NAME -->    writes the block to a file, for the commands that follow
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"^(?: *<!-- run: (?P<how>[^\n]*?) -->\n+)?(?P<indent> *)```(?P<language>\w*)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block, and the lines of its output that the page shows."""

    line: str
    output: tuple[str, ...]

    def shows(self, printed: str) -> bool:
        """Return whether the output shown is that which was printed."""
        return bool(re.fullmatch(_pattern(self.output), _lines(printed)))

    def begins(self, printed: str) -> bool:
        """Return whether what was printed so far begins with the output shown."""
        return bool(re.match(_pattern(self.output), _lines(printed)))


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    text: str
    how: str
    """What the comment before the block says; empty without one."""
    line: int
    """Number of the block's first line in the page."""

    @property
    def is_shown_only(self) -> bool:
        return self.how.startswith("no, ")

    def commands(self) -> list[Command]:
        """Return the commands of a ``console`` block."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if found and not _is_complete(found[-1][0]):
                found[-1] = (f"{found[-1][0]}\n{line}", [])
            elif line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
            else:
                raise ValueError(f"line {self.line}: output before the first command")
        return [Command(line, tuple(output)) for line, output in found]


def files() -> list[str]:
    """Return the paths of the project's files, relative to ``ROOT``."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def pages() -> list[Path]:
    """Return the pages whose blocks are run and whose links are checked."""
    others = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
    there = [ROOT / name for name in others if (ROOT / name).exists()]
    return [*there, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, in their order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        lines = [line[indent:] for line in found["text"].splitlines()]
        number = text.count("\n", 0, found.start("language")) + 1
        yield Block(found["language"], "\n".join(lines) + "\n", found["how"] or "", number)


def _is_complete(command: str) -> bool:
    """Return whether a command ends here: it leaves no quote open, and ends with no backslash."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def _pattern(output: tuple[str, ...]) -> str:
    parts: list[str] = []
    for line in output:
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            words = re.split(r"\.\.\.", line.rstrip())
            parts.append(".*?".join(re.escape(word) for word in words) + r"[ ]*\n")
    return "".join(parts)


def _lines(printed: str) -> str:
    return "".join(f"{line}\n" for line in printed.splitlines())
