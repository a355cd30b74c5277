"""Runs a command with secrets from files: ``python -m deployments.exec_with_secrets COMMAND ...``.

Prefect and our settings read environment variables, but those set in a compose file are visible to
anyone who may inspect the container. So each secret is a file in ``/run/secrets`` (or in the folder
that ``FACEID_SECRETS`` names), and the file's name is the name of the variable. The variables are
set only for the command, which replaces this process.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from faceid.command import fail
from faceid.errors import InvalidInput

DEFAULT_FOLDER = "/run/secrets"
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def read_secrets(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in a folder of secrets, as a mapping of file name to content.

    Raises ``InvalidInput`` if the folder is missing, or if a file cannot be used as a variable or
    is set in ``environment`` as well: a command must not start without one of its passwords. The
    message contains no secret.
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
