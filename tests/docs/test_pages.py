"""The commands and programs of README and docs do what the pages show."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT, Block, Command, blocks, files, pages
from tests.waiting import until

BACKGROUND_SECONDS = 90.0
COMMAND_SECONDS = 240.0

READ_IN_THIS_ORDER = (
    "README.md",
    "docs/tutorial.md",
    "docs/batch.md",
    "docs/forget.md",
)
"""Pages that a new reader follows, with one home and in one folder."""

# One process: the pages start stacks on the ports that they name.
pytestmark = [pytest.mark.docs, pytest.mark.timeout(900)]


class Session:
    """A bash session in a folder of its own, as a reader has it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._background: list[subprocess.Popen[bytes]] = []
        self._output = folder.parent / "output"
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._output.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command, and return its exit code and what it printed."""
        assert self._bash.stdin
        start = self._output.stat().st_size
        mark = self.folder.parent / "code"
        mark.unlink(missing_ok=True)
        self._bash.stdin.write(
            f"{command}\necho $? > {mark}.new && mv {mark}.new {mark}\n".encode()
        )
        self._bash.stdin.flush()
        until(mark.exists, command, COMMAND_SECONDS)
        return int(mark.read_text()), self._output.read_bytes()[start:].decode()

    def start(self, command: Command, number: int) -> None:
        """Start a command that goes on, and wait until it has printed what the page shows."""
        log = self.folder.parent / f"background-{number}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-c", command.line],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append(process)

        def is_there() -> bool:
            assert process.poll() is None, log.read_text()
            return command.begins(log.read_text())

        try:
            until(is_there, "what the page shows", BACKGROUND_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {command.line}\n{log.read_text()}") from None

    def close(self) -> None:
        for process in (*reversed(self._background), self._bash):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def terminals(tmp_path: Path) -> Callable[[], AbstractContextManager[Session]]:
    """A function that opens a session in a clone, whose folder and home all sessions share."""
    home, folder = tmp_path / "home", tmp_path / "faceid-flows"
    home.mkdir()
    clone(folder)
    return lambda: closing(_open(home, folder))


def _open(home: Path, folder: Path) -> Session:
    return Session(
        folder,
        {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("FACEID_", "PREFECT_", "TENCENTCLOUD_", "VIRTUAL_ENV"))
            },
            "HOME": str(home),
            "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
            # The environment's editable install may point to another checkout.
            "PYTHONPATH": str(folder),
            "COLUMNS": "80",
        },
    )


def clone(folder: Path) -> None:
    """Copy the checkout's files, and link to the environment that is installed."""
    for name in files():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    # Older than the environment, so that make does not install into it.
    for name in ("pyproject.toml", *(path.name for path in ROOT.glob("*.lock"))):
        os.utime(folder / name, (0, 0))
    (folder / ".venv").symlink_to(Path(sys.prefix))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_work_as_written(
    page: Path, terminals: Callable[[], AbstractContextManager[Session]]
):
    with terminals() as session:
        _run_page(page, session)


@pytest.mark.timeout(1800)
def test_a_reader_can_follow_one_page_after_the_other(
    terminals: Callable[[], AbstractContextManager[Session]],
):
    for name in READ_IN_THIS_ORDER:
        with terminals() as session:
            _run_page(ROOT / name, session)


def _run_page(page: Path, session: Session) -> None:
    for number, block in enumerate(blocks(page)):
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        if block.how.startswith("file "):
            (session.folder / block.how.removeprefix("file ")).write_text(block.text)
        if block.is_shown_only:
            continue
        _run_block(block, number, session, where)


def _run_block(block: Block, number: int, session: Session, where: str) -> None:
    match block.language:
        case "console":
            commands = block.commands()
            for command in commands:
                if block.how == "background" and command is commands[-1]:
                    session.start(command, number)
                    continue
                code, printed = session.run(command.line)
                if command.output:
                    assert command.shows(printed), f"{where}: {command.line}\n{printed}"
                else:
                    assert code == 0, f"{where}: {command.line}\n{printed}"
        case "python" if not block.how.startswith("file "):
            program = session.folder.parent / f"block-{number}.py"
            program.write_text(block.text)
            code, printed = session.run(f"python {program}")
            assert code == 0, f"{where}:\n{printed}"
        case "json":
            json.loads(block.text)
        case "yaml":
            list(yaml.safe_load_all(block.text))
        case "toml":
            tomllib.loads(block.text)
        case _:
            pass
