"""One emulator for all tests in this folder, reset before each of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from emulator_calls import Caller

from faceid.emulator import Emulator
from tests.environment import LIVE, LIVE_ENDPOINT


@pytest.fixture(scope="session")
def running() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator) -> Iterator[Emulator]:
    """The emulator in its initial state. The test fails if a planned fault never fired."""
    running.reset()
    yield running
    idle = [fault for fault in running.faults() if not fault["fired"]]
    assert not idle, f"faults that never fired: {idle}"


@dataclass(frozen=True)
class Live:
    """The real service, with the account from the environment."""

    url: str
    secret_id: str
    secret_key: str


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Emulator | Live:
    """The service under test: the emulator, or the real one with ``--faceid-target=live``."""
    if request.config.getoption("--faceid-target") == "live":
        return Live(LIVE_ENDPOINT, LIVE["SECRET_ID"], LIVE["SECRET_KEY"])
    return request.getfixturevalue("emulator")


@pytest.fixture
def caller(emulator: Emulator) -> Iterator[Caller]:
    caller = Caller.of(emulator)
    with caller.http:
        yield caller
