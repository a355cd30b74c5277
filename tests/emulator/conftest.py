"""One emulator for all of these tests, as at its start for each of them."""

from collections.abc import Iterator

import pytest
from emulator_calls import Caller

from faceid.emulator import Emulator


@pytest.fixture(scope="session")
def running() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator) -> Iterator[Emulator]:
    """A fault that was planned and never fired fails the test."""
    running.reset()
    yield running
    idle = [fault for fault in running.faults() if not fault["fired"]]
    assert not idle, f"faults that never fired: {idle}"


@pytest.fixture
def caller(emulator: Emulator) -> Iterator[Caller]:
    caller = Caller.of(emulator)
    with caller.http:
        yield caller
