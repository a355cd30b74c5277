"""Results of checks, and a function that runs a check so that it cannot stop the others."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from faceid.errors import FaceIdError

Status = Literal["ok", "warning", "problem", "skipped"]
"""Status of a check. Only a ``problem`` makes ``faceid doctor`` exit with code 1."""

SECONDS = 20.0
"""Time limit of a check, in seconds."""


class CheckResult(NamedTuple):
    """The result of a check, one line of ``faceid doctor``. It contains no secret."""

    check: str
    """Name of the check, such as ``storage``."""
    status: Status
    """Whether the check found a problem, or was skipped."""
    message: str
    """What the check found, in one line."""
    advice: str = ""
    """What a person should do; empty if there is nothing to do."""
    requests: tuple[str, ...] = ()
    """IDs of the requests that the message is about, of which it names only the first few."""


def failed(check: str, error: FaceIdError) -> CheckResult:
    """Return the result of a check that raised this error, with the advice in the error."""
    return CheckResult(check, "problem", f"{error.code}: {error.message}", error.advice)


Check = Callable[[], Awaitable[list[CheckResult]]]
"""A check: an async function that returns its results."""


async def run_check(check: str, look: Check) -> list[CheckResult]:
    """Run the check ``look`` with the name ``check``, and return its results.

    If it raises an error or takes longer than ``SECONDS``, the result is a ``problem``.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await look()
    except TimeoutError:
        return [CheckResult(check, "problem", f"no answer in {SECONDS:.0f} seconds")]
    except FaceIdError as error:
        return [failed(check, error)]
    except Exception as error:  # its message may contain secrets
        return [CheckResult(check, "problem", f"the check failed ({type(error).__name__})")]
