"""The public API as it is meant to be used, for pyright (``make lint``).

Nothing here is run. A change that breaks these types breaks the programs of users as well.
"""

import io
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type

from pydantic import SecretStr

from faceid import (
    CREATE_UPLOAD_URL,
    TARGET_ACTIONS,
    AccountError,
    AnswerFile,
    Credentials,
    FaceIdClient,
    FaceIdError,
    FaceIdSettings,
    InvalidInput,
    NextStep,
    NoAnswer,
    Pacer,
    Parameter,
    RateLimited,
    Reading,
    Reply,
    ResourceField,
    ResourceFile,
    ServiceUnavailable,
    SharedPacer,
    TargetAction,
    Timeouts,
    Upload,
    UploadTicket,
    Verdict,
    Verification,
    WindowOver,
    load_actions,
)

# Target actions: the table, one of your own, and those of a file.

assert_type(TARGET_ACTIONS, dict[str, TargetAction])
assert_type(CREATE_UPLOAD_URL, Literal["CreateUploadUrl"])

COMPARE = TARGET_ACTIONS["VideoLivenessCompare"]
assert_type(COMPARE.rate, float | None)
assert_type(COMPARE.regions, tuple[str, ...])
assert_type(COMPARE.resource("ImageUrl"), ResourceField | None)

OWN = TargetAction(
    name="DetectMask",
    resources=(
        ResourceField(name="ImageUrl", md5_field="ImageMd5", formats=("JPG", "PNG")),
        ResourceField(name="MaskUrl", required=False),
    ),
    parameters=(Parameter(name="Mode", required=True, values=("FAST", "STRICT")),),
    regions=("ap-singapore",),
    rate=10,
    reading=Reading(passed=("NoMask",)),
    files=(AnswerFile(url="Crop.Url", md5="Crop.MD5", suffix=".jpg"),),
)
assert_type(load_actions(Path("actions.json")), dict[str, TargetAction])

# Credentials and settings.

KEY = Credentials(secret_id="AKID", secret_key=SecretStr("key"))
TEMPORARY = Credentials(secret_id="AKID", secret_key=SecretStr("key"), token=SecretStr("token"))
assert_type(TEMPORARY.token, SecretStr | None)

SETTINGS = FaceIdSettings.load()
assert_type(SETTINGS, FaceIdSettings)
assert_type(SETTINGS.credentials(), Credentials)
assert_type(SETTINGS.target_actions(), dict[str, TargetAction])
assert_type(SETTINGS.rate("VideoLivenessCompare"), float | None)
assert_type(SETTINGS.service, Literal["live", "emulator"])


# Clients.


async def renewed() -> Credentials:
    return TEMPORARY


def pacer(action: str) -> Pacer | None:
    rate = SETTINGS.rate(action)
    return None if rate is None else SharedPacer(rate, Path("rates", action))


PACERS: dict[str, Pacer] = {CREATE_UPLOAD_URL: Pacer(20)}

FaceIdClient("https://faceid.intl.tencentcloudapi.com", KEY)
FaceIdClient("http://127.0.0.1:8600", KEY, pacers=PACERS.get)
FaceIdClient(
    "http://127.0.0.1:8600",
    TEMPORARY,
    pacers=pacer,
    renew=renewed,
    fail_fast_on_auth=True,
    timeouts=Timeouts(read=30),
)


async def verify(photo: Path) -> bool | None:
    async with FaceIdClient.from_environment() as client:
        assert_type(client, FaceIdClient)
        assert_type(client.service, Literal["live", "emulator"])
        found = await client.verify(
            "VideoLivenessCompare",
            "ap-singapore",
            files={"ImageUrl": photo, "VideoUrl": "s3://bucket/selfie.mp4"},
            parameters={"LivenessType": "SILENT"},
        )
        # Mappings with values of one type are accepted, too, and so is an action of your own.
        paths: dict[str, Path] = {"ImageUrl": photo}
        await client.verify(OWN, "ap-singapore", paths, {"Mode": "FAST"})
        assert_type(found, Verification)
        assert_type(found.verdict, Verdict)
        assert_type(found.verdict.passed, bool | None)
        assert_type(found.verdict.result, str | None)
        assert_type(found.verdict.description, str | None)
        assert_type(found.verdict.similarity, float | None)
        assert_type(found.answer, Reply)
        assert_type(found.answer.fields, dict[str, Any])
        assert_type(found.uploads, tuple[Upload, ...])
        return found.verdict.passed


async def verify_in_steps(client: FaceIdClient, file: ResourceFile) -> Reply:
    ticket = await client.create_upload_url("VideoLivenessCompare", "ap-singapore", file.field)
    assert_type(ticket, UploadTicket)
    assert_type(ticket.resource_url, SecretStr)
    assert_type(ticket.expires_at, datetime)
    assert_type(client.server_now(), datetime)
    await client.put_resource(ticket, file)
    assert_type(await client.resource_exists(ticket), bool)
    fields = {"ImageUrl": ticket.resource_url.get_secret_value()}
    answer = await client.call("VideoLivenessCompare", "ap-singapore", fields)
    assert_type(await client.fetch(SecretStr(answer.fields["BestFrame"]["Url"]), io.BytesIO()), str)
    return answer


# Errors.


async def verify_or_say_why(photo: Path) -> str:
    try:
        return f"passed: {await verify(photo)}"
    except InvalidInput as error:
        return error.message
    except AccountError as error:
        return error.advice
    except (NoAnswer, WindowOver) as error:
        return error.code
    except RateLimited as error:
        assert_type(error.host, str | None)
        return error.host or ""
    except ServiceUnavailable as error:
        assert_type(error.tencent_request_id, str | None)
        return error.tencent_request_id or ""
    except FaceIdError as error:
        return what_to_do(error)


def what_to_do(error: FaceIdError) -> str:
    assert_type(error.next_step, NextStep)
    assert_type(
        error.kind,
        Literal["input", "conflict", "account", "unavailable", "storage", "expired", "unknown"],
    )
    match error.next_step:
        case NextStep.RETRY | NextStep.WAIT:
            return "try again"
        case NextStep.DECIDE:
            return "look at the bill"
        case NextStep.NEW_WINDOW | NextStep.NEW_URL_ONCE | NextStep.CHECK_RESOURCE:
            return "upload again"
        case NextStep.MEND_INPUT | NextStep.MEND_ACCOUNT | NextStep.GIVE_UP:
            return error.advice
        case NextStep.SIGN_AGAIN | NextStep.RENEW_CREDENTIALS:
            return error.next_step.value


class Counting(Pacer):
    """A pacer of your own."""

    calls = 0

    async def acquire(self) -> float:
        self.calls += 1
        return await super().acquire()
