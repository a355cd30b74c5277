"""Registers the commands that need Prefect with the ``faceid`` command.

A command's module is imported only when the command runs. The modules import Prefect, so importing
all of them for ``faceid --help`` would take seconds.
"""

import ast
import os
from pathlib import Path

from faceid.command import app

COMMANDS = {
    "demo": "demo",
    "up": "up",
    "deliver": "deliver",
    "batch": "batch",
    "results": "results",
    "status": "status",
    "answer": "status",
    "forget": "forget",
    "doctor": "doctor",
}
"""Maps each command to its module in ``deployments.commands``; the function has the same name."""


def description(command: str) -> str:
    """Return the part of a command's docstring that precedes its "Parameters" section.

    The source is parsed, so that the module need not be imported. Raises ``LookupError`` if the
    module has no function with the command's name.
    """
    source = Path(__file__).parent / "commands" / f"{COMMANDS[command]}.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == command:
            return (ast.get_docstring(node) or "").partition("\nParameters\n")[0].rstrip()
    raise LookupError(command)


def add_commands() -> None:
    """Register every command in ``COMMANDS`` with the app."""
    for command, module in COMMANDS.items():
        path = f"deployments.commands.{module}:{command}"
        app.command(path, name=command, help=description(command))


# Commands report progress themselves, so Prefect needs to log only warnings. This has to be set
# before anything imports Prefect, which reads it at import time.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
add_commands()
