"""The client with a real emulator: tickets, uploads, calls, clocks, keys, and every fault."""

import asyncio
import hashlib
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import fsspec
import httpx
import psutil
import pytest
from pydantic import SecretStr

from faceid.client import FaceIdClient
from faceid.emulator import Emulator, EmulatorOptions
from faceid.errors import (
    AccountError,
    ClockSkewed,
    FaceIdError,
    InvalidInput,
    NoAnswer,
    RateLimited,
    ServiceUnavailable,
    WindowOver,
)
from faceid.http import ConnectionPool, Timeouts
from faceid.models import Credentials, ResourceFile, UploadTicket
from faceid.pacing import Pacer
from faceid.samples import copy_samples

ACTION = "VideoLivenessCompare"
REGION = "ap-singapore"


def credentials_of(emulator: Emulator) -> Credentials:
    return Credentials(secret_id=emulator.secret_id, secret_key=SecretStr(emulator.secret_key))


@pytest.fixture
async def client(faceid_emulator: Emulator) -> AsyncIterator[FaceIdClient]:
    async with FaceIdClient(faceid_emulator.url, credentials_of(faceid_emulator)) as client:
        yield client


def file_of(path: Path | str, content: bytes, field: str = "ImageUrl") -> ResourceFile:
    return ResourceFile(
        field=field,
        location=str(path),
        size=len(content),
        md5=hashlib.md5(content).hexdigest(),
    )


async def ticket_of(client: FaceIdClient, field: str = "ImageUrl") -> UploadTicket:
    return await client.create_upload_url(ACTION, REGION, field)


async def test_a_request_goes_all_the_way(
    client: FaceIdClient, faceid_emulator: Emulator, tmp_path: Path
):
    samples = copy_samples(tmp_path)
    fields: dict[str, str] = {"LivenessType": "SILENT"}
    for field, name in (("Image", "alder.jpg"), ("Video", "alder.mp4")):
        file = file_of(samples[name], samples[name].read_bytes())
        ticket = await ticket_of(client, f"{field}Url")
        await client.put_resource(ticket, file)
        fields[f"{field}Url"] = ticket.resource_url.get_secret_value()
        fields[f"{field}Md5"] = file.md5

    reply = await client.call(ACTION, REGION, fields)

    assert reply.fields["Result"] == "Success"
    assert reply.tencent_request_id
    calls = faceid_emulator.stats()["calls"]
    assert calls["CreateUploadUrl"] == 2
    assert calls["PutObject"] == 2
    assert calls[ACTION] == 1


async def test_a_ticket_says_when_it_ends_and_hides_its_urls(client: FaceIdClient):
    ticket = await ticket_of(client)
    life = ticket.expires_at - ticket.issued_at
    assert abs(life - timedelta(hours=2)) < timedelta(seconds=2)
    assert "q-signature" not in repr(ticket) + str(ticket)


async def test_the_signed_part_of_a_url_arrives_untouched(
    client: FaceIdClient, faceid_emulator: Emulator, tmp_path: Path
):
    """The key is one path segment that contains %2F; the query contains %3B. Both are signed."""
    ticket = await ticket_of(client)
    assert "%2F" in ticket.upload_url.get_secret_value()
    assert "%3B" in ticket.upload_url.get_secret_value()
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    await client.put_resource(ticket, file_of(path, b"hello"))
    (put,) = faceid_emulator.requests(op="PutObject")
    assert put["status"] == 200
    assert put["bytes"] == 5


async def test_any_fsspec_file_is_uploaded(client: FaceIdClient, faceid_emulator: Emulator):
    fsspec.filesystem("memory").pipe("/up/photo", b"from afar")
    await client.put_resource(await ticket_of(client), file_of("memory://up/photo", b"from afar"))
    assert faceid_emulator.requests(op="PutObject")[0]["bytes"] == 9


async def test_memory_does_not_grow_with_the_file(client: FaceIdClient, tmp_path: Path):
    path = tmp_path / "large"
    block = bytes(range(256)) * 4096  # 1 MiB
    digest = hashlib.md5()
    with path.open("wb") as out:
        for _ in range(64):
            out.write(block)
            digest.update(block)
    file = ResourceFile(
        field="VideoUrl", location=str(path), size=64 * len(block), md5=digest.hexdigest()
    )
    ticket = await ticket_of(client, "VideoUrl")
    tracemalloc.start()
    try:
        await client.put_resource(ticket, file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The emulator also runs in this process, and holds chunks of its own.
    assert peak < 16 * len(block)


@pytest.mark.parametrize("now", [b"HELLO", b"hell", b""])
async def test_a_file_that_changed_is_caught(
    client: FaceIdClient, faceid_emulator: Emulator, tmp_path: Path, now: bytes
):
    path = tmp_path / "a"
    path.write_bytes(now)
    with pytest.raises(InvalidInput, match="resource ImageUrl: the file changed"):
        await client.put_resource(await ticket_of(client), file_of(path, b"hello"))
    assert not [put for put in faceid_emulator.requests(op="PutObject") if put["status"] == 200]


async def test_a_file_is_closed_when_its_upload_is_cut_off(client: FaceIdClient, tmp_path: Path):
    class HangsUp(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for _ in request.stream:
                assert str(path) in open_files()
                break
            raise httpx.WriteError("the connection was reset")

    def open_files() -> list[str]:
        return [file.path for file in psutil.Process().open_files()]

    path = tmp_path / "large"
    path.write_bytes(bytes(1_000_000))
    ticket = await ticket_of(client)
    nobody = Credentials(secret_id="AKID", secret_key=SecretStr("key"))
    async with FaceIdClient("http://faceid.test", nobody, transport=HangsUp()) as cut_off:
        with pytest.raises(NoAnswer, match="WriteError"):
            await cut_off.put_resource(ticket, file_of(path, bytes(1_000_000)))
    assert str(path) not in open_files()


async def test_a_file_that_is_gone_is_told(client: FaceIdClient, tmp_path: Path):
    with pytest.raises(InvalidInput, match="resource ImageUrl: the file can no longer be read"):
        await client.put_resource(await ticket_of(client), file_of(tmp_path / "a", b"hello"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("http:503", ServiceUnavailable),
        ("http:500", ServiceUnavailable),
        ("api:SlowDown", RateLimited),
        ("api:RequestTimeout", ServiceUnavailable),
        ("api:BadDigest", ServiceUnavailable),
        ("bad-etag", ServiceUnavailable),
        ("expire-now", WindowOver),
        ("reset", NoAnswer),
        ("commit-then-reset", NoAnswer),
        ("http:302", ServiceUnavailable),
    ],
)
async def test_every_fault_of_the_store_has_its_class(
    client: FaceIdClient,
    faceid_emulator: Emulator,
    tmp_path: Path,
    fault: str,
    expected: type[FaceIdError],
):
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    ticket = await ticket_of(client)
    faceid_emulator.add_fault("PutObject", fault)
    with pytest.raises(expected) as raised:
        await client.put_resource(ticket, file_of(path, b"hello"))
    assert type(raised.value) is expected
    assert raised.value.host == faceid_emulator.url.removeprefix("http://")
    _assert_no_secret(raised.value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("api:InternalError", ServiceUnavailable),
        ("api:RequestLimitExceeded", RateLimited),
        ("api:UnauthorizedOperation.Arrears", AccountError),
        ("api:InvalidParameter", InvalidInput),
        ("http:502", NoAnswer),
        ("reset", NoAnswer),
        ("truncate", NoAnswer),
        ("commit-then-reset", NoAnswer),
    ],
)
async def test_every_fault_of_the_api_has_its_class(
    client: FaceIdClient, faceid_emulator: Emulator, fault: str, expected: type[FaceIdError]
):
    faceid_emulator.add_fault("CreateUploadUrl", fault)
    with pytest.raises(expected) as raised:
        await ticket_of(client)
    assert type(raised.value) is expected
    _assert_no_secret(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    # The next call succeeds.
    assert await ticket_of(client)


def _assert_no_secret(error: BaseException) -> None:
    text = f"{error!r} {error}"
    assert "q-sign" not in text
    assert "http://" not in text


async def test_a_server_that_falls_silent_is_given_up(faceid_emulator: Emulator):
    faceid_emulator.add_fault("CreateUploadUrl", "stall:30")
    timeouts = Timeouts(read=0.05)
    async with FaceIdClient(
        faceid_emulator.url, credentials_of(faceid_emulator), timeouts=timeouts
    ) as client:
        with pytest.raises(NoAnswer, match="ReadTimeout: no answer came"):
            await ticket_of(client)


async def test_a_server_that_is_not_there_was_not_reached(unused_tcp_port: int):
    nobody = Credentials(secret_id="AKIDnobody", secret_key=SecretStr("nothing"))
    async with FaceIdClient(f"http://127.0.0.1:{unused_tcp_port}", nobody) as client:
        with pytest.raises(ServiceUnavailable, match="ConnectError: cannot connect") as raised:
            await ticket_of(client)
    assert not isinstance(raised.value, NoAnswer)


@pytest.mark.parametrize("header", ["a\r\nX-Other: b", "a\n", "ü"])
async def test_what_cannot_be_sent_as_http_is_known_as_not_sent(
    faceid_emulator: Emulator, header: str
):
    async def body() -> AsyncGenerator[bytes]:
        yield b"{}"

    pool = ConnectionPool(Timeouts())
    headers = {"X-TC-Token": header, "Content-Length": "2"}
    with pytest.raises(InvalidInput, match="CannotSend: nothing was sent") as raised:
        await pool.exchange("POST", faceid_emulator.url, headers=headers, content=body())
    assert header not in str(raised.value)
    assert faceid_emulator.requests() == []
    await pool.close()


@pytest.mark.parametrize(
    ("secret_id", "secret_key", "code"),
    [
        ("AKIDnobodyKnowsThisOne00000000000000", None, "AuthFailure.SecretIdNotFound"),
        (None, "not-the-key", "AuthFailure.SignatureFailure"),
    ],
)
async def test_a_wrong_key_says_the_code_and_what_to_do(
    faceid_emulator: Emulator, secret_id: str | None, secret_key: str | None, code: str
):
    wrong = Credentials(
        secret_id=secret_id or faceid_emulator.secret_id,
        secret_key=SecretStr(secret_key or faceid_emulator.secret_key),
        names={"secret_id": "TENCENTCLOUD_SECRET_ID", "secret_key": "TENCENTCLOUD_SECRET_KEY"},
    )
    async with FaceIdClient(faceid_emulator.url, wrong) as client:
        with pytest.raises(AccountError, match=r"Check TENCENTCLOUD_SECRET_") as raised:
            await ticket_of(client)
    assert raised.value.code == code
    assert raised.value.tencent_request_id
    assert wrong.secret_key.get_secret_value() not in str(raised.value)


async def test_expiry_is_counted_on_the_servers_clock(
    client: FaceIdClient, faceid_emulator: Emulator
):
    ticket = await ticket_of(client)
    faceid_emulator.advance(7100)
    await ticket_of(client)  # each reply contains the server's time
    left = ticket.expires_at - client.server_now()
    assert timedelta(seconds=90) < left < timedelta(seconds=105)


@pytest.mark.parametrize("skew", [3600, -3600])
async def test_a_wrong_clock_is_corrected_once_and_for_all(skew: int):
    with Emulator(EmulatorOptions.read(port=0, skew=skew)) as emulator:
        async with FaceIdClient(emulator.url, credentials_of(emulator)) as client:
            await ticket_of(client)
            await ticket_of(client)
            # The first call was refused and signed again; the second used the corrected time.
            assert emulator.stats()["errors"] == {"AuthFailure.SignatureExpire": 1}
            now = time.time() + skew
            assert abs(client.server_now().timestamp() - now) < 2


async def test_a_clock_that_cannot_be_corrected_is_told_after_one_try(
    client: FaceIdClient, faceid_emulator: Emulator
):
    faceid_emulator.add_fault("CreateUploadUrl", "api:AuthFailure.SignatureExpire", times=2)
    with pytest.raises(ClockSkewed, match="clock is more than 5 minutes off"):
        await ticket_of(client)
    assert await ticket_of(client)


async def test_temporary_credentials_are_sent():
    options = EmulatorOptions.read(port=0, token=SecretStr("EXAMPLE-session-token"))
    with Emulator(options) as emulator:
        token = SecretStr("EXAMPLE-session-token")
        temporary = credentials_of(emulator).model_copy(update={"token": token})
        async with FaceIdClient(emulator.url, temporary) as client:
            assert await ticket_of(client)


async def test_a_crowd_of_requests_is_never_throttled(faceid_emulator: Emulator):
    async with FaceIdClient(
        faceid_emulator.url, credentials_of(faceid_emulator), pacers=lambda action: Pacer(20)
    ) as client:
        await asyncio.gather(*(ticket_of(client) for _ in range(30)))
    stats = faceid_emulator.stats()
    assert stats["throttled"] == {}
    assert stats["calls"]["CreateUploadUrl"] == 30
    assert stats["peak_per_second"]["CreateUploadUrl"] <= 20


async def test_the_pacer_is_told_when_each_call_leaves(faceid_emulator: Emulator):
    told: list[tuple[float, float]] = []

    class Watched(Pacer):
        async def departed(self, start: float, lag: float) -> None:
            told.append((start, start + lag))

    began = time.monotonic()
    async with FaceIdClient(
        faceid_emulator.url, credentials_of(faceid_emulator), pacers=lambda action: Watched(20)
    ) as client:
        await ticket_of(client)
        await ticket_of(client)
    ended = time.monotonic()
    assert [began <= start < left < ended for start, left in told] == [True, True]


@pytest.mark.parametrize(
    "reply",
    [
        b'{"Response": {"RequestId": "r"}}',
        b'{"Response": {"RequestId": "r", "UploadUrl": 1, "ResourceUrl": "u", '
        b'"ExpiredTimestamp": 1}}',
        b'{"Response": {"RequestId": "r", "UploadUrl": "u", "ResourceUrl": "u", '
        b'"ExpiredTimestamp": 1e300}}',
    ],
)
async def test_a_ticket_that_lacks_a_field_is_no_answer(reply: bytes):
    """The emulator never sends such replies, so this test starts a server that sends only these."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nDate: nonsense\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(reply), reply)
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    nobody = Credentials(secret_id="AKIDnobody", secret_key=SecretStr("nothing"))
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaceIdClient(f"http://127.0.0.1:{port}", nobody) as client:
            with pytest.raises(
                NoAnswer, match="a field in the reply of CreateUploadUrl is missing"
            ):
                await ticket_of(client)
