"""The flow ``forget``, as its schedule runs it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.fernet import Fernet
from prefect.client.schemas.objects import State

from faceid.emulator import Emulator
from flows.forget import forget, moment
from tasks.credentials import TencentCredentials
from tasks.settings import DeliverySettings
from tests.flows.deliveries import Deliver
from tests.flows.forgetting import age
from tests.flows.helpers import (
    record_file,
)
from tests.flows.traces import documents_with, rows_with

pytestmark = pytest.mark.usefixtures("settles_soon")


async def run_forget(**parameters: Any) -> State[Any]:
    return await cast("Any", forget)(**parameters, return_state=True)


async def test_the_flow_forgets_in_all_accounts_and_tells_counts_alone(
    run_deliver: Deliver, emulator: Emulator, request_id: str, monkeypatch: pytest.MonkeyPatch
):
    await run_deliver(request_id=request_id)
    await age(request_id)
    monkeypatch.setenv("FACEID_ACCOUNT", "other")
    for one in (request_id, f"{request_id}-2"):
        await run_deliver(request_id=one)
        await age(one)
    monkeypatch.setenv("FACEID_ACCOUNT", "empty")
    state = await run_forget(older_than="1h", keep_verdict=True)
    assert (state.is_completed(), state.message) == (True, "3 forgotten")
    assert rows_with(request_id) == set()
    assert len(documents_with(request_id)) == 3
    state = await run_forget(older_than="1h")
    assert (state.is_completed(), state.message) == (True, "nothing is old enough")
    monkeypatch.setenv("FACEID_ACCOUNT", "default")
    await age(request_id)
    state = await run_forget(older_than="1h")
    assert (state.is_completed(), state.message) == (True, "1 forgotten")
    assert len(documents_with(request_id)) == 2


async def test_the_flow_forgets_in_the_service_that_a_block_names(
    run_deliver: Deliver, emulator: Emulator, request_id: str, monkeypatch: pytest.MonkeyPatch
):
    key = {"secret_id": emulator.secret_id, "secret_key": emulator.secret_key}
    block = TencentCredentials.model_validate(key | {"endpoint": emulator.url, "account": "fourth"})
    await block.asave(f"fourth-{request_id[2:]}")
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("FACEID_ACCOUNT", "fourth")
    await run_deliver(request_id=request_id, credentials=f"fourth-{request_id[2:]}")
    await age(request_id)
    monkeypatch.delenv("FACEID_ACCOUNT")
    monkeypatch.delenv("FACEID_ENDPOINT")
    assert DeliverySettings.load().service == "live"
    state = await run_forget(older_than="1h")
    assert (state.is_completed(), state.message) == (True, "1 forgotten")
    assert rows_with(request_id) == set()
    assert documents_with(request_id) == []


async def test_the_flow_fails_when_something_is_left(
    run_deliver: Deliver, emulator: Emulator, samples: Path, request_id: str
):
    await run_deliver(request_id=request_id)
    record_file(samples / "storage").write_text("damaged")
    await run_deliver(request_id=f"{request_id}-2")
    await age(f"{request_id}-2")
    state = await run_forget(older_than="1h")
    assert state.is_failed()
    assert state.message == "1 forgotten, 1 not forgotten (DamagedDocument)"


@pytest.mark.parametrize(
    "older_than", ["", "30", "d", "-1d", "1.5h", "30 d", "30d\n", "1w", "9" * 9 + "d"]
)
async def test_an_age_that_is_none_is_refused(
    prefect_api: str, emulator: Emulator, older_than: str
):
    state = await run_forget(older_than=older_than)
    assert state.is_failed()
    assert state.message == (
        f"InvalidRequest: {older_than!r} is not an age such as 30d, 12h, 90m or 45s"
    )


@pytest.mark.parametrize(
    ("older_than", "seconds"), [("30d", 2592000), ("12h", 43200), ("90m", 5400), ("45s", 45)]
)
def test_an_age_is_days_hours_minutes_or_seconds(older_than: str, seconds: int):
    assert abs(datetime.now(UTC) - moment(older_than) - timedelta(seconds=seconds)).seconds < 5
