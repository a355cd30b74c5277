"""Planned faults: each kind of fault happens, and appears in the counts."""

import json
import time
from typing import Any

import pytest
from emulator_calls import JPEG, MP4, Caller, line_to, md5, target_of
from requests.exceptions import ChunkedEncodingError, ConnectionError
from test_object_store import content_md5
from test_presigned_urls import refusal

from faceid.emulator import ControlError, Emulator

TICKET = {"TargetAction": "VideoLivenessCompare"}


def fired(emulator: Emulator) -> list[int]:
    return [rule["fired"] for rule in emulator.faults()]


def test_an_api_error(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("CreateUploadUrl", "api:InternalError", times=2)
    codes = [caller.call("CreateUploadUrl", TICKET).get("Error", {}).get("Code") for _ in "123"]
    assert codes == ["InternalError", "InternalError", None]
    assert fired(emulator) == [2]
    stats = emulator.stats()
    assert stats["calls"] == {"CreateUploadUrl": 3}
    assert stats["errors"] == {"InternalError": 2}


def test_throttling_on_order_is_no_call(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("CreateUploadUrl", "api:RequestLimitExceeded")
    emulator.add_fault("CreateUploadUrl", "api:RequestLimitExceeded.UinLimitExceeded")
    assert caller.code("CreateUploadUrl", TICKET) == "RequestLimitExceeded"
    assert caller.code("CreateUploadUrl", TICKET) == "RequestLimitExceeded.UinLimitExceeded"
    stats = emulator.stats()
    assert stats["throttled"] == {"CreateUploadUrl": 2}
    assert stats["calls"] == {}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("ServiceUnavailable", 503),
        ("InternalError", 500),
        ("RequestTimeout", 400),
        ("UserNetworkTooSlow", 400),
        ("EntitySizeNotMatch", 400),
        ("RequestTimeTooSkewed", 403),
        ("Request has expired", 403),
        ("NoSuchBucket", 404),
        ("SomethingNew", 400),
    ],
)
def test_an_error_of_the_store(emulator: Emulator, caller: Caller, code: str, status: int) -> None:
    ticket = caller.ticket()
    emulator.add_fault("PutObject", f"api:{code}")
    assert refusal(caller.put(ticket["UploadUrl"], b"x")) == (status, code)
    assert refusal(caller.get(ticket["ResourceUrl"])) == (404, "NoSuchKey")
    assert emulator.stats()["errors"] == {code: 1, "NoSuchKey": 1}


@pytest.mark.parametrize(
    ("action", "code", "description"),
    [
        ("VideoLivenessCompare", "FailedOperation.CompareLowSimilarity", "did not pass"),
        ("VideoLivenessCompare", "Success", "Success"),
    ],
)
def test_a_verdict_in_the_result(
    emulator: Emulator, caller: Caller, action: str, code: str, description: str
) -> None:
    emulator.add_fault(action, f"result:{code}")
    answer = caller.call(action, caller.comparison())
    assert "Error" not in answer
    assert answer["Result"] == code
    assert description in answer["Description"]
    assert (answer["BestFrame"] is None) == (code != "Success")
    assert (answer["Sim"] == 0) == (code != "Success")
    assert emulator.stats()["errors"] == {}


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_trouble_on_the_way(emulator: Emulator, caller: Caller, status: int) -> None:
    ticket = caller.ticket()
    emulator.add_fault("CreateUploadUrl", f"http:{status}")
    emulator.add_fault("PutObject", f"http:{status}")
    reply = caller.post("CreateUploadUrl", TICKET)
    first = reply.history[0] if reply.history else reply
    put = caller.http.put(ticket["UploadUrl"], data=b"x", allow_redirects=False)
    for answer in (first, put):
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "text/html"
        assert "x-cos-request-id" not in answer.headers
        assert ("Location" in answer.headers) == (status == 302)
    assert emulator.stats()["calls"] == {"CreateUploadUrl": 2, "PutObject": 1}
    assert emulator.stats()["errors"] == {}


def test_a_reset_before_anything_is_done(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.add_fault("CreateUploadUrl", "reset")
    emulator.add_fault("PutObject", "reset")
    emulator.add_fault("GetObject", "reset")
    with pytest.raises(ConnectionError):
        caller.call("CreateUploadUrl", TICKET)
    with pytest.raises(ConnectionError):
        caller.put(ticket["UploadUrl"], b"x" * 1_000_000)
    with pytest.raises(ConnectionError):
        caller.get(ticket["ResourceUrl"])
    assert refusal(caller.get(ticket["ResourceUrl"])) == (404, "NoSuchKey")
    assert emulator.stats()["calls"] == {"CreateUploadUrl": 2, "PutObject": 1, "GetObject": 2}
    cut = [entry["op"] for entry in emulator.requests(status=None)]
    assert cut == ["CreateUploadUrl", "PutObject", "GetObject"]


def test_a_reset_in_the_body_of_a_put(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "reset-after:600000", times=2)
    with pytest.raises(ConnectionError):
        caller.put(ticket["UploadUrl"], b"x" * 3_000_000)
    with pytest.raises(ConnectionError):
        caller.put(ticket["UploadUrl"], b"x" * 10)
    entries = emulator.requests(op="PutObject")
    assert 600_000 <= entries[0]["bytes"] < 3_000_000
    assert entries[1]["bytes"] == 10
    assert {entry["status"] for entry in entries} == {None}
    assert refusal(caller.get(ticket["ResourceUrl"])) == (404, "NoSuchKey")


def received(caller: Caller, url: str) -> bytes:
    """Send a GET, and return what arrives of the body before the connection is reset."""
    got = b""
    with line_to(caller.url) as line:
        line.sendall(f"GET {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n\r\n".encode())
        try:
            while part := line.recv(1024 * 1024):
                got += part
        except ConnectionResetError:
            pass
        else:
            pytest.fail("closed, not reset")
    return got.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("size", [0, 7, 3_000_000])
def test_a_reset_in_the_body_of_an_answer(emulator: Emulator, caller: Caller, size: int) -> None:
    data = bytes(range(250)) * 20_000
    url = caller.upload(data)
    emulator.add_fault("GetObject", f"reset-after:{size}")
    assert received(caller, url) == data[:size]


def test_a_truncated_object(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "truncate", times=1)
    emulator.add_fault("GetObject", "truncate")
    with pytest.raises((ChunkedEncodingError, ConnectionError)):
        caller.put(ticket["UploadUrl"], JPEG)
    with pytest.raises((ChunkedEncodingError, ConnectionError)):
        caller.get(ticket["ResourceUrl"])
    assert caller.get(ticket["ResourceUrl"]).content == JPEG


def test_a_truncated_envelope(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("CreateUploadUrl", "truncate")
    reply = caller.post("CreateUploadUrl", TICKET)
    assert reply.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(reply.content)


def test_a_wrong_etag(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "bad-etag")
    wrong, right = (caller.put(ticket["UploadUrl"], JPEG) for _ in "12")
    assert wrong.headers["ETag"] != right.headers["ETag"] == f'"{md5(JPEG)}"'
    assert len(wrong.headers["ETag"]) == 34


def test_committed_and_not_answered(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "commit-then-reset")
    with pytest.raises(ConnectionError):
        caller.put(ticket["UploadUrl"], JPEG)
    assert caller.get(ticket["ResourceUrl"]).content == JPEG
    given = {
        "ImageUrl": ticket["ResourceUrl"],
        "ImageMd5": md5(JPEG),
        "VideoUrl": caller.upload(MP4),
        "VideoMd5": md5(MP4),
        "LivenessType": "SILENT",
    }
    emulator.add_fault("VideoLivenessCompare", "commit-then-reset")
    with pytest.raises(ConnectionError):
        caller.call("VideoLivenessCompare", given)
    assert emulator.stats()["calls"]["VideoLivenessCompare"] == 1
    # The action was carried out: both files were fetched.
    assert emulator.stats()["calls"]["GetObject"] == 3
    assert [entry["status"] for entry in emulator.requests(op="VideoLivenessCompare")] == [None]


def test_a_ticket_that_is_over_at_once(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("CreateUploadUrl", "expire-now")
    ticket = caller.ticket()
    assert ticket["ExpiredTimestamp"] <= emulator.clock()
    assert refusal(caller.put(ticket["UploadUrl"], b"x")) == (403, "AccessDenied")


@pytest.mark.parametrize("op", ["PutObject", "GetObject"])
def test_an_object_that_is_over_at_once(emulator: Emulator, caller: Caller, op: str) -> None:
    ticket = caller.ticket()
    caller.put(ticket["UploadUrl"], b"x")
    emulator.add_fault(op, "expire-now")
    first = (
        caller.put(ticket["UploadUrl"], b"x")
        if op == "PutObject"
        else caller.get(ticket["ResourceUrl"])
    )
    assert refusal(first) == (403, "AccessDenied")
    assert "Request has expired" in first.text
    # The object stays expired.
    assert refusal(caller.put(ticket["UploadUrl"], b"x")) == (403, "AccessDenied")
    assert refusal(caller.get(ticket["ResourceUrl"])) == (403, "AccessDenied")
    assert caller.put(caller.ticket()["UploadUrl"], b"x").status_code == 200


def test_files_that_are_over_when_they_are_called_for(emulator: Emulator, caller: Caller) -> None:
    given = caller.comparison()
    emulator.add_fault("VideoLivenessCompare", "expire-now")
    for _ in "12":
        assert caller.code("VideoLivenessCompare", given) == "FailedOperation.DownLoadError"
    refused = emulator.requests(op="GetObject", code="AccessDenied")
    assert len(refused) == 4


@pytest.mark.parametrize("do", ["delay:0.3", "stall:0.3"])
def test_slow_answers(emulator: Emulator, caller: Caller, do: str) -> None:
    ticket = caller.ticket()
    for op in ("CreateUploadUrl", "PutObject", "GetObject"):
        emulator.add_fault(op, do)
    begun = time.monotonic()
    assert caller.ticket()
    assert caller.put(ticket["UploadUrl"], JPEG).status_code == 200
    assert caller.get(ticket["ResourceUrl"]).content == JPEG
    assert time.monotonic() - begun >= 0.9


def test_a_stalled_answer_has_begun(emulator: Emulator, caller: Caller) -> None:
    url = caller.upload(JPEG)
    emulator.add_fault("GetObject", "stall:60")
    with line_to(caller.url) as line:
        line.sendall(f"GET {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n\r\n".encode())
        got = b""
        while len(got.partition(b"\r\n\r\n")[2]) < len(JPEG) // 2:
            got += line.recv(65536)
        assert got.startswith(b"HTTP/1.1 200 ")
        line.settimeout(0.1)
        with pytest.raises(TimeoutError):
            line.recv(1)


def test_a_slow_answer_does_not_keep_the_server_from_ending() -> None:
    with Emulator() as emulator:
        caller = Caller.of(emulator)
        url = caller.upload(JPEG)
        emulator.add_fault("GetObject", "delay:60")
        with line_to(caller.url) as line:
            line.sendall(f"GET {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n\r\n".encode())
            while not emulator.stats()["calls"].get("GetObject"):
                pass
            begun = time.monotonic()
            emulator.stop()
            assert time.monotonic() - begun < 3


def test_faults_wait_for_authentication_parameters_and_rate(
    emulator: Emulator, caller: Caller
) -> None:
    emulator.add_fault("CreateUploadUrl", "api:InternalError")
    assert caller.code("CreateUploadUrl", TICKET, secret_key="x") == "AuthFailure.SignatureFailure"
    assert caller.code("CreateUploadUrl", {}) == "MissingParameter"
    assert fired(emulator) == [0]
    assert caller.code("CreateUploadUrl", TICKET) == "InternalError"


def test_the_first_match_fires(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("PutObject", "api:NeverMeant", match={"key": "nothing/*"}, times=0)
    emulator.add_fault("CreateUploadUrl", "api:First")
    emulator.add_fault("CreateUploadUrl", "api:Second", times=0)
    codes = [caller.code("CreateUploadUrl", TICKET) for _ in "123"]
    assert codes == ["First", "Second", "Second"]
    assert fired(emulator) == [0, 1, 2]
    emulator.clear_faults()
    assert emulator.faults() == []
    assert caller.ticket()


def test_matching(emulator: Emulator, caller: Caller) -> None:
    def code(action: str) -> str | None:
        answer = caller.call("CreateUploadUrl", {"TargetAction": action})
        return answer.get("Error", {}).get("Code")

    emulator.add_fault("CreateUploadUrl", "api:A", match={"target_action": "LivenessCompare"})
    emulator.add_fault("CreateUploadUrl", "api:B", match={"key": "faceid/Gen*"})
    assert code("VideoLivenessCompare") is None
    assert code("GenerateReflectSequence") == "B"
    assert code("LivenessCompare") == "A"


def test_matching_by_md5_and_key(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("PutObject", "api:Put", match={"md5": md5(MP4).upper()})
    ticket = caller.ticket()
    url = ticket["UploadUrl"]
    assert caller.put(url, MP4).status_code == 200  # nothing matches without Content-MD5
    assert caller.put(url, JPEG, Content_MD5=content_md5(JPEG)).status_code == 200
    assert refusal(caller.put(url, MP4, Content_MD5=content_md5(MP4))) == (400, "Put")

    emulator.add_fault("GetObject", "api:Get", match={"md5": md5(JPEG)})
    assert refusal(caller.get(ticket["ResourceUrl"])) == (400, "Get")

    given = caller.comparison()
    key = f"*/{ticket['RequestId']}"
    emulator.add_fault("VideoLivenessCompare", "api:ByKey", match={"key": key})
    emulator.add_fault("VideoLivenessCompare", "api:ByMd5", match={"md5": md5(MP4)})
    assert caller.code("VideoLivenessCompare", given) == "ByMd5"
    assert "Result" in caller.call("VideoLivenessCompare", given)
    given["ImageUrl"] = ticket["ResourceUrl"]
    assert caller.code("VideoLivenessCompare", given) == "ByKey"


def test_the_nth_request(emulator: Emulator, caller: Caller) -> None:
    emulator.add_fault("CreateUploadUrl", "api:Third", match={"nth": 3})
    emulator.add_fault("CreateUploadUrl", "api:FourthAndFifth", match={"nth": 4}, times=2)
    codes = [caller.call("CreateUploadUrl", TICKET).get("Error", {}).get("Code") for _ in range(6)]
    assert codes == [None, None, "Third", "FourthAndFifth", "FourthAndFifth", None]


def test_rules_in_a_list_and_as_they_are_shown(emulator: Emulator, caller: Caller) -> None:
    given: list[dict[str, Any]] = [
        {"op": "CreateUploadUrl", "do": "api:A"},
        {"op": "CreateUploadUrl", "do": "api:B", "times": None, "match": {"nth": 1}},
    ]
    reply = caller.http.post(f"{caller.url}/_emulator/faults", json=given)
    assert (
        reply.json()
        == emulator.faults()
        == [
            {"op": "CreateUploadUrl", "do": "api:A", "times": 1, "match": {}, "fired": 0},
            {"op": "CreateUploadUrl", "do": "api:B", "times": 0, "match": {"nth": 1}, "fired": 0},
        ]
    )
    assert [caller.code("CreateUploadUrl", TICKET) for _ in "123"] == ["A", "B", "B"]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"op": "DeleteObject", "do": "reset"}, "CreateUploadUrl"),
        ({"do": "reset"}, "op: None is not one of"),
        ({"op": "PutObject"}, "reset-after:<bytes>"),
        ({"op": "PutObject", "do": "explode"}, "'explode' is not one of api:<Code>"),
        ({"op": "PutObject", "do": "reset:1"}, "is not one of"),
        ({"op": "PutObject", "do": "api:"}, "is not one of"),
        ({"op": "PutObject", "do": "http:99"}, "is not one of"),
        ({"op": "PutObject", "do": "delay:-1"}, "is not one of"),
        ({"op": "PutObject", "do": "stall:inf"}, "is not one of"),
        ({"op": "PutObject", "do": "reset-after:x"}, "is not one of"),
        ({"op": "PutObject", "do": "result:x"}, "VideoLivenessCompare"),
        ({"op": "GenerateReflectSequence", "do": "result:x"}, "no Result"),
        ({"op": "CreateUploadUrl", "do": "bad-etag"}, "PutObject"),
        ({"op": "HeadObject", "do": "truncate"}, "no body"),
        ({"op": "PutObject", "do": "reset", "times": -1}, "times"),
        ({"op": "PutObject", "do": "reset", "times": True}, "times"),
        ({"op": "PutObject", "do": "reset", "when": "now"}, "'when'"),
        ({"op": "PutObject", "do": "reset", "match": {"size": 1}}, "target_action, key, md5, nth"),
        ({"op": "PutObject", "do": "reset", "match": {"nth": 0}}, "nth"),
        ({"op": "PutObject", "do": "reset", "match": {"md5": "abc"}}, "md5"),
        ({"op": "PutObject", "do": "reset", "match": {"key": 1}}, "key"),
        ({"op": "PutObject", "do": "reset", "match": [1]}, "match"),
        ("reset", "object"),
        ([{"op": "PutObject", "do": "reset"}, 1], "object"),
    ],
)
def test_rules_that_cannot_be(
    emulator: Emulator, caller: Caller, rule: Any, complaint: str
) -> None:
    reply = caller.http.post(f"{caller.url}/_emulator/faults", json=rule)
    assert reply.status_code == 400
    assert complaint in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert emulator.faults() == []


def test_the_control_says_what_is_wrong(emulator: Emulator) -> None:
    with pytest.raises(ControlError, match="'explode' is not one of"):
        emulator.add_fault("PutObject", "explode")
