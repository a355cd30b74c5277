"""Fixtures and options for all tests: an emulator, a Prefect server and sample files."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.environment import HOME, LIVE
from tests.server_log import refusals

if TYPE_CHECKING:
    from redis import Redis

    from faceid.emulator import Emulator
    from tests.deployments.command_line import Ended


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


@pytest.fixture
def own_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Redis"]:
    """A Redis server of the test's own, which ``FACEID_LOCKS`` names."""
    from tests.redis_server import redis_server

    with redis_server(tmp_path) as (client, url):
        monkeypatch.setenv("FACEID_LOCKS", url)
        yield client


@pytest.fixture
def faceid(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., "Ended"]]:
    """A function that runs the ``faceid`` command in this process, and returns how it ended."""
    from faceid.command import run
    from tests.deployments.command_line import Ended

    import_module("deployments.cli")
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}

    def call(*tokens: str) -> Ended:
        with pytest.raises(SystemExit) as ending:
            run(tokens)
        captured = capsys.readouterr()
        return Ended(int(ending.value.code or 0), captured.out, captured.err)

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


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
