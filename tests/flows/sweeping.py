"""Helpers for the tests of the sweeper."""

import os
from uuid import UUID

from prefect import get_client

REDIS = os.environ.get("FACEID_TEST_REDIS", "redis://127.0.0.1:6379/9")
PASSED = "verdict: passed, Success [emulator]"


class Gone(BaseException):
    """Raised to simulate the death of the process."""


def never(_: object) -> bool:
    return False


async def state_of(flow_run_id: UUID | str) -> str | None:
    async with get_client() as client:
        return (await client.read_flow_run(UUID(str(flow_run_id)))).state_name


async def set_state(flow_run_id: UUID | str, state: object) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(UUID(str(flow_run_id)), state, force=True)  # pyright: ignore[reportArgumentType]  # any state
