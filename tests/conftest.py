"""Fixtures and options for all tests: an emulator, a Prefect server and sample files."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.environment import HOME, LIVE
from tests.server_log import refusals

if TYPE_CHECKING:
    from faceid.emulator import Emulator


# A deadline would test the speed of the machine, not the code.
settings.register_profile("faceid", deadline=None)
settings.load_profile("faceid")


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test, which contains the sample files."""
    from faceid.samples import copy_samples

    copy_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def emulator(
    faceid_emulator: "Emulator", samples: Path, monkeypatch: pytest.MonkeyPatch
) -> "Emulator":
    """The emulator in its initial state.

    The environment points to it and to a temporary storage; the working folder has sample files.
    """
    monkeypatch.setenv("FACEID_ENDPOINT", faceid_emulator.url)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", faceid_emulator.secret_id)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", faceid_emulator.secret_key)
    monkeypatch.setenv("FACEID_STORAGE", str(samples / "storage"))
    return faceid_emulator


@pytest.fixture(autouse=True, scope="module")
def swept() -> Iterator[None]:
    """After each module, collect what Prefect leaves to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The API's URL of a Prefect server that runs during the session, as in the local stack."""
    from deployments.stack import free_port, prefect_server

    with prefect_server(free_port(), os.environ, Path(HOME) / "server.log") as (_, api_url):
        from prefect.logging.handlers import APILogHandler
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: api_url}):
            yield api_url
            APILogHandler().flush()  # while the server is still running
    assert refusals(Path(HOME), "server.log") == []


# Warnings that Prefect causes. They are not ignored in tests of the library, which does not use
# Prefect.
PREFECT_WARNINGS = (
    # Prefect leaves its clients and websockets to the garbage collector.
    "ignore:unclosed:ResourceWarning",
    "ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faceid-target",
        choices=("emulator", "live"),
        default="emulator",
        help="what the conformance tests talk to; live sends nothing that is billed",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--faceid-target") == "live":
        # Only marked tests run against the live service, and they are skipped without keys.
        others = [item for item in items if not item.get_closest_marker("live")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
        if not all(LIVE.values()):
            for item in items:
                item.add_marker(pytest.mark.skip(reason="no TENCENTCLOUD_SECRET_ID and _KEY"))
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent / "faceid"):
            for warning in PREFECT_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
