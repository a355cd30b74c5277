"""What a look at one thing found, and how looks are taken: each in its time, none hides another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from faceid.errors import ADVICE, FaceIdError

Status = Literal["ok", "warning", "problem", "skipped"]

SECONDS = 20.0
"""For one look."""


class CheckResult(NamedTuple):
    """One line of ``faceid doctor``. No secret is in it."""

    check: str
    status: Status
    message: str
    advice: str = ""


def failed(check: str, error: FaceIdError) -> CheckResult:
    advice = ADVICE.get(error.code, error.advice)
    return CheckResult(check, "problem", f"{error.code}: {error.message}", advice)


Check = Callable[[], Awaitable[list[CheckResult]]]


async def run_check(check: str, look: Check) -> list[CheckResult]:
    """What the look finds; its failure is a finding, too."""
    try:
        async with asyncio.timeout(SECONDS):
            return await look()
    except TimeoutError:
        return [CheckResult(check, "problem", f"no answer in {SECONDS:.0f} seconds")]
    except FaceIdError as error:
        return [failed(check, error)]
    except Exception as error:  # its own text may hold secrets
        return [CheckResult(check, "problem", f"cannot be looked at ({type(error).__name__})")]
