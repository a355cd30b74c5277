"""Control calls under ``/_emulator/``: clock, key, log, counts, reset, and invalid calls."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from emulator_calls import JPEG, MP4, Caller, md5

from faceid.emulator import ControlError, Emulator, EmulatorControl
from tests.waiting import until

TICKET = {"TargetAction": "VideoLivenessCompare"}


def test_health(emulator: Emulator) -> None:
    health = emulator.health()
    assert health["status"] == "ok"
    assert health["version"]
    assert abs(health["clock"] - time.time()) < 3


def test_the_clock_moves(emulator: Emulator) -> None:
    assert abs(emulator.clock() - time.time()) < 3
    moved = emulator.advance(7200)
    assert abs(moved - time.time() - 7200) < 3
    assert abs(emulator.clock() - moved) < 3
    emulator.advance(-3600.5)
    assert abs(emulator.clock() - time.time() - 3599.5) < 3


def test_the_date_of_every_answer_follows_the_clock(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    emulator.advance(100_000)
    replies = [
        caller.post("CreateUploadUrl", TICKET),
        caller.post("CreateUploadUrl", {}),
        caller.put(ticket["UploadUrl"], b"x"),
        caller.http.head(ticket["ResourceUrl"]),
        caller.put(caller.ticket()["UploadUrl"], b"x"),
        caller.get(f"{caller.url}/_emulator/health"),
        caller.get(f"{caller.url}/_emulator/nothing"),
    ]
    for reply in replies:
        date = parsedate_to_datetime(reply.headers["Date"]).timestamp()
        assert abs(date - time.time() - 100_000) < 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"advance": "2h"},
        {"advance": True},
        {"advance": None},
        {"advance": 1, "to": 2},
        {"advance": 1e12},
        {"advance": -1e12},
        [7200],
        7200,
    ],
)
def test_moves_that_cannot_be(emulator: Emulator, caller: Caller, body: Any) -> None:
    reply = caller.http.post(f"{caller.url}/_emulator/clock", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]
    assert abs(emulator.clock() - time.time()) < 3


def test_paths_methods_and_bodies_that_are_wrong(caller: Caller) -> None:
    def ask(method: str, path: str, **more: Any) -> tuple[int, str]:
        reply = caller.http.request(method, f"{caller.url}/_emulator/{path}", **more)
        assert reply.headers["Content-Type"] == "application/json"
        return reply.status_code, reply.json()["error"]

    assert ask("GET", "nothing")[0] == 404
    assert ask("POST", "stats")[0] == 405
    assert ask("GET", "reset")[0] == 405
    assert ask("PUT", "faults")[0] == 405
    assert ask("POST", "clock", data=b"{") == (400, "the body must be JSON")
    status, error = ask("GET", "requests?colour=red")
    assert (status, error.startswith("'colour' is not a filter")) == (400, True)
    assert caller.http.head(f"{caller.url}/_emulator/health").status_code == 200


def test_the_accounts_key_is_rotated(emulator: Emulator, caller: Caller) -> None:
    new = Caller(caller.url, "AKIDexampleNew", "EXAMPLE-new-key", http=caller.http)
    assert new.code("CreateUploadUrl", TICKET) == "AuthFailure.SecretIdNotFound"
    emulator.rotate("AKIDexampleNew", "EXAMPLE-new-key")
    assert new.ticket()
    assert caller.code("CreateUploadUrl", TICKET) == "AuthFailure.SecretIdNotFound"
    emulator.rotate("AKIDexampleNew", "EXAMPLE-other-key")
    assert new.code("CreateUploadUrl", TICKET) == "AuthFailure.SignatureFailure"
    emulator.reset()
    assert caller.ticket()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, 'the body must be {"secret_id", "secret_key"}'),
        ([], 'the body must be {"secret_id", "secret_key"}'),
        ({"secret_id": "AKID1"}, "the body must be"),
        ({"secret_id": "AKID1", "secret_key": "k", "port": 1}, "the body must be"),
        ({"secret_id": "a b", "secret_key": "k"}, "FACEID_EMULATOR_SECRET_ID: "),
        ({"secret_id": "AKID1", "secret_key": ""}, "FACEID_EMULATOR_SECRET_KEY: "),
    ],
)
def test_keys_that_cannot_be(caller: Caller, body: Any, error: str) -> None:
    reply = caller.http.post(f"{caller.url}/_emulator/credentials", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(error)
    assert caller.ticket()


def test_the_log(emulator: Emulator, caller: Caller) -> None:
    ticket = caller.ticket()
    key = f"faceid/VideoLivenessCompare/{ticket['RequestId']}"
    caller.put(ticket["UploadUrl"], JPEG)
    caller.call("VideoLivenessCompare", {})
    log = emulator.requests()
    assert [set(entry) for entry in log] == [
        {"at", "op", "target_action", "key", "status", "code", "tencent_request_id", "bytes"}
    ] * 3
    first, second, third = log
    assert (first["op"], first["target_action"]) == ("CreateUploadUrl", "VideoLivenessCompare")
    assert (first["key"], first["tencent_request_id"]) == (key, ticket["RequestId"])
    assert (second["op"], second["key"], second["bytes"]) == ("PutObject", key, len(JPEG))
    assert (third["op"], third["status"], third["code"]) == (
        "VideoLivenessCompare",
        200,
        "MissingParameter",
    )
    assert first["at"] <= second["at"] <= third["at"] <= emulator.clock()


def test_filters(emulator: Emulator, caller: Caller) -> None:
    caller.call("VideoLivenessCompare", caller.comparison())
    caller.code("CreateUploadUrl", {})
    ticket = caller.ticket("LivenessCompare")

    def count(**filters: Any) -> int:
        return len(emulator.requests(**filters))

    assert count() == 9
    assert count(op="PutObject") == 2
    assert count(op="CreateUploadUrl", code="MissingParameter") == 1
    assert count(code=None) == 8
    assert count(status=200) == 9
    assert count(status=404) == 0
    assert count(target_action="LivenessCompare") == 1
    assert count(tencent_request_id=ticket["RequestId"]) == 1
    assert count(key=f"faceid/LivenessCompare/{ticket['RequestId']}") == 1


def test_the_log_is_in_the_order_of_arrival(emulator: Emulator, caller: Caller) -> None:
    caller.call("VideoLivenessCompare", caller.comparison())
    ops = [entry["op"] for entry in emulator.requests()]
    assert ops[4:] == ["VideoLivenessCompare", "GetObject", "GetObject"]


def test_nothing_secret_in_the_log(emulator: Emulator, caller: Caller) -> None:
    given = caller.comparison()
    caller.call("VideoLivenessCompare", given)
    caller.code("Bearer AKIDsecret", {})
    shown = str(emulator.requests()) + str(emulator.stats())
    for secret in ("q-signature", "AKID", emulator.secret_key, given["ImageUrl"][-40:], md5(MP4)):
        assert secret not in shown
    assert emulator.requests(code="InvalidAction")[0]["op"] == "unknown"


def test_counts(emulator: Emulator, caller: Caller) -> None:
    given = caller.comparison()
    caller.call("VideoLivenessCompare", given)
    caller.get(given["ImageUrl"][:-1] + "x")
    caller.http.head(given["ImageUrl"])
    assert emulator.stats() == {
        "calls": {
            "CreateUploadUrl": 2,
            "PutObject": 2,
            "VideoLivenessCompare": 1,
            "GetObject": 2,
            "HeadObject": 1,
        },
        "throttled": {},
        "errors": {"SignatureDoesNotMatch": 1},
        "peak_per_second": {
            "CreateUploadUrl": 2,
            "PutObject": 2,
            "VideoLivenessCompare": 1,
            "GetObject": 2,
            "HeadObject": 1,
        },
    }


def test_reset(emulator: Emulator, caller: Caller) -> None:
    url = caller.upload(JPEG)
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "expire-now")
    caller.put(ticket["UploadUrl"], JPEG)
    emulator.add_fault("CreateUploadUrl", "api:InternalError", times=0)
    emulator.advance(100)
    for _ in range(30):
        caller.call("CreateUploadUrl", TICKET)
    emulator.reset()
    assert emulator.stats() == {
        "calls": {},
        "throttled": {},
        "errors": {},
        "peak_per_second": {},
    }
    assert emulator.requests() == []
    assert emulator.faults() == []
    assert abs(emulator.clock() - time.time()) < 3
    assert list((emulator.folder / "objects").iterdir()) == []
    assert caller.get(url).status_code == 404
    assert caller.put(ticket["UploadUrl"], JPEG).status_code == 200
    assert caller.ticket()


@pytest.mark.parametrize("op", ["VideoLivenessCompare", "PutObject"])
def test_a_reset_cuts_off_what_a_fault_delays(emulator: Emulator, caller: Caller, op: str) -> None:
    ticket = caller.ticket()
    parameters = {
        "ImageUrl": caller.upload(JPEG),
        "ImageMd5": md5(JPEG),
        "VideoUrl": caller.upload(MP4),
        "VideoMd5": md5(MP4),
        "LivenessType": "SILENT",
    }
    emulator.add_fault(op, "delay:3600")
    with ThreadPoolExecutor() as pool:
        delayed = (
            pool.submit(caller.put, ticket["UploadUrl"], JPEG)
            if op == "PutObject"
            else pool.submit(caller.post, op, parameters)
        )
        until(lambda: emulator.faults()[0]["fired"], "the delay")
        emulator.reset()
        assert isinstance(delayed.exception(), requests.ConnectionError)
    assert emulator.requests() == []
    assert list((emulator.folder / "objects").iterdir()) == []


def test_a_reset_does_not_mind_a_client_that_has_gone(
    emulator: Emulator, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.add_fault("PutObject", "delay:3600")
    url = urlsplit(str(caller.ticket()["UploadUrl"]))
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
    head += f"Content-Length: {len(JPEG)}\r\n\r\n"
    assert url.hostname
    with socket.create_connection((url.hostname, url.port or 80)) as client:
        client.sendall(head.encode() + JPEG)
        until(lambda: emulator.faults()[0]["fired"], "the delay")
    emulator.reset()
    until(lambda: emulator.requests() == [], "the reset")
    assert emulator.health()["status"] == "ok"
    assert "Traceback" not in caplog.text


def test_an_emulator_that_is_not_there() -> None:
    with Emulator() as emulator:
        url = emulator.url
    with pytest.raises(ControlError, match=f"no emulator answers at {url}"):
        EmulatorControl(url).health()
