"""The automations on a real Prefect server: registration, triggers and notifications."""

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.states import Crashed, Pending, Scheduled
from prefect.types import SecretDict
from pydantic import SecretStr

from deployments.registration.automations import FILE, register_automations
from faceid.emulator import Emulator
from faceid.errors import InvalidInput
from faceid.models import DeliveryResult
from flows.server.events import emit_event
from tests.environment import HOME
from tests.flows.batches import RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker
from tests.flows.helpers import ACTION, REFUSES_THE_ACCOUNT, REFUSES_THE_FILE
from tests.receiver import Receiver, receiver
from tests.waiting import wait_until

NAMES = [
    "faceid: batch failed",
    "faceid: many failures of one kind",
    "faceid: account refused",
    "faceid: run late",
    "faceid: no worker",
    "faceid: no heartbeat",
    "faceid: requests wait",
    "faceid: batch waits",
    "faceid: limit reached",
]
CALL_BACK = "faceid: call back"

SMALL = """
message: x
automations:
  - {name: "test: one", description: d, trigger: {posture: Reactive, expect: [never]}}
  - {name: "test: two", description: d, trigger: {posture: Reactive, expect: [never]}}
"""


@pytest.fixture(autouse=True)
async def nothing_left(prefect_api: str) -> AsyncGenerator[None]:
    """Remove automations and blocks after each test, because all tests share the server."""
    yield
    async with get_client() as client:
        for automation in await client.read_automations():
            await client.delete_automation(automation.id)
        for block in await client.read_block_documents():
            if block.name in ("faceid-alerts", "faceid-callback"):
                await client.delete_block_document(block.id)


@pytest.fixture
async def other_worker(prefect_api: str) -> AsyncGenerator[Worker]:
    worker = await Worker.of_a_deployment(prefect_api)
    yield worker
    await worker.leave_nothing()


@pytest.fixture
def listener() -> Iterator[Receiver]:
    with receiver() as here:
        yield here


async def automations() -> dict[str, Automation]:
    async with get_client() as client:
        return {automation.name: automation for automation in await client.read_automations()}


async def edit(automation: Automation, **changes: Any) -> None:
    """Save the whole automation with some fields changed, as the dashboard does."""
    async with get_client() as client:
        whole = automation.model_copy(update=changes).model_dump(exclude={"id", "owner_resource"})
        await client.update_automation(automation.id, AutomationCore.model_validate(whole))


async def alerts(listener: Receiver) -> None:
    block = CustomWebhookNotificationBlock(
        name="alerts",
        url=f"{listener.url}/alerts",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
        headers=None,
        cookies=None,
    )
    await block.asave("faceid-alerts")


@pytest.mark.long
async def test_they_are_registered_once_and_stay_as_a_person_changed_them(
    prefect_api: str, listener: Receiver
):
    assert await register_automations() == NAMES
    assert await register_automations() == []
    there = await automations()
    assert sorted(there) == sorted(NAMES)
    assert all(automation.enabled and not automation.actions for automation in there.values())

    async with get_client() as client:
        await client.pause_automation(there["faceid: run late"].id)
        foreign = AutomationCore.model_validate(
            there["faceid: no worker"].model_dump(exclude={"id"})
            | {"name": "somebody's", "tags": []}
        )
        await client.create_automation(foreign)
    await edit(there["faceid: batch waits"], description="changed by somebody")
    await alerts(listener)
    assert await register_automations() == [name for name in NAMES if name != "faceid: batch waits"]
    assert await register_automations() == []
    now = await automations()
    assert not now["faceid: run late"].enabled
    assert now["faceid: batch waits"].description == "changed by somebody"
    assert now["faceid: batch waits"].actions == now["somebody's"].actions == []
    assert [action.type for action in now["faceid: run late"].actions] == ["send-notification"]
    assert {name: one.id for name, one in now.items() if name in NAMES} == {
        name: one.id for name, one in there.items()
    }


async def test_what_leaves_the_file_is_removed_unless_somebody_changed_it(
    prefect_api: str, tmp_path: Path
):
    file = tmp_path / "automations.yaml"
    file.write_text(SMALL)
    assert await register_automations(file) == ["test: one", "test: two"]
    await edit((await automations())["test: two"], name="somebody's")
    file.write_text("message: x\nautomations: []\n")
    assert await register_automations(file, write=False) == ["test: one"]
    assert await register_automations(file) == ["test: one"]
    assert list(await automations()) == ["somebody's"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("expect:", "expects:"), "automations.0.trigger: no such field: expects"),
        (("message: x", "message: '{{ x'"), "message: not a valid template"),
        (("description: d", "descriptoin: d"), "automations.0.description: Field required"),
        (("message: x", "message: ["), "while parsing"),
        (("test: two", "test: one"), "automations: 'test: one' is defined 2 times"),
        (("message: x", "message: x\nnotify: slack-webhook/ops"), "no block slack-webhook/ops"),
    ],
)
async def test_a_wrong_file_is_refused_with_its_place(
    prefect_api: str, tmp_path: Path, change: tuple[str, str], said: str
):
    file = tmp_path / "automations.yaml"
    file.write_text(SMALL.replace(*change, 1))
    with pytest.raises(InvalidInput) as refused:
        await register_automations(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert await automations() == {}


async def test_who_is_told_learns_what_is_the_matter_and_no_parameter(
    prefect_api: str, run_deliver: Deliver, emulator: Emulator, listener: Receiver
):
    await alerts(listener)
    await register_automations()
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT)
    await run_deliver(request_id=f"r-{uuid4().hex[:12]}")
    (told,) = await listener.got("/alerts")
    assert told.body["subject"] == "faceid: account refused"
    assert "payments are overdue" in told.body["body"]
    assert "ResourceUnavailable.InArrears: " in told.body["body"]
    assert "alder" not in str(told.body)


async def test_a_caller_is_called_back_with_the_result_object(
    prefect_api: str,
    run_deliver: Deliver,
    run_batch: RunBatch,
    samples: Path,
    fast: None,
    listener: Receiver,
):
    webhook = Webhook(
        url=SecretStr(f"{listener.url}/callback"),
        headers=SecretDict({"Authorization": "Bearer t", "Content-Type": "application/json"}),
    )
    await webhook.asave("faceid-callback")
    assert await register_automations() == [*NAMES, CALL_BACK]
    mark = uuid4().hex[:12]
    _, result, _ = await run_deliver(request_id=mark)
    await run_batch(write(samples / f"{mark}.jsonl", [entry(f"{mark}-{n}") for n in range(3)]))
    single, batch = await listener.got("/callback", 2)
    assert single.headers["authorization"] == "Bearer t"
    assert single.headers["content-type"] == "application/json"
    assert single.body["event"] == "faceid.delivery.verdict"
    assert DeliveryResult.model_validate(single.body["result"]) == result
    assert batch.body["event"] == "faceid.batch.completed"
    assert batch.body["result"]["verdict"] == 3
    assert UUID(single.body["id"]) != UUID(batch.body["id"])
    assert datetime.fromisoformat(single.body["occurred"]).tzinfo is not None
    # The batch's requests cause no messages; their events came before the batch's own.
    assert len(listener.received) == 2

    async with get_client() as client:
        block = await Webhook.aload("faceid-callback")
        assert block._block_document_id is not None  # pyright: ignore[reportPrivateUsage]  # Prefect has no public one
        await client.delete_block_document(block._block_document_id)  # pyright: ignore[reportPrivateUsage]  # likewise
    assert await register_automations() == [CALL_BACK]


async def fired(api_url: str, names: dict[str, UUID]) -> Counter[str]:
    """Return how often each automation has been triggered."""
    ids = [f"prefect.automation.{automation}" for automation in names.values()]
    query = {"event": {"name": ["prefect.automation.triggered"]}, "resource": {"id": ids}}
    async with httpx.AsyncClient(base_url=api_url, timeout=30) as api:
        found = (await api.post("/events/filter", json={"filter": query})).json()["events"]
    return Counter(event["resource"]["prefect.resource.name"] for event in found)


async def due_run(worker: Worker) -> UUID:
    """Create a run of the worker's deployment that was due a minute ago, and return its ID."""
    run_id = await worker.trigger()
    await set_state(run_id, Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=1)))
    return run_id


async def polled_long_ago(worker: Worker) -> None:
    """Make it look as if the deployment's runs were last polled two minutes ago."""

    async def look() -> bool:
        async with get_client() as client:
            await client.get_scheduled_flow_runs_for_deployments([worker.deployment_id])
            return (await client.read_deployment(worker.deployment_id)).status == "READY"

    await wait_until(look, "a ready deployment")
    # Change the time of the last poll in the database of the server.
    with sqlite3.connect(Path(HOME) / "prefect.db", timeout=60) as database:
        database.execute(
            "UPDATE deployment SET last_polled = datetime('now', '-2 minutes') WHERE id = ?",
            (str(worker.deployment_id),),
        )


async def is_late(flow_run_id: UUID) -> None:
    async def look() -> bool:
        async with get_client() as client:
            return (await client.read_flow_run(flow_run_id)).state_name == "Late"

    await wait_until(look, "a late run")


async def set_state(flow_run_id: UUID, state: Any) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(flow_run_id, state, force=True)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_each_notices_what_it_is_for_once(
    prefect_api: str,
    run_deliver: Deliver,
    run_batch: RunBatch,
    worker: Worker,
    other_worker: Worker,
    emulator: Emulator,
    samples: Path,
    fast: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    file = tmp_path / "automations.yaml"
    text = FILE.read_text()
    for within in ("within: 300", "within: 120", "within: 3600"):
        assert within in text
        text = text.replace(within, "within: 15")
    file.write_text(text)
    await register_automations(file)
    there = {name: one.id for name, one in (await automations()).items()}
    mark = uuid4().hex[:12]

    # The slow automations: a late run that never begins, one that does, and no worker.
    await polled_long_ago(worker)
    await due_run(worker)
    begun = await due_run(other_worker)
    await is_late(begun)
    await set_state(begun, Pending())

    emulator.add_fault(ACTION, "http:503")
    manifest = write(samples / f"{mark}-waits.jsonl", [entry(f"{mark}-w")])
    with monkeypatch.context() as impatient:
        impatient.setenv("FACEID_WAIT_IN_RUN", "0")
        await run_batch(manifest)
    await run_batch(write(samples / f"{mark}-bad.jsonl", [entry("a"), entry("a")]))
    emulator.add_fault(ACTION, REFUSES_THE_ACCOUNT, times=2)
    for n in range(2):
        await run_deliver(request_id=f"{mark}-account-{n}")
    emulator.add_fault(ACTION, REFUSES_THE_FILE, times=0)
    many = write(samples / f"{mark}.jsonl", [entry(f"{mark}-{n}") for n in range(25)])
    await run_batch(many)
    await set_state(await due_run(other_worker), Crashed(message="Its process is gone."))
    emit_event(
        "requests.waiting",
        kind="requests",
        name="waiting",
        service="emulator",
        labels={},
        payload={"requests": 1, "since": "-", "such_as": ["r-1"]},
    )
    with monkeypatch.context() as limited:
        limited.setenv("FACEID_MAX_CALLS_PER_DAY", f'{{"{ACTION}": 0}}')
        for n in range(2):
            await run_deliver(request_id=f"{mark}-limit-{n}")

    async def look() -> bool:
        return (await fired(prefect_api, there)).keys() == there.keys()

    with suppress(AssertionError):  # the next assertion shows what is missing
        await wait_until(look, "all automations", 120)
    assert await fired(prefect_api, there) == Counter(there.keys())
