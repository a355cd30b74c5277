"""pytest fixtures for testing a client against the emulator, without an account.

Example::

    def test_upload(faceid_emulator):
        client = make_my_client(faceid_emulator.url, faceid_emulator.secret_id, ...)
        faceid_emulator.add_fault("PutObject", "http:503")
        ...
        faceid_emulator.advance(7200)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from faceid.emulator import Emulator


@pytest.fixture(scope="session")
def faceid_emulator_server() -> "Iterator[Emulator]":
    """An emulator that runs on a free local port for the whole test session."""
    from faceid.emulator import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def faceid_emulator(faceid_emulator_server: "Emulator") -> "Iterator[Emulator]":
    """The emulator of the session, reset to its initial state before and after the test.

    The test fails if a fault that it planned never fired.
    """
    faceid_emulator_server.reset()
    yield faceid_emulator_server
    idle = [fault for fault in faceid_emulator_server.faults() if not fault["fired"]]
    faceid_emulator_server.reset()
    assert not idle, f"planned faults that never fired: {idle}"
