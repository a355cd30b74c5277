"""A clean environment for the tests, before anything of ours or Prefect's is imported.

A module of its own, as pytest imports conftest files under names of its own.
"""

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

HOME = tempfile.mkdtemp(prefix="faceid-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# For --faceid-target=live, before they are taken away from everything else.
LIVE = {name: os.environ.get(f"TENCENTCLOUD_{name}", "") for name in ("SECRET_ID", "SECRET_KEY")}
LIVE_ENDPOINT = os.environ.get("FACEID_ENDPOINT", "https://faceid.intl.tencentcloudapi.com")

# Nothing of the developer's own set-up may reach a test, nor a proxy stand in the way.
for name in list(os.environ):
    foreign = name.startswith(("FACEID_", "TENCENTCLOUD_", "PREFECT_"))
    if (foreign and not name.startswith("FACEID_TEST_")) or name.lower().endswith("_proxy"):
        del os.environ[name]

os.environ.update(
    # Prefect makes its home when it is imported.
    PREFECT_HOME=HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
)


async def wait_until(look: Callable[[], Awaitable[T | None]], what: str, seconds: float = 90) -> T:
    """What ``look`` finds as soon as it finds something; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (found := await look()):
        assert loop.time() < deadline, f"not seen within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)
    return found
