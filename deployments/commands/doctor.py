"""``faceid doctor``: checks everything that a delivery needs, and says how to solve problems."""

import asyncio
import json
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from deployments.checks.results import CheckResult, failed, run_check
from deployments.checks.server import check_server
from deployments.checks.service import OF_THE_KEY, checks
from deployments.commands.block_settings import block_settings
from faceid.command import Exit
from faceid.errors import FaceIdError
from faceid.outputs import print_result
from tasks.settings import DeliverySettings

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


def doctor(
    *,
    credentials: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Check everything that a delivery needs; print a line for each check, with advice on problems.

    No billed action is called. The exit code is 0 if there is no problem, 1 if there is a problem,
    and 2 if the settings are invalid, so that nothing can be checked.

    Parameters
    ----------
    credentials
        Name of the tencent-credentials block in Prefect to check. If omitted, the environment is
        checked.
    as_json
        Print a JSON list of objects with the fields check, status, message, advice and requests.
    """
    results = _look(credentials)
    if as_json:
        print_result(json.dumps([result._asdict() for result in results], indent=2))
    else:
        _print(results)
    raise Exit(1 if any(result.status == "problem" for result in results) else 0)


def _look(credentials: str) -> list[CheckResult]:
    settings = DeliverySettings.load()
    found = asyncio.run(check_server())
    skipped: list[CheckResult] = []
    try:
        settings = block_settings(credentials)
    except FaceIdError as error:  # the block cannot be used; everything else is still checked
        skipped = [
            CheckResult("clock", "skipped", "there is no usable key"),
            failed("credentials", error),
        ]
    for check, look in checks(settings):
        if not (skipped and check in OF_THE_KEY):
            found += asyncio.run(run_check(check, look))
    return found + skipped


def _print(results: list[CheckResult]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        line = Text(f"{result.status:8}", _STYLES[result.status])
        line.append(f" {result.check:16} {result.message}", "default")
        if result.advice:
            line.append(f" -> {result.advice}", "bold")
        console.print(line)
