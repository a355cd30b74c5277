"""Results of checks, and how checks are run: each has a time limit, and none stops the others."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from faceid.errors import FaceIdError

Status = Literal["ok", "warning", "problem", "skipped"]

SECONDS = 20.0
"""Time limit of one check."""


class CheckResult(NamedTuple):
    """The result of a check, one line of ``faceid doctor``. It contains no secret."""

    check: str
    status: Status
    message: str
    advice: str = ""


def failed(check: str, error: FaceIdError) -> CheckResult:
    """Return the result of a check that raised this error, with the advice that belongs to it."""
    return CheckResult(check, "problem", f"{error.code}: {error.message}", error.advice)


Check = Callable[[], Awaitable[list[CheckResult]]]


async def run_check(check: str, look: Check) -> list[CheckResult]:
    """Run a check and return its results. If it raises or times out, that is its result."""
    try:
        async with asyncio.timeout(SECONDS):
            return await look()
    except TimeoutError:
        return [CheckResult(check, "problem", f"no answer in {SECONDS:.0f} seconds")]
    except FaceIdError as error:
        return [failed(check, error)]
    except Exception as error:  # its message may contain secrets
        return [CheckResult(check, "problem", f"the check failed ({type(error).__name__})")]
