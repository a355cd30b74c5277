"""Secrets from files: ``python -m deployments.exec_with_secrets COMMAND ...``.

Prefect and our settings read the environment, but what stands there in a compose file can be read
by everyone who may look at the container. So each secret is a file in ``/run/secrets`` (or the
folder ``FACEID_SECRETS``), named as the variable: it is set for the command alone, which takes this
process's place.
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
    """The variables that the files of the folder hold. Raises ``InvalidInput``, with no secret in
    it: better no start than one without a password."""
    if not folder.is_dir():
        raise InvalidInput("Configuration", f"there is no folder {folder} with secrets")
    secrets: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if not VARIABLE.fullmatch(path.name):
            raise InvalidInput("Configuration", f"{path} is not named as a variable")
        if path.name in environment:
            raise InvalidInput(
                "Configuration",
                f"{path.name} is in the environment and in {path}: leave it in the file alone",
            )
        secrets[path.name] = _read(path)
    return secrets


def _read(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is no text"
        message = f"cannot read {path}: {problem} (user {os.getuid()})"
        raise InvalidInput("Configuration", message) from None
    if not text or not text.isprintable():
        raise InvalidInput("Configuration", f"{path} must hold one line, and nothing else")
    return text


def main(command: list[str]) -> None:
    folder = Path(os.environ.get("FACEID_SECRETS", DEFAULT_FOLDER))
    try:
        if not command:
            raise InvalidInput("Configuration", "which command is to have the secrets?")
        os.environ.update(read_secrets(folder, os.environ))
    except InvalidInput as error:
        fail(str(error))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command is ours, from the compose file
    except OSError as error:
        fail(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
