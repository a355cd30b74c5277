"""Authentication of calls: every way in which a signed call can be wrong."""

import hashlib
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from emulator_calls import Caller
from pydantic import SecretStr

from faceid import signing
from faceid.emulator import Emulator, EmulatorOptions

BODY = b'{"TargetAction": "VideoLivenessCompare"}'
TICKET = {"TargetAction": "VideoLivenessCompare"}


def test_a_right_call_passes(caller: Caller) -> None:
    assert "UploadUrl" in caller.call("CreateUploadUrl", TICKET)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret_id": "AKIDsomebodyElse"}, "AuthFailure.SecretIdNotFound"),
        ({"secret_key": "another"}, "AuthFailure.SignatureFailure"),
        ({"service": "cvm"}, "AuthFailure.SignatureFailure"),
        ({"host": "faceid.example.test"}, "AuthFailure.SignatureFailure"),
        ({"content_type": "text/plain"}, "AuthFailure.SignatureFailure"),
        ({"version": "2017-01-01"}, "NoSuchVersion"),
        ({"version": ""}, "MissingParameter"),
        ({"region": "ap-guangzhou"}, "UnsupportedRegion"),
        ({"region": ""}, "MissingParameter"),
    ],
)
def test_signed_wrongly(caller: Caller, change: dict[str, Any], code: str) -> None:
    # Content-Type and Host are sent correctly; only the signature is made with other values.
    headers: dict[str, str | None] = {"Content-Type": "application/json", "Host": caller.host}
    assert caller.code("CreateUploadUrl", body=BODY, headers=headers, **change) == code


def test_a_body_that_was_changed_on_the_way(caller: Caller) -> None:
    sent = {
        "Content-Type": "application/json",
        "Host": caller.host,
        "X-TC-Timestamp": str(int(time.time())),
    }
    headers = {**sent, "Authorization": signed_over(caller, ("content-type", "host"), sent)}
    assert caller.call("CreateUploadUrl", body=BODY, headers={**headers})["UploadUrl"]
    other = BODY.replace(b"Video", b"")
    assert caller.code("CreateUploadUrl", body=other, headers={**headers}) == (
        "AuthFailure.SignatureFailure"
    )


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": None}, "AuthFailure.InvalidAuthorization"),
        ({"Authorization": "Basic abc"}, "AuthFailure.InvalidAuthorization"),
        (
            {
                "Authorization": "TC3-HMAC-SHA256 Credential=a/b/faceid/tc3_request, "
                "SignedHeaders=host, Signature=0"
            },
            "AuthFailure.InvalidAuthorization",
        ),
        ({"X-TC-Timestamp": None}, "MissingParameter"),
        ({"X-TC-Timestamp": "soon"}, "InvalidParameterValue"),
        ({"X-TC-Timestamp": "9999999999999999"}, "InvalidParameterValue"),
        ({"X-TC-Action": None}, "MissingParameter"),
        ({"X-TC-Action": "CreateDownloadUrl"}, "InvalidAction"),
        ({"X-TC-Action": "ApplyCardVerification"}, "ActionOffline"),
    ],
)
def test_headers_that_are_wrong(caller: Caller, headers: dict[str, str | None], code: str) -> None:
    assert caller.code("CreateUploadUrl", TICKET, headers=headers) == code


def test_the_published_text_of_a_bad_signature(caller: Caller) -> None:
    error = caller.call("CreateUploadUrl", TICKET, secret_key="another")["Error"]
    assert error["Message"] == (
        "The provided credentials could not be validated. Please check your signature is correct."
    )


@pytest.mark.parametrize("seconds", [-310, 310])
def test_five_minutes_off(caller: Caller, seconds: int) -> None:
    timestamp = int(time.time()) + seconds
    assert caller.code("CreateUploadUrl", TICKET, timestamp=timestamp) == (
        "AuthFailure.SignatureExpire"
    )


@pytest.mark.parametrize("seconds", [-290, 290])
def test_not_quite_five_minutes_off(caller: Caller, seconds: int) -> None:
    assert caller.ticket(timestamp=int(time.time()) + seconds)


def test_the_day_before_in_the_scope(caller: Caller) -> None:
    now = int(time.time())
    scope = signing.Scope.at(now - 86400, "faceid")
    names = ("content-type", "host")
    canonical = signing.canonical_request(
        {"content-type": "application/json", "host": caller.host}, names, BODY
    )
    signature = signing.signature(caller.secret_key, now, scope, canonical)
    authorization = signing.authorization(caller.secret_id, scope, names, signature)
    headers: dict[str, str | None] = {"Authorization": authorization, "X-TC-Timestamp": str(now)}
    assert caller.code("CreateUploadUrl", body=BODY, headers=headers) == (
        "AuthFailure.SignatureFailure"
    )


def test_a_scope_that_is_not_the_signed_one(caller: Caller) -> None:
    sent = {
        "Content-Type": "application/json",
        "Host": caller.host,
        "X-TC-Timestamp": str(int(time.time())),
    }
    right = signed_over(caller, ("content-type", "host"), sent)
    headers = {**sent, "Authorization": right.replace("/faceid/", "/cvm/")}
    assert caller.code("CreateUploadUrl", body=BODY, headers={**headers}) == (
        "AuthFailure.SignatureFailure"
    )


def signed_over(caller: Caller, names: tuple[str, ...], sent: dict[str, str], **how: Any) -> str:
    now = int(sent["X-TC-Timestamp"])
    scope = signing.Scope.at(now, "faceid")
    canonical = signing.canonical_request(
        {name.lower(): value for name, value in sent.items()}, names, BODY, **how
    )
    return signing.authorization(
        caller.secret_id,
        scope,
        names,
        signing.signature(caller.secret_key, now, scope, canonical),
    )


def test_more_headers_may_be_signed(caller: Caller) -> None:
    sent = {
        "Content-Type": "application/json; charset=utf-8",
        "Host": caller.host,
        "X-TC-Action": "CreateUploadUrl",
        "X-TC-Timestamp": str(int(time.time())),
    }
    authorization = signed_over(caller, ("content-type", "host", "x-tc-action"), sent)
    headers: dict[str, str | None] = {**sent, "Authorization": authorization}
    assert "UploadUrl" in caller.call("CreateUploadUrl", body=BODY, headers=headers)
    headers["X-TC-Action"] = "VideoLivenessCompare"
    assert caller.code("CreateUploadUrl", body=BODY, headers=headers) == (
        "AuthFailure.SignatureFailure"
    )


def test_a_signed_header_that_does_not_come(caller: Caller) -> None:
    sent = {
        "Content-Type": "application/json",
        "Host": caller.host,
        "X-Extra": "1",
        "X-TC-Timestamp": str(int(time.time())),
    }
    authorization = signed_over(caller, ("content-type", "host", "x-extra"), sent)
    assert caller.code("CreateUploadUrl", body=BODY, headers={"Authorization": authorization}) == (
        "AuthFailure.SignatureFailure"
    )


def test_an_unsigned_payload(caller: Caller) -> None:
    sent = {
        "Content-Type": "application/json",
        "Host": caller.host,
        "X-TC-Timestamp": str(int(time.time())),
    }
    authorization = signed_over(caller, ("content-type", "host"), sent, unsigned_payload=True)
    headers: dict[str, str | None] = {
        "Authorization": authorization,
        "X-TC-Content-SHA256": signing.UNSIGNED_PAYLOAD,
    }
    assert "UploadUrl" in caller.call("CreateUploadUrl", body=BODY, headers=headers)
    del headers["X-TC-Content-SHA256"]
    assert caller.code("CreateUploadUrl", body=BODY, headers=headers) == (
        "AuthFailure.SignatureFailure"
    )
    assert hashlib.sha256(BODY).hexdigest() not in authorization


def test_other_methods(caller: Caller) -> None:
    for method in ("PUT", "DELETE", "OPTIONS"):
        reply = caller.http.request(method, caller.url + "/")
        assert reply.json()["Response"]["Error"]["Code"] == "UnsupportedProtocol"


def test_bodies_that_are_no_json_object(caller: Caller) -> None:
    assert caller.code("CreateUploadUrl", body=b"[]") == "InvalidParameter"
    assert caller.code("CreateUploadUrl", body=b"{") == "InvalidParameter"
    assert caller.code("CreateUploadUrl", body=BODY, content_type="text/plain") == "InvalidRequest"


def test_a_body_over_ten_megabytes(caller: Caller) -> None:
    most = 10 * 1024 * 1024
    assert caller.code("CreateUploadUrl", body=b" " * (most + 1)) == "RequestSizeLimitExceeded"
    assert caller.code("CreateUploadUrl", body=b" " * most) == "InvalidParameter"


@pytest.fixture
def with_token() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(port=0, token=SecretStr("the-session-token"))) as emulator:
        yield emulator


def test_any_token_passes_by_default(emulator: Emulator) -> None:
    assert Caller.of(emulator, token="whatever").ticket()


def test_only_the_right_token_passes_when_there_is_one(with_token: Emulator) -> None:
    assert Caller.of(with_token, token="the-session-token").ticket()
    assert Caller.of(with_token).ticket()
    wrong = Caller.of(with_token, token="a-dead-token")
    assert wrong.code("CreateUploadUrl", TICKET) == "AuthFailure.TokenFailure"


def test_a_server_whose_clock_is_off() -> None:
    with Emulator(EmulatorOptions(port=0, skew=-1000)) as emulator:
        caller = Caller.of(emulator)
        reply = caller.post("CreateUploadUrl", TICKET)
        assert reply.json()["Response"]["Error"]["Code"] == "AuthFailure.SignatureExpire"
        # A client then takes the server's time from the Date header.
        server_time = parsedate_to_datetime(reply.headers["Date"]).timestamp()
        assert abs(server_time - (time.time() - 1000)) < 3
        ticket = caller.ticket(timestamp=int(server_time))
        assert abs(ticket["ExpiredTimestamp"] - 7200 - server_time) < 3
        assert caller.put(ticket["UploadUrl"], b"x").status_code == 200
