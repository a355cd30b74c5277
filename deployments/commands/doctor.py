"""``faceid doctor``: whether all that a delivery needs is there, and what to do about the rest."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from deployments.commands.block_settings import settings_for
from faceid.command import Exit, app
from faceid.errors import FaceIdError
from faceid.settings import FaceIdSettings

if TYPE_CHECKING:
    from deployments.checks.results import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


@app.command
def doctor(
    *,
    credentials: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Look at everything that a delivery needs; print a line for each, good or what to do.

    Nothing that is billed is called. Exit code 0 when there is no problem, 1 when there is one,
    2 when the settings are wrong and nothing can be looked at.

    Parameters
    ----------
    credentials
        Name of a Prefect block tencent-credentials to look at; without it the environment's keys.
    as_json
        Print a list of objects with check, status, message and advice.
    """
    findings = _look(credentials)
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))  # noqa: T201
    else:
        _print(findings)
    raise Exit(1 if any(finding.status == "problem" for finding in findings) else 0)


def _look(credentials: str) -> "list[Finding]":
    from deployments.checks.results import Finding, failed, take
    from deployments.checks.server import check_server
    from deployments.checks.service import OF_THE_KEY, looks

    settings = FaceIdSettings.load()
    found = asyncio.run(check_server())
    skipped: list[Finding] = []
    try:
        settings = settings_for(credentials)
    except FaceIdError as error:  # the block's; all else is looked at all the same
        skipped = [Finding("clock", "skipped", "there is no key"), failed("credentials", error)]
    for check, look in looks(settings):
        if not (skipped and check in OF_THE_KEY):
            found += asyncio.run(take(check, look))
    return found + skipped


def _print(findings: "list[Finding]") -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        line = Text(f"{finding.status:8}", _STYLES[finding.status])
        line.append(f" {finding.check:16} {finding.message}", "default")
        if finding.advice:
            line.append(f" -> {finding.advice}", "bold")
        console.print(line)
