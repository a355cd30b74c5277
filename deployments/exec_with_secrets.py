"""Runs a command with secrets from files: ``python -m deployments.exec_with_secrets COMMAND ...``.

Prefect and this project read their settings from environment variables, but variables that are set
in a compose file are visible to anyone who may inspect the container. Each secret is therefore a
file in ``/run/secrets``, or in the folder that ``FACEID_SECRETS`` names. The file's name is that of
the variable. The variables are set only for the command, which replaces this process.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from faceid.command import fail
from faceid.errors import InvalidInput

DEFAULT_FOLDER = "/run/secrets"
"""Folder of the secrets if ``FACEID_SECRETS`` is not set."""
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
"""Pattern for names of variables, which the files' names must match."""


def read_secrets(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in a folder of secrets: file names and contents.

    Raises ``InvalidInput`` if the folder does not exist, if the name or content of a file is not
    usable as a variable, or if a variable is also set in ``environment``: a command must not start
    without one of its secrets or with another value. The message contains no secret.
    """
    if not folder.is_dir():
        raise InvalidInput("Configuration", f"the secrets folder {folder} does not exist")
    secrets: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if not VARIABLE.fullmatch(path.name):
            raise InvalidInput(
                "Configuration", f"{path}: the file name is not a valid variable name"
            )
        if path.name in environment:
            raise InvalidInput(
                "Configuration",
                f"{path.name} is set both in the environment and in {path}: keep only the file",
            )
        secrets[path.name] = _read(path)
    return secrets


def _read(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not text"
        message = f"cannot read {path}: {problem} (user {os.getuid()})"
        raise InvalidInput("Configuration", message) from None
    if not text or not text.isprintable():
        raise InvalidInput("Configuration", f"{path} must contain exactly one line")
    return text


def main(command: list[str]) -> None:
    """Replace this process by the command, with the secrets in its environment.

    Exits with code 2 if the secrets are not usable or the command cannot be run.
    """
    folder = Path(os.environ.get("FACEID_SECRETS", DEFAULT_FOLDER))
    try:
        if not command:
            raise InvalidInput("Configuration", "name the command to run with the secrets")
        os.environ.update(read_secrets(folder, os.environ))
    except InvalidInput as error:
        fail(str(error))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command is ours, from the compose file
    except OSError as error:
        fail(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
