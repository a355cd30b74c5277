"""What all tests share: a clean environment, before anything of ours or Prefect's is imported."""

import asyncio
import atexit
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from faceid.emulator import Emulator

T = TypeVar("T")

HOME = tempfile.mkdtemp(prefix="faceid-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

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


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the sample files in it."""
    from faceid.samples import copy_samples

    copy_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def emulator(
    faceid_emulator: "Emulator", samples: Path, monkeypatch: pytest.MonkeyPatch
) -> "Emulator":
    """The emulator as at its start, the environment that makes us use it, and sample files."""
    monkeypatch.setenv("FACEID_ENDPOINT", faceid_emulator.url)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", faceid_emulator.secret_id)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", faceid_emulator.secret_key)
    return faceid_emulator


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """A Prefect server for the whole session, as the local stack starts it; its API's URL."""
    from deployments.stack import free_port, prefect_server

    with prefect_server(free_port(), os.environ, Path(HOME) / "server.log") as (_, api_url):
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: api_url}):
            yield api_url


@pytest.fixture(scope="session")
def prefect_database(prefect_api: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(Path(HOME) / "prefect.db")
    yield connection
    connection.close()


async def wait_until(look: Callable[[], Awaitable[T | None]], what: str, seconds: float = 30) -> T:
    """What ``look`` finds as soon as it finds something; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (found := await look()):
        assert loop.time() < deadline, f"not seen within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)
    return found


# Warnings of Prefect's own. Tests of the library, which knows no Prefect, have no such excuse.
PREFECT_WARNINGS = (
    # Its clients and websockets are left to the garbage collector.
    "ignore:unclosed:ResourceWarning",
    "ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent / "faceid"):
            for warning in PREFECT_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
