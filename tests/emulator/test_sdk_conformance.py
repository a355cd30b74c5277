"""The vendor's Python SDK works with the emulator unchanged, both sync and async."""

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import requests
from emulator_calls import JPEG, MP4, REGION, Caller, credential, md5, profile
from tencentcloud.common import abstract_client, abstract_client_async
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.faceid.v20180301 import models
from tencentcloud.faceid.v20180301.faceid_client import FaceidClient
from tencentcloud.faceid.v20180301.faceid_client_async import (
    FaceidClient as AsyncFaceidClient,
)

from faceid.emulator import Emulator

Ask = Callable[..., Awaitable[Any]]
"""Calls an action with parameters, and returns the SDK's response object."""


def request_of(action: str, parameters: dict[str, Any]) -> Any:
    request: Any = getattr(models, f"{action}Request")()
    request._deserialize(parameters)
    return request


@pytest.fixture(params=["sync", "sync-get", "async"])
def ask(request: pytest.FixtureRequest, target: Any) -> Ask:
    async def sync(
        action: str,
        parameters: dict[str, Any],
        *,
        method: str = "POST",
        keys: Credential | None = None,
        region: str = REGION,
    ) -> Any:
        client = FaceidClient(keys or credential(target), region, profile(target.url, method))
        call: Any = getattr(client, action)
        return await asyncio.to_thread(call, request_of(action, parameters))

    async def asynchronous(
        action: str,
        parameters: dict[str, Any],
        *,
        keys: Credential | None = None,
        region: str = REGION,
    ) -> Any:
        async with AsyncFaceidClient(
            keys or credential(target), region, profile(target.url)
        ) as client:
            call: Any = getattr(client, action)
            return await call(request_of(action, parameters))

    ways: dict[str, Ask] = {
        "sync": sync,
        "sync-get": functools.partial(sync, method="GET"),
        "async": asynchronous,
    }
    return ways[request.param]


async def uploaded(ask: Ask, data: bytes, target_action: str, region: str = REGION) -> str:
    ticket = await ask("CreateUploadUrl", {"TargetAction": target_action}, region=region)
    reply = await asyncio.to_thread(requests.put, ticket.UploadUrl, data=data, timeout=30)
    assert reply.status_code == 200
    return ticket.ResourceUrl


async def downloaded(url: str) -> bytes:
    reply = await asyncio.to_thread(requests.get, url, timeout=30)
    assert reply.status_code == 200
    return reply.content


@pytest.mark.live
async def test_a_ticket(ask: Ask) -> None:
    answer = await ask("CreateUploadUrl", {"TargetAction": "VideoLivenessCompare"})
    assert answer.ExpiredTimestamp - time.time() == pytest.approx(7200, abs=3)
    assert answer.UploadUrl.partition("?")[0].endswith("%2F" + answer.RequestId)
    assert answer.ResourceUrl.partition("?")[0] == answer.UploadUrl.partition("?")[0]


@pytest.mark.live
async def test_what_was_put_can_be_got_and_by_nothing_but_its_url(ask: Ask) -> None:
    ticket = await ask("CreateUploadUrl", {"TargetAction": "VideoLivenessCompare"})
    put = await asyncio.to_thread(requests.put, ticket.UploadUrl, data=JPEG, timeout=30)
    assert (put.status_code, put.headers["ETag"]) == (200, f'"{md5(JPEG)}"')
    assert await downloaded(ticket.ResourceUrl) == JPEG
    spoilt = ticket.ResourceUrl[:-4] + "0000"
    for url in (spoilt, ticket.UploadUrl):
        refusal = await asyncio.to_thread(requests.get, url, timeout=30)
        assert refusal.status_code == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in refusal.text


@pytest.mark.parametrize("region", ["ap-bangkok", "ap-hongkong", "ap-singapore"])
async def test_video_liveness_compare(ask: Ask, region: str) -> None:
    answer = await ask(
        "VideoLivenessCompare",
        {
            "ImageUrl": await uploaded(ask, JPEG, "VideoLivenessCompare", region),
            "ImageMd5": md5(JPEG),
            "VideoUrl": await uploaded(ask, MP4, "VideoLivenessCompare", region),
            "VideoMd5": md5(MP4),
            "LivenessType": "ACTION",
            "ValidateData": "2,1",
        },
        region=region,
    )
    assert (answer.Result, answer.Description) == ("Success", "Success")
    assert 70 <= answer.Sim <= 100
    frame = await downloaded(answer.BestFrame.Url)
    assert (answer.BestFrame.MD5, answer.BestFrame.Size) == (md5(frame), len(frame))
    assert frame.startswith(b"\xff\xd8\xff")


async def test_detect_reflect_liveness_and_compare(ask: Ask) -> None:
    name = "DetectReflectLivenessAndCompare"
    answer = await ask(
        name,
        {
            "LiveDataUrl": await uploaded(ask, b"\x1f\x8blive data", name),
            "LiveDataMd5": md5(b"\x1f\x8blive data"),
            "ImageUrl": await uploaded(ask, JPEG, name),
            "ImageMd5": md5(JPEG),
        },
    )
    assert answer.Result == "Success"
    assert md5(await downloaded(answer.BestFrameUrl)) == answer.BestFrameMd5


async def test_generate_reflect_sequence(ask: Ask) -> None:
    device_data = b"eyJhIjogMX0="
    answer = await ask(
        "GenerateReflectSequence",
        {
            "DeviceDataUrl": await uploaded(ask, device_data, "GenerateReflectSequence"),
            "DeviceDataMd5": md5(device_data),
            "SecurityLevel": "2",
        },
    )
    assert "/faceid-tmp%2FGenerateReflectSequence%2F" in answer.ReflectSequenceUrl
    assert f"{answer.RequestId}_LightData?" in answer.ReflectSequenceUrl
    assert md5(await downloaded(answer.ReflectSequenceUrl)) == answer.ReflectSequenceMd5


async def test_liveness_compare(ask: Ask) -> None:
    answer = await ask(
        "LivenessCompare",
        {
            "ImageUrl": await uploaded(ask, JPEG, "LivenessCompare"),
            "VideoUrl": await uploaded(ask, MP4, "LivenessCompare"),
            "LivenessType": "LIP",
            "ValidateData": "1234",
            "Optional": '{"BestFrameNum": 2}',
        },
    )
    assert answer.Result == "Success"
    assert len(answer.BestFrameList) == 2


async def test_check_id_card_information(ask: Ask) -> None:
    url = await uploaded(ask, JPEG, "CheckIdCardInformation")
    answer = await ask(
        "CheckIdCardInformation",
        {"ImageUrl": url, "Config": '{"Quality": true}', "IsEncrypt": False},
    )
    assert (answer.Result, answer.Warnings) == ("Success", "")
    assert answer.Name
    assert answer.IdNum
    assert answer.Portrait


async def test_id_card_ocr_verification(ask: Ask) -> None:
    url = await uploaded(ask, JPEG, "IdCardOCRVerification")
    answer = await ask(
        "IdCardOCRVerification", {"ImageUrl": url, "Encryption": {"Algorithm": "AES-256-CBC"}}
    )
    assert (answer.Result, answer.Description) == ("0", "Success")


async def test_a_verdict_in_the_result(emulator: Emulator, ask: Ask) -> None:
    emulator.add_fault("CheckIdCardInformation", "result:FailedOperation.OcrWarningOccurred")
    url = await uploaded(ask, JPEG, "CheckIdCardInformation")
    answer = await ask("CheckIdCardInformation", {"ImageUrl": url})
    assert (answer.Result, answer.Sim) == ("FailedOperation.OcrWarningOccurred", 0)


async def refused(ask: Ask, *args: Any, **kwargs: Any) -> TencentCloudSDKException:
    with pytest.raises(TencentCloudSDKException) as caught:
        await ask(*args, **kwargs)
    return caught.value


@pytest.mark.live
async def test_wrong_keys(target: Any, ask: Ask) -> None:
    ticket = {"TargetAction": "VideoLivenessCompare"}
    wrong_key = await refused(ask, "CreateUploadUrl", ticket, keys=credential(target, "wrong"))
    assert wrong_key.get_code() == "AuthFailure.SignatureFailure"
    assert re.search("requestId:[0-9a-f-]{36}", str(wrong_key))
    unknown = await refused(ask, "CreateUploadUrl", ticket, keys=Credential("AKIDx", "y"))
    assert unknown.get_code() == "AuthFailure.SecretIdNotFound"


async def test_refusals(emulator: Emulator, ask: Ask) -> None:
    ticket = {"TargetAction": "VideoLivenessCompare"}
    missing = await refused(ask, "CreateUploadUrl", {})
    assert missing.get_code() == "MissingParameter"
    region = await refused(ask, "CreateUploadUrl", ticket, region="ap-guangzhou")
    assert region.get_code() == "UnsupportedRegion"
    other = await refused(ask, "GetFaceIdResultIntl", {"SdkToken": "x"})
    assert other.get_code() == "InvalidAction"
    emulator.add_fault("CreateUploadUrl", "api:InternalError")
    assert (await refused(ask, "CreateUploadUrl", ticket)).get_code() == "InternalError"


@pytest.mark.live
async def test_an_old_timestamp(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        """The SDK's clock, ten minutes slow."""

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def time(self) -> float:
            return time.time() - 600

    for module in (abstract_client, abstract_client_async):
        monkeypatch.setattr(module, "time", Late())
    late = await refused(ask, "CreateUploadUrl", {"TargetAction": "VideoLivenessCompare"})
    assert late.get_code() == "AuthFailure.SignatureExpire"


async def test_a_token_goes_along(emulator: Emulator, ask: Ask) -> None:
    keys = Credential(emulator.secret_id, emulator.secret_key, "a session token")
    assert (await ask("CreateUploadUrl", {"TargetAction": "LivenessCompare"}, keys=keys)).UploadUrl


async def test_25_calls_at_once(emulator: Emulator, ask: Ask) -> None:
    ticket = {"TargetAction": "VideoLivenessCompare"}
    outcomes = await asyncio.gather(
        *(ask("CreateUploadUrl", ticket) for _ in range(25)), return_exceptions=True
    )
    stats = emulator.stats()
    errors = [error for error in outcomes if isinstance(error, TencentCloudSDKException)]
    assert stats["calls"]["CreateUploadUrl"] + len(errors) == 25
    # The calls arrive within about a second, and no call beyond the limit is let through.
    assert stats["peak_per_second"]["CreateUploadUrl"] <= 20
    assert {error.get_code() for error in errors} <= {"RequestLimitExceeded"}
    assert stats["throttled"].get("CreateUploadUrl", 0) == len(errors)


def test_plain_http_has_the_same_answers(caller: Caller) -> None:
    """This action has been removed from the SDK."""
    url = caller.upload(JPEG, target_action="ApplyWebVerificationToken")
    answer = caller.call(
        "ApplyWebVerificationToken",
        {
            "RedirectUrl": "https://example.test/back",
            "CompareImageUrl": url,
            "CompareImageMd5": md5(JPEG),
        },
    )
    assert set(answer) == {"VerificationUrl", "BizToken", "RequestId"}
