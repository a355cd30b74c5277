"""``FaceIdClient.verify``: a whole verification in one window, against the real emulator."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

import faceid
from faceid import (
    TARGET_ACTIONS,
    Credentials,
    FaceIdClient,
    FaceIdError,
    InvalidInput,
    NextStep,
    NoAnswer,
    ServiceUnavailable,
    WindowOver,
)
from faceid.emulator import Emulator
from faceid.samples import copy_samples

ACTION = "VideoLivenessCompare"
REGION = "ap-singapore"
SILENT = {"LivenessType": "SILENT"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str | Path]:
    samples = copy_samples(tmp_path)
    return {"ImageUrl": samples["alder.jpg"], "VideoUrl": str(samples["alder.mp4"])}


@pytest.fixture
async def client(
    faceid_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FaceIdClient]:
    monkeypatch.setenv("FACEID_ENDPOINT", faceid_emulator.url + "/")
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", faceid_emulator.secret_id)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", faceid_emulator.secret_key)
    async with FaceIdClient.from_environment() as client:
        yield client


def ops(emulator: Emulator) -> list[str]:
    return [request["op"] for request in emulator.requests() if request["op"] != "unknown"]


async def test_files_are_verified(
    client: FaceIdClient, faceid_emulator: Emulator, files: dict[str, str | Path]
):
    found = await client.verify(ACTION, REGION, files=files, parameters=SILENT)
    assert found.verdict.passed is True
    assert found.verdict.result == "Success"
    assert found.answer.fields["Sim"] == found.verdict.similarity
    assert [upload.field for upload in found.uploads] == ["ImageUrl", "VideoUrl"]
    assert sorted(ops(faceid_emulator)) == sorted(
        ["CreateUploadUrl"] * 2 + ["PutObject"] * 2 + ["GetObject"] * 2 + [ACTION]
    )
    assert "http" not in repr(found)
    best_frame = io.BytesIO()
    md5 = await client.fetch(SecretStr(found.answer.fields["BestFrame"]["Url"]), best_frame)
    assert md5 == found.answer.fields["BestFrame"]["MD5"]


async def test_a_file_may_be_anywhere_and_behind_a_signed_link(
    client: FaceIdClient, faceid_emulator: Emulator, files: dict[str, str | Path]
):
    earlier = await client.verify(ACTION, REGION, files=files, parameters=SILENT)
    link = earlier.uploads[0].ticket.resource_url.get_secret_value()
    again = await client.verify(
        ACTION, REGION, files={**files, "ImageUrl": link}, parameters=SILENT
    )
    assert again.verdict.passed is True
    assert again.uploads[0].md5 == earlier.uploads[0].md5


async def test_a_negative_verdict_is_no_error(
    client: FaceIdClient, faceid_emulator: Emulator, files: dict[str, str | Path]
):
    faceid_emulator.add_fault(ACTION, "result:FailedOperation.CompareLowSimilarity")
    found = await client.verify(ACTION, REGION, files=files, parameters=SILENT)
    assert found.verdict.passed is False
    assert found.verdict.result == "FailedOperation.CompareLowSimilarity"


async def test_an_action_of_ones_own(
    client: FaceIdClient, faceid_emulator: Emulator, files: dict[str, str | Path]
):
    action = TARGET_ACTIONS[ACTION].model_copy(update={"parameters": ()})
    # This table lacks LivenessType, so it is the service that refuses the call.
    with pytest.raises(InvalidInput) as raised:
        await client.verify(action, REGION, files=files)
    assert raised.value.tencent_request_id
    assert len(faceid_emulator.requests(op=ACTION)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "Guess"}, "no target action 'Guess'"),
        ({"region": "eu-west"}, "region 'eu-west' is not supported"),
        ({"files": {"ImageUrl": "nowhere.jpg", "VideoUrl": "nowhere.mp4"}}, "no such file"),
        ({"files": {"ImageUrl": "a.jpg"}}, "resource VideoUrl is missing"),
        ({"parameters": {}}, "parameter LivenessType is missing"),
        ({"parameters": SILENT | {"ImageMd5": "0" * 32}}, "ImageMd5 is computed"),
    ],
)
async def test_wrong_input_is_refused_before_anything_is_sent(
    client: FaceIdClient,
    faceid_emulator: Emulator,
    files: dict[str, str | Path],
    change: dict[str, object],
    message: str,
):
    given = {"action": ACTION, "region": REGION, "files": files, "parameters": SILENT} | change
    with pytest.raises(InvalidInput, match=message):
        await client.verify(**given)  # pyright: ignore[reportArgumentType]  # wrong on purpose
    assert ops(faceid_emulator) == []


@pytest.mark.parametrize(
    ("op", "fault", "error", "next_step"),
    [
        ("CreateUploadUrl", "http:502", ServiceUnavailable, NextStep.DECIDE),
        ("PutObject", "http:503", ServiceUnavailable, NextStep.RETRY),
        ("PutObject", "expire-now", WindowOver, NextStep.NEW_WINDOW),
        (ACTION, "commit-then-reset", NoAnswer, NextStep.DECIDE),
    ],
)
async def test_a_failure_is_raised_and_nothing_is_tried_again(
    client: FaceIdClient,
    faceid_emulator: Emulator,
    files: dict[str, str | Path],
    op: str,
    fault: str,
    error: type[FaceIdError],
    next_step: NextStep,
):
    faceid_emulator.add_fault(op, fault)
    with pytest.raises(error) as raised:
        await client.verify(ACTION, REGION, files=files, parameters=SILENT)
    assert raised.value.next_step is next_step
    assert len(faceid_emulator.requests(op=op)) <= 2  # one for each file, or the one call
    assert faceid_emulator.stats()["calls"].get(ACTION, 0) == (op == ACTION)


async def test_uploads_that_take_all_of_the_window_are_not_called_with(
    faceid_emulator: Emulator, files: dict[str, str | Path]
):
    class SlowUploads(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT":
                faceid_emulator.advance(3595)
            return await super().handle_async_request(request)

    keys = Credentials(
        secret_id=faceid_emulator.secret_id, secret_key=SecretStr(faceid_emulator.secret_key)
    )
    async with FaceIdClient(faceid_emulator.url, keys, transport=SlowUploads()) as client:
        with pytest.raises(WindowOver):
            await client.verify(ACTION, REGION, files=files, parameters=SILENT)
    assert ACTION not in ops(faceid_emulator)


async def test_a_transport_takes_the_networks_place(files: dict[str, str | Path]):
    def refuse(request: httpx.Request) -> httpx.Response:
        assert request.headers["X-TC-Action"] == "CreateUploadUrl"
        return httpx.Response(500)

    keys = Credentials(secret_id="AKID", secret_key=SecretStr("key"))
    transport = httpx.MockTransport(refuse)
    async with FaceIdClient("https://faceid.example", keys, transport=transport) as client:
        with pytest.raises(NoAnswer, match="HTTP 500"):
            await client.verify(ACTION, REGION, files=files, parameters=SILENT)


def test_the_public_names_are_there():
    assert set(faceid.__all__) <= set(dir(faceid))
    for name in faceid.__all__:
        assert getattr(faceid, name) is not None
