"""Keys from a Prefect block: service and account of its runs, its check, and key rotation."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from pydantic import SecretStr, ValidationError

from faceid.emulator import Emulator
from faceid.errors import AccountError, InvalidInput, ServiceUnavailable
from faceid.settings import LIVE_ENDPOINT
from tasks.credentials import TencentCredentials, load_settings, settings_of
from tasks.settings import DeliverySettings
from tests.environment import HOME
from tests.flows.batches import Ended, RunBatch, entry, write
from tests.flows.deliveries import Deliver
from tests.flows.deployed import Worker, next_run, swept, tag
from tests.flows.helpers import called, calls_of, nobody_at_work, told_of

Save = Callable[..., Awaitable[str]]


@pytest.fixture
async def save(prefect_api: str, emulator: Emulator) -> AsyncGenerator[Save]:
    """A function that saves a block with the emulator's key, and returns the block's name.

    Keyword arguments change fields of the block.
    """
    name = f"b-{uuid4().hex[:12]}"

    async def save_block(**changes: Any) -> str:
        key = {"secret_id": emulator.secret_id, "secret_key": emulator.secret_key}
        await TencentCredentials.model_validate(key | changes).asave(name, overwrite=True)
        return name

    yield save_block
    async with get_client() as client:
        for document in await client.read_block_documents_by_type("tencent-credentials"):
            if document.name == name:
                await client.delete_block_document(document.id)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure the environment for the live service, without a key."""
    for name in ("FACEID_ENDPOINT", "TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACEID_DATA_KEY", "EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE0=")


async def test_a_block_gives_the_key_and_the_environment_the_rest(
    run_deliver: Deliver, save: Save, samples: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TENCENTCLOUD_SECRET_ID")
    monkeypatch.delenv("TENCENTCLOUD_SECRET_KEY")
    _, result, _ = await run_deliver(credentials=await save())
    assert (result.status, result.service) == ("verdict", "emulator")
    assert (samples / "storage" / "records" / "emulator" / "default").exists()


async def test_a_block_decides_on_service_and_account_in_every_place(
    run_deliver: Deliver, save: Save, emulator: Emulator, samples: Path, elsewhere: None
):
    name = await save(endpoint=emulator.url + "/", account="kiosk")
    state, result, run = await run_deliver(credentials=name)
    assert state.message == "verdict: passed, Success [emulator]"
    assert result.service == "emulator"
    assert "service:emulator" in run.tags
    assert [path.name for path in (samples / "storage" / "records").iterdir()] == ["emulator"]
    assert (samples / "storage" / "records" / "emulator" / "kiosk").exists()
    assert calls_of(emulator) == 1
    _, again, _ = await run_deliver(credentials=name)
    assert (again.calls, calls_of(emulator)) == (1, 1)


async def test_what_a_block_does_not_say_is_the_environments(
    prefect_api: str, save: Save, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("FACEID_ENDPOINT")
    monkeypatch.setenv("TENCENTCLOUD_REGION", "ap-hongkong")
    monkeypatch.setenv("TENCENTCLOUD_TOKEN", "EXAMPLE-token")
    monkeypatch.setenv("FACEID_ACCOUNT", "kiosk")
    settings = await load_settings(await save())
    # The emulator is never a default, and the block's key is not combined with another token.
    assert (settings.endpoint, settings.service) == (LIVE_ENDPOINT, "live")
    assert (settings.region, settings.account) == ("ap-hongkong", "default")
    assert settings.credentials().token is None
    settings = await load_settings(await save(region="ap-bangkok", account="a", token="t1"))
    assert (settings.region, settings.account) == ("ap-bangkok", "a")
    assert settings.credentials().token == SecretStr("t1")
    assert await load_settings("") == DeliverySettings.load()
    assert (await settings_of("gone")).account == "kiosk"


@pytest.mark.parametrize("empty", ["", None])
def test_a_field_that_was_emptied_in_the_form_is_as_good_as_not_given(empty: str | None):
    key = {"secret_id": "AKID1", "secret_key": "k"}
    emptied = dict.fromkeys(("token", "account", "endpoint", "region"), empty)
    given = TencentCredentials.model_validate(key)
    assert TencentCredentials.model_validate(key | emptied) == given
    assert (given.account, given.endpoint, given.token) == ("default", "", SecretStr(""))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"endpoint": "https://host/path"}, "endpoint\n.*must look like https://host"),
        ({"endpoint": "https://me:pw@host"}, "endpoint\n.*port only"),
        ({"account": "a/b"}, "account\n"),
        ({"secret_id": ""}, "secret_id\n"),
        ({"secret_key": ""}, "secret_key\n"),
    ],
)
def test_a_block_that_makes_no_sense_is_not_made(fields: dict[str, str], message: str):
    with pytest.raises(ValidationError, match=message):
        TencentCredentials.model_validate({"secret_id": "AKID1", "secret_key": "k"} | fields)


BAD_NAMES = ["gone", "../../admin/settings", "a/b", "A", "gone?x=1", " "]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_is_no_blocks_is_refused_and_nothing_is_sent(
    run_deliver: Deliver, emulator: Emulator, name: str
):
    state, result, run = await run_deliver(credentials=name)
    assert result.error
    assert (result.error.kind, result.error.code) == ("input", "MissingCredentials")
    reason = "does not exist; create it first" if name == "gone" else "is not a block name"
    assert (state.message or "").startswith("invalid-input: MissingCredentials: ")
    assert reason in (state.message or "")
    assert {"request:r-1", "outcome:invalid-input"} <= set(run.tags)
    assert emulator.requests() == []


async def test_what_the_dashboard_let_through_is_told_by_its_field(
    run_deliver: Deliver, run_batch: RunBatch, emulator: Emulator, save: Save, samples: Path
):
    """The server stores any values; only the dashboard's form validates them."""
    name = await save()
    async with get_client() as client:
        document = await client.read_block_document_by_name(name, "tencent-credentials")
        data = document.data | {"endpoint": "https://me:topsecret@host"}
        await client._client.patch(  # pyright: ignore[reportPrivateUsage]  # to write what the block refuses
            f"/block_documents/{document.id}", json={"data": data, "merge_existing_data": False}
        )
    state, _, _ = await run_deliver(credentials=name)
    said = f"the block tencent-credentials/{name}: endpoint: must consist of a scheme"
    assert said in (state.message or "")
    assert "topsecret" not in str(state)
    manifest = write(samples / "people.jsonl", [entry("p-1")])
    ended = await run_batch(manifest, credentials=name)
    assert said in (ended.state.message or "")
    assert "outcome:invalid-input" in ended.run.tags
    assert emulator.requests() == []


async def test_a_check_costs_a_ticket_and_no_call(save: Save, emulator: Emulator):
    block = await TencentCredentials.aload(await save())
    assert isinstance(block, TencentCredentials)
    await block.acheck()
    await asyncio.to_thread(block.check)
    assert emulator.stats()["calls"] == {"CreateUploadUrl": 2}
    emulator.add_fault("CreateUploadUrl", "api:RequestLimitExceeded")
    await block.acheck()  # the key is valid, even if the account is throttled


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"secret_id": "AKIDnobody"}, AccountError, "SecretIdNotFound.*the block's secret_id"),
        ({"secret_key": "another"}, AccountError, "SignatureFailure.*the block's secret_key"),
        ({"region": "ap-nowhere"}, InvalidInput, "UnsupportedRegion"),
        ({"endpoint": "http://127.0.0.1:9"}, ServiceUnavailable, "cannot connect"),
    ],
)
async def test_a_check_says_what_is_wrong(
    emulator: Emulator, fields: dict[str, str], error: type[Exception], message: str
):
    key = {"secret_id": emulator.secret_id, "secret_key": emulator.secret_key}
    block = TencentCredentials.model_validate(key | fields)
    with pytest.raises(error, match=message) as raised:
        await block.acheck()
    assert emulator.secret_key not in str(raised.value)


async def test_a_check_needs_no_storage(
    emulator: Emulator, elsewhere: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_DATA_KEY", "no key")
    key = {"secret_id": emulator.secret_id, "secret_key": emulator.secret_key}
    await TencentCredentials.model_validate(key | {"endpoint": emulator.url}).acheck()


AT_A_TIME = 4


async def ended_after(
    run_batch: RunBatch, emulator: Emulator, manifest: Path, name: str, *steps: Awaitable[Any]
) -> Ended:
    """Run a batch, and await each step after the action has been called for four more requests.

    Later requests are held back until then, so that the order is the same on slow machines.
    """
    async with AsyncExitStack() as all_held:
        locks: list[AsyncExitStack] = []
        for first in range(AT_A_TIME, AT_A_TIME * (len(steps) + 1), AT_A_TIME):
            locks.append(await all_held.enter_async_context(AsyncExitStack()))
            for number in range(first, first + AT_A_TIME):
                await locks[-1].enter_async_context(nobody_at_work(f"p-{number}"))
        batch = asyncio.create_task(run_batch(manifest, credentials=name, concurrency=AT_A_TIME))
        for number, step in enumerate(steps):
            await called(emulator, AT_A_TIME * (number + 1))
            await step
            await locks[number].aclose()
        return await batch


@pytest.fixture
def manifest(samples: Path) -> Path:
    return write(samples / "people.jsonl", [entry(f"p-{n}") for n in range(3 * AT_A_TIME)])


ALL = "completed: 12 verdicts of 12 requests [emulator]"


async def test_a_rotated_key_is_taken_up_in_mid_batch(
    run_batch: RunBatch, emulator: Emulator, save: Save, manifest: Path
):
    async def rotate(number: int) -> None:
        key = {"secret_id": f"AKIDexample{number}", "secret_key": f"EXAMPLE-key-{number}"}
        await save(**key)
        await asyncio.to_thread(emulator.rotate, **key)

    name = await save()
    ended = await ended_after(run_batch, emulator, manifest, name, rotate(1), rotate(2))
    assert ended.state.message == ALL
    assert {(line.windows, line.calls) for line in ended.lines} == {(1, 1)}
    assert calls_of(emulator) == 12
    assert 2 <= emulator.stats()["errors"]["AuthFailure.SecretIdNotFound"] <= 4 * AT_A_TIME


async def test_a_token_that_dies_in_mid_batch_is_renewed_each_time(
    run_batch: RunBatch, emulator: Emulator, save: Save, manifest: Path
):
    async def die(number: int) -> None:
        token = f"EXAMPLE-token-{number}"
        await save(token=token)
        await asyncio.to_thread(emulator.rotate, emulator.secret_id, emulator.secret_key, token)

    name = await save(token="EXAMPLE-token-0")
    ended = await ended_after(run_batch, emulator, manifest, name, die(1), die(2))
    assert ended.state.message == ALL
    assert calls_of(emulator) == 12
    assert 2 <= emulator.stats()["errors"]["AuthFailure.TokenFailure"] <= 4 * AT_A_TIME


@pytest.mark.parametrize("change", ["none", "account", "gone"])
async def test_a_key_that_has_no_successor_stops_the_batch(
    run_batch: RunBatch, emulator: Emulator, save: Save, manifest: Path, change: str
):
    new = {"secret_id": "AKIDother", "secret_key": "EXAMPLE-other"}
    name = await save()

    async def delete() -> None:
        if change == "account":
            await save(**new, account="other")
        if change == "gone":
            async with get_client() as client:
                document = await client.read_block_document_by_name(name, "tencent-credentials")
                await client.delete_block_document(document.id)
        await asyncio.to_thread(emulator.rotate, **new)

    ended = await ended_after(run_batch, emulator, manifest, name, delete())
    assert ended.state.is_failed()
    code = "AuthFailure.SecretIdNotFound" if change == "none" else "CredentialsChanged"
    assert (ended.state.message or "").startswith(f"invalid-input: {code}: ")
    assert AT_A_TIME <= calls_of(emulator) < 12

    # With a valid key, the same manifest continues from there.
    await save(**new)
    ended = await run_batch(manifest, credentials=name)
    assert ended.state.message == ALL
    assert calls_of(emulator) == 12


async def test_a_follow_up_is_of_the_blocks_service_and_a_sweep_looks_after_it(
    worker: Worker, emulator: Emulator, save: Save, elsewhere: None
):
    name = await save(endpoint=emulator.url, account="kiosk")
    emulator.add_fault("VideoLivenessCompare", "expire-now")
    run_id, _ = next_run(await worker.deliver(credentials=name))
    assert tag(worker.newest(), "service") == "emulator"
    async with get_client() as client:
        await client.delete_flow_run(UUID(run_id))
    assert await swept() == "1 scheduled"
    again = worker.newest()
    assert (tag(again, "service"), tag(again, "window")) == ("emulator", "2")
    assert (await worker.work(again["id"])).message == "verdict: passed, Success [emulator]"
    assert await swept() == "nothing is open"


@pytest.mark.usefixtures("nothing_crashed_before")
async def test_a_sweep_that_gives_a_request_up_tells_of_the_blocks_service(
    prefect_api: str,
    worker: Worker,
    die: Callable[..., Awaitable[UUID]],
    save: Save,
    emulator: Emulator,
    elsewhere: None,
    monkeypatch: pytest.MonkeyPatch,
):
    name = await save(endpoint=emulator.url)
    await die(await worker.trigger(credentials=name))
    monkeypatch.setenv("FACEID_GIVE_UP_AFTER", "0")
    assert DeliverySettings.load().service == "live"
    assert await swept() == "1 given up, 1 marked Crashed"
    (event,) = await told_of(prefect_api, f"faceid.request.emulator.{worker.request_id}", 1)
    assert event["event"] == "faceid.delivery.failed"
    assert event["resource"]["faceid.service"] == "emulator"
    assert event["resource"]["faceid.error-code"] == "RunsDied"


async def test_a_block_that_moved_to_another_service_takes_nothing_along(
    worker: Worker, emulator: Emulator, save: Save, elsewhere: None
):
    name = await save(endpoint=emulator.url)
    emulator.add_fault("VideoLivenessCompare", "expire-now")
    run_id, _ = next_run(await worker.deliver(credentials=name))
    await save(endpoint=LIVE_ENDPOINT)
    state = await worker.work(run_id)
    assert "OtherService: the run was scheduled for the emulator service" in (state.message or "")
    assert await swept() == "nothing is open"


async def test_no_key_of_a_block_is_left_behind(
    run_deliver: Deliver,
    emulator: Emulator,
    save: Save,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    secrets = ("EXAMPLE-secret-of-a-block", "EXAMPLE-token-of-a-block", "EXAMPLE-next-secret")
    name = await save(secret_id="AKIDexample1", secret_key=secrets[0], token=secrets[1])
    _, refused, _ = await run_deliver(credentials=name)
    assert refused.error
    assert refused.error.code == "AuthFailure.SecretIdNotFound"
    emulator.rotate("AKIDexample1", secrets[2])
    with pytest.raises(AccountError):
        await (await load_block(name)).acheck()
    await save(secret_id="AKIDexample1", secret_key=secrets[2], token=secrets[1])
    _, result, _ = await run_deliver(credentials=name, request_id="r-2")
    assert result.status == "verdict"
    places = [path.read_bytes() for path in Path(HOME).rglob("*") if path.is_file()]
    output = capfd.readouterr()
    places += [(output.out + output.err + caplog.text).encode(), result.model_dump_json().encode()]
    for secret in secrets:
        assert not any(secret.encode() in place for place in places), secret
    assert any(name.encode() in place for place in places)  # checks the search


async def load_block(name: str) -> TencentCredentials:
    block = await TencentCredentials.aload(name)
    assert isinstance(block, TencentCredentials)
    return block
