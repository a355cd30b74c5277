"""The commands that run flows, or read what they kept: added to the ``faceid`` command by name.

A command's module is imported when the command is run. Importing all of them for ``faceid --help``
would take seconds, as they import Prefect.
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
"""Each command, and the module in ``deployments.commands`` with the function of its name."""


def description(command: str) -> str:
    """What the docstring of a command's function says before it comes to its parameters.

    Read from the source, so that the module is not imported.
    """
    source = Path(__file__).parent / "commands" / f"{COMMANDS[command]}.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == command:
            return (ast.get_docstring(node) or "").partition("\nParameters\n")[0].rstrip()
    raise LookupError(command)


def add_commands() -> None:
    for command, module in COMMANDS.items():
        path = f"deployments.commands.{module}:{command}"
        app.command(path, name=command, help=description(command))


# Of the runs that a command makes, warnings are enough: what it has to say it says itself. Prefect
# reads this when it is imported, whoever imports it first.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
add_commands()
