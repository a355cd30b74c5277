"""The emulator as a separate process, and within this one."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from emulator_calls import JPEG, Caller, line_to, target_of

from faceid.emulator import BadOption, CannotListen, Emulator, EmulatorControl, EmulatorOptions

MB = 1024 * 1024


def environment(**options: str) -> dict[str, str]:
    named = {f"FACEID_EMULATOR_{name.upper()}": value for name, value in options.items()}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **named}


@contextmanager
def process(*arguments: str, **options: str) -> Generator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, *(arguments or ("-m", "faceid.emulator"))],
        env=environment(**{"port": "0", **options}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.terminate()  # not killed, so that it removes its temporary folder
        started.communicate(timeout=10)


def announced(started: subprocess.Popen[str]) -> dict[str, str]:
    assert started.stdout
    return json.loads(started.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_announces_itself_and_ends_cleanly(number: signal.Signals) -> None:
    with process() as started:
        ready = announced(started)
        assert set(ready) == {"url", "secret_id", "secret_key"}
        assert Caller.announced(ready).ticket()
        started.send_signal(number)
        out, err = started.communicate(timeout=10)
        assert (started.returncode, out, err) == (0, "", "")


def test_a_client_that_never_finishes_does_not_keep_it_from_ending() -> None:
    with process() as started:
        caller = Caller.announced(announced(started))
        url = caller.ticket()["UploadUrl"]
        with line_to(caller.url) as line:
            line.sendall(
                f"PUT {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n"
                "Content-Length: 10\r\n\r\nhalf".encode()
            )
            while not EmulatorControl(caller.url).requests(op="PutObject"):
                pass
            started.send_signal(signal.SIGTERM)
            out, err = started.communicate(timeout=10)
        assert (started.returncode, out, err) == (0, "", "")


def test_the_ready_file(tmp_path: Path) -> None:
    ready_file = tmp_path / "new" / "ready.json"
    ready_file.parent.mkdir()
    ready_file.write_text("of an earlier run")
    code = (
        "import pathlib, sys; from faceid.emulator import EmulatorOptions, serve; "
        "path = pathlib.Path(sys.argv[1]); serve(EmulatorOptions.read(), path)"
    )
    with process("-c", code, str(ready_file)) as started:
        ready = announced(started)
        assert json.loads(ready_file.read_text()) == ready
        assert EmulatorControl(ready["url"]).health()["status"] == "ok"
        assert [path.name for path in ready_file.parent.iterdir()] == ["ready.json"]


def test_a_port_that_is_taken() -> None:
    with Emulator() as emulator:
        port = emulator.url.rpartition(":")[2]
        with process(port=port) as started:
            out, err = started.communicate(timeout=20)
        assert started.returncode == 2
        assert out == ""
        assert re.fullmatch(rf"cannot listen on 127\.0\.0\.1 port {port}: .+\n", err)
        with pytest.raises(CannotListen, match=port):
            Emulator(EmulatorOptions(port=int(port))).start()


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(CannotListen, match="cannot listen on"):
        Emulator(EmulatorOptions(port=0, host="192.0.2.1")).start()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"port": "70000"}, "FACEID_EMULATOR_PORT: "),
        ({"window": "0"}, "FACEID_EMULATOR_WINDOW: "),
        ({"rates": "fast"}, "FACEID_EMULATOR_RATES: must be JSON"),
        ({"rates": '{"CreateUploadUrl": 0}'}, "FACEID_EMULATOR_RATES: "),
        ({"data": "/dev/null"}, "FACEID_EMULATOR_DATA: /dev/null: "),
        ({"rates": '{"Nothing": 1}'}, "FACEID_EMULATOR_RATES: there is no action 'Nothing'"),
    ],
)
def test_a_bad_option_refuses_the_start(options: dict[str, str], complaint: str) -> None:
    with process(**options) as started:
        out, err = started.communicate(timeout=20)
    assert (started.returncode, out) == (2, "")
    assert err.startswith(complaint)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", ""),
        ("skew", "inf"),
        ("key_segments", "5"),
        ("key_segments", "x"),
        ("download_seconds", "0"),
        ("secret_id", "with spaces"),
        ("rates", {"CreateUploadUrl": -1}),
        ("actions", "/nowhere/actions.json"),
    ],
)
def test_bad_options(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=r"FACEID_(EMULATOR_)?[A-Z_]+: .+"):
        EmulatorOptions.read(**{name: value})


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEID_EMULATOR_WINDOW", "60")
    monkeypatch.setenv("FACEID_EMULATOR_KEY_SEGMENTS", "4")
    monkeypatch.setenv("FACEID_EMULATOR_SECRET_KEY", "from the environment")
    monkeypatch.setenv("FACEID_EMULATOR_PORT", "")
    options = EmulatorOptions.read(window=120)
    assert (options.window, options.key_segments, options.port) == (120, 4, 8600)
    assert options.secret_key.get_secret_value() == "from the environment"


def test_a_short_window_and_other_keys() -> None:
    options = EmulatorOptions.read(port=0, window=10, secret_id="AKIDmine", secret_key="mine")
    with Emulator(options) as emulator:
        caller = Caller.of(emulator)
        ticket = caller.ticket()
        assert abs(ticket["ExpiredTimestamp"] - emulator.clock() - 10) < 3
        caller.put(ticket["UploadUrl"], b"x")
        emulator.advance(11)
        assert caller.get(ticket["ResourceUrl"]).status_code == 403
        stranger = Caller.of(emulator, secret_id="AKIDEXAMPLEfaceidEmulatorEXAMPLE0001")
        assert stranger.code("CreateUploadUrl", {}) == "AuthFailure.SecretIdNotFound"


def test_every_address() -> None:
    with Emulator(EmulatorOptions(port=0, host="0.0.0.0")) as emulator:
        assert emulator.url.startswith("http://127.0.0.1:")
        caller = Caller.of(emulator)
        assert caller.call("VideoLivenessCompare", caller.comparison())["Result"] == "Success"


def test_an_action_of_ones_own(tmp_path: Path) -> None:
    actions = tmp_path / "actions.json"
    actions.write_text(
        json.dumps(
            [
                {
                    "name": "CompareSomethingNew",
                    "resources": [{"name": "ImageUrl", "md5_field": "ImageMd5"}],
                    "regions": ["ap-singapore"],
                },
                {
                    "name": "NoVerdict",
                    "resources": [{"name": "ImageUrl"}],
                    "regions": ["ap-singapore"],
                    "reading": {},
                },
            ]
        )
    )
    with Emulator(EmulatorOptions.read(port=0, actions=actions)) as emulator:
        caller = Caller.of(emulator)
        url = caller.upload(JPEG, target_action="CompareSomethingNew")
        given = {"ImageUrl": url, "ImageMd5": hashlib.md5(JPEG).hexdigest()}
        assert caller.call("CompareSomethingNew", given)["Result"] == "Success"
        assert set(caller.call("NoVerdict", {"ImageUrl": url})) == {"RequestId"}


def pieces(megabytes: int) -> Iterator[bytes]:
    piece = os.urandom(MB)
    for _ in range(megabytes):
        yield piece


class Body:
    """A request body of known length, which is never in memory as a whole."""

    def __init__(self, megabytes: int) -> None:
        self._size = megabytes * MB
        self._pieces = pieces(megabytes)
        self.md5 = hashlib.md5()

    def __len__(self) -> int:
        return self._size

    def read(self, _: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        self.md5.update(piece)
        return piece


def test_a_large_file_costs_no_memory(tmp_path: Path) -> None:
    with process(data=str(tmp_path)) as started:
        caller = Caller.announced(announced(started))
        caller.upload(JPEG)
        emulator = psutil.Process(started.pid)
        before = emulator.memory_info().rss
        body, ticket = Body(200), caller.ticket()
        peak = 0

        def watched(_: int = -1) -> bytes:
            nonlocal peak
            peak = max(peak, emulator.memory_info().rss)
            return Body.read(body)

        body.read = watched
        reply = caller.put(ticket["UploadUrl"], body)
        assert reply.status_code == 200
        assert reply.headers["ETag"] == f'"{body.md5.hexdigest()}"'
        received = hashlib.md5()
        with caller.http.get(ticket["ResourceUrl"], stream=True, timeout=60) as got:
            for piece in got.iter_content(MB):
                received.update(piece)
                peak = max(peak, emulator.memory_info().rss)
        assert received.digest() == body.md5.digest()
        assert peak - before < 20 * MB


def test_it_needs_neither_httpx_nor_prefect() -> None:
    code = (
        "import sys, faceid.emulator; "
        "print(sorted({'httpx', 'prefect', 'faceid.client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
