"""Which URLs give access to an object: their form, signature, method, host and window."""

import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import requests
from emulator_calls import JPEG, REGION, Caller, md5
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qcloud_cos import CosConfig, CosS3Client

from faceid.emulator import STORE_KEYS, Emulator, EmulatorOptions

FORM_OF_A_QUERY = (
    f"q-sign-algorithm=sha1&q-ak={STORE_KEYS[REGION].secret_id}&q-sign-time=1;9999999999"
    "&q-key-time=1;9999999999&q-header-list=host&q-url-param-list=&q-signature=" + "0" * 40
)
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def refusal(reply: requests.Response) -> tuple[int, str]:
    assert reply.headers["Content-Type"] == "application/xml"
    found = re.search("<Code>(.*)</Code>", reply.text)
    assert found
    return reply.status_code, found[1]


def test_example_1_of_the_seed(caller: Caller) -> None:
    answer = caller.ticket("ApplyWebVerificationToken")
    assert set(answer) == {"UploadUrl", "ResourceUrl", "ExpiredTimestamp", "RequestId"}
    end = answer["ExpiredTimestamp"]
    assert isinstance(end, int)
    assert len(str(end)) == 10
    times = f"{end - 7200}%3B{end}"
    form = (
        rf"http://{re.escape(caller.host)}/faceid%2FApplyWebVerificationToken%2F({UUID})"
        rf"\?q-sign-algorithm=sha1&q-ak=(AKID\w{{32}})&q-sign-time={times}&q-key-time={times}"
        r"&q-header-list=host&q-url-param-list=&q-signature=([0-9a-f]{40})"
    )
    upload = re.fullmatch(form, answer["UploadUrl"])
    resource = re.fullmatch(form, answer["ResourceUrl"])
    assert upload
    assert resource
    assert upload[1] == resource[1] == answer["RequestId"]
    assert upload[2] == resource[2]
    assert upload[3] != resource[3]


def test_the_window_is_two_hours_from_now(emulator: Emulator, caller: Caller) -> None:
    before = emulator.clock()
    end = caller.ticket()["ExpiredTimestamp"]
    assert int(before) + 7200 <= end <= emulator.clock() + 7200


def test_four_segments() -> None:
    with Emulator(EmulatorOptions(port=0, key_segments=4)) as emulator:
        caller = Caller.of(emulator)
        answer = caller.ticket("GenerateReflectSequence")
        key = unquote(urlsplit(str(answer["UploadUrl"])).path)
        assert re.fullmatch(rf"/faceid/GenerateReflectSequence/\d{{10}}/{answer['RequestId']}", key)
        assert caller.put(answer["UploadUrl"], b"x").status_code == 200
        assert caller.get(answer["ResourceUrl"]).content == b"x"
        assert emulator.requests(op="PutObject")[0]["target_action"] == "GenerateReflectSequence"


def test_urls_carry_the_host_that_the_client_used(emulator: Emulator, caller: Caller) -> None:
    by_name = emulator.url.replace("127.0.0.1", "localhost")
    other = Caller.of(emulator, url=by_name)
    ticket = other.ticket()
    assert ticket["UploadUrl"].startswith(by_name)
    assert other.put(ticket["UploadUrl"], b"x").status_code == 200
    # The host is part of the signature.
    spoilt = ticket["UploadUrl"].replace("localhost", "127.0.0.1")
    assert refusal(caller.put(spoilt, b"x")) == (403, "SignatureDoesNotMatch")


def tamper(url: str, what: str) -> str:
    end = int(re.findall(r"%3B(\d+)", url)[0])
    ak = re.findall("q-ak=([^&]+)", url)[0]
    signature = url[-40:]
    return {
        "signature": url[:-40] + ("0" if signature[0] != "0" else "1") + signature[1:],
        "expiry": url.replace(str(end), str(end + 3600)),
        "sign time": url.replace(f"%3B{end}&q-key", f"%3B{end + 3600}&q-key"),
        "key time": url.replace(f"%3B{end}&q-header", f"%3B{end + 3600}&q-header"),
        "path": url.replace("faceid%2FVideo", "faceid%2Fvideo"),
        "longer path": url.replace("?", "x?", 1),
        "doubly encoded": url.replace("%2F", "%252F"),
        "another region's key": url.replace(ak, STORE_KEYS["ap-hongkong"].secret_id),
        "unknown key": url.replace(ak, "AKID" + "x" * 32),
        "no signature": url.partition("?")[0],
        "half a signature": url.partition("&q-signature")[0],
        "no host signed": url.replace("q-header-list=host", "q-header-list="),
    }[what]


TAMPERINGS = {
    "signature": "SignatureDoesNotMatch",
    "expiry": "SignatureDoesNotMatch",
    "sign time": "SignatureDoesNotMatch",
    "key time": "SignatureDoesNotMatch",
    "path": "SignatureDoesNotMatch",
    "longer path": "SignatureDoesNotMatch",
    "doubly encoded": "SignatureDoesNotMatch",
    "another region's key": "SignatureDoesNotMatch",
    "unknown key": "InvalidAccessKeyId",
    "no signature": "AccessDenied",
    "half a signature": "AccessDenied",
    "no host signed": "SignatureDoesNotMatch",
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_tampering(emulator: Emulator, caller: Caller, what: str) -> None:
    ticket = caller.ticket()
    spoilt = tamper(ticket["UploadUrl"], what)
    assert spoilt != ticket["UploadUrl"]
    assert refusal(caller.put(spoilt, b"x")) == (403, TAMPERINGS[what])
    assert "PutObject" not in emulator.stats()["calls"]
    caller.put(ticket["UploadUrl"], b"x")
    assert refusal(caller.get(tamper(ticket["ResourceUrl"], what))) == (403, TAMPERINGS[what])


def test_each_url_is_for_its_method(caller: Caller) -> None:
    ticket = caller.ticket()
    assert caller.put(ticket["UploadUrl"], b"x").status_code == 200
    assert refusal(caller.put(ticket["ResourceUrl"], b"y")) == (403, "SignatureDoesNotMatch")
    assert refusal(caller.get(ticket["UploadUrl"])) == (403, "SignatureDoesNotMatch")
    assert caller.http.head(ticket["UploadUrl"]).status_code == 403
    assert caller.http.head(ticket["ResourceUrl"]).status_code == 200
    for method in ("POST", "DELETE", "OPTIONS"):
        reply = caller.http.request(method, ticket["UploadUrl"])
        assert refusal(reply) == (405, "MethodNotAllowed")
    assert caller.get(ticket["ResourceUrl"]).content == b"x"


def test_a_slash_may_stand_unencoded(caller: Caller) -> None:
    ticket = caller.ticket()
    plain = ticket["UploadUrl"].replace("%2F", "/")
    assert caller.put(plain, b"x").status_code == 200
    assert caller.get(ticket["ResourceUrl"]).content == b"x"


def test_a_refusal_shows_what_the_server_signed(caller: Caller) -> None:
    ticket = caller.ticket()
    reply = caller.put(ticket["ResourceUrl"], b"x")
    key = unquote(urlsplit(str(ticket["ResourceUrl"])).path)
    host = quote(caller.host, safe="")
    assert f"<FormatString>put\n{key}\n\nhost={host}\n</FormatString>" in reply.text
    assert re.search(r"<StringToSign>sha1\n\d+;\d+\n[0-9a-f]{40}\n</StringToSign>", reply.text)
    assert "<Message>The Signature you specified is invalid.</Message>" in reply.text
    order = re.findall("<([A-Za-z]+)>", reply.text)
    assert order == [
        "Error",
        "Code",
        "Message",
        "StringToSign",
        "FormatString",
        "Resource",
        "RequestId",
        "TraceId",
    ]
    assert reply.headers["x-cos-trace-id"] in reply.text
    assert reply.headers["x-cos-request-id"] in reply.text


def test_the_window_runs_out(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    caller.put(ticket["UploadUrl"], JPEG)
    left = ticket["ExpiredTimestamp"] - emulator.clock()
    emulator.advance(left - 30)
    assert caller.put(ticket["UploadUrl"], JPEG).status_code == 200
    assert caller.get(ticket["ResourceUrl"]).content == JPEG
    emulator.advance(31)
    for reply in (caller.put(ticket["UploadUrl"], JPEG), caller.get(ticket["ResourceUrl"])):
        assert refusal(reply) == (403, "AccessDenied")
        assert "<Message>Request has expired</Message>" in reply.text
        assert re.search(r"<ServerTime>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ</ServerTime>", reply.text)
    assert caller.http.head(ticket["ResourceUrl"]).status_code == 403
    # A client with the real time still gets tickets, with windows on the emulator's moved clock.
    assert caller.ticket()["ExpiredTimestamp"] > ticket["ExpiredTimestamp"]


def test_before_the_window(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.advance(-60)
    assert refusal(caller.put(ticket["UploadUrl"], b"x")) == (403, "AccessDenied")


def store_client_of(emulator: Emulator, secret_id: str, secret_key: str) -> Any:
    return CosS3Client(
        CosConfig(
            Region=REGION,
            SecretId=secret_id,
            SecretKey=secret_key,
            Scheme="http",
            Domain=urlsplit(emulator.url).netloc,
        )
    )


@pytest.fixture
def store_client(emulator: Emulator) -> Any:
    """A client of the vendor's store SDK, unchanged. It signs the host without the port."""
    key = STORE_KEYS[REGION]
    return store_client_of(emulator, key.secret_id, key.secret_key)


def test_urls_of_the_store_sdk(store_client: Any, caller: Caller) -> None:
    key = "faceid/VideoLivenessCompare/a picture (1).jpg"
    put = store_client.get_presigned_url(Bucket="any-1250000000", Key=key, Method="PUT")
    assert caller.put(put, JPEG).status_code == 200
    get = store_client.get_presigned_url(
        Bucket="any-1250000000", Key=key, Method="GET", Params={"x": "1"}
    )
    assert caller.get(get).content == JPEG
    head = store_client.get_presigned_url(Bucket="any-1250000000", Key=key, Method="HEAD")
    assert caller.http.head(head).headers["Content-Length"] == str(len(JPEG))


def test_the_store_sdk_signing_in_the_header(store_client: Any) -> None:
    named = {"Bucket": "any-1250000000", "Key": "a/b c"}
    done = store_client.put_object(**named, Body=JPEG, EnableMD5=True)
    # The SDK returns header names as received, and the server sends them in lower case.
    assert done["etag"] == f'"{md5(JPEG)}"'
    found = store_client.get_object(**named, Range="bytes=0-2")
    assert found["Body"].get_raw_stream().read() == JPEG[:3]
    assert store_client.head_object(**named)["content-length"] == str(len(JPEG))


def test_the_callers_own_key_opens_the_store(emulator: Emulator, caller: Caller) -> None:
    own = store_client_of(emulator, emulator.secret_id, emulator.secret_key)
    url = own.get_presigned_url(Bucket="own-1250000000", Key="k", Method="PUT")
    assert caller.put(url, b"x").status_code == 200


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.text("abc/%2Fx&=?é\\~ ", max_size=12),
    changed=st.sampled_from(["q-ak", "q-sign-time", "q-key-time", "q-header-list", "q-signature"]),
    value=st.text("0123456789;ab%é-", max_size=12),
)
def test_whatever_is_asked_the_store_refuses_properly(
    caller: Caller, path: str, changed: str, value: str
) -> None:
    query = re.sub(f"{changed}=[^&]*", f"{changed}={quote(value)}", FORM_OF_A_QUERY)
    reply = caller.get(f"{caller.url}/x{quote(path, safe='%/')}?{query}")
    assert refusal(reply)[0] == 403
