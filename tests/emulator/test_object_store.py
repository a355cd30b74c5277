"""Objects: what PUT stores and GET returns, what is refused, and when objects are deleted."""

import base64
import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fastcrc
import pytest
import requests
from emulator_calls import JPEG, Caller, line_to, md5, read_all, target_of
from test_presigned_urls import refusal

from faceid.emulator import Emulator, EmulatorOptions
from faceid.emulator.clock import Clock
from faceid.emulator.objects import Objects

CRC_OF = {
    b"123456789": "11051210869376104954",
    b"hello": "11177612005948864433",
    b"abc": "3231342946509354535",
    b"": "0",
}


def content_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.mark.parametrize("data", CRC_OF)
def test_a_put_is_answered_with_its_checksums(caller: Caller, data: bytes) -> None:
    ticket = caller.ticket()
    reply = caller.put(ticket["UploadUrl"], data, Content_Length=str(len(data)))
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["ETag"] == f'"{md5(data)}"'
    assert reply.headers["x-cos-hash-crc64ecma"] == CRC_OF[data]
    assert reply.headers["Server"] == "tencent-cos"
    assert reply.headers["Connection"] == "keep-alive"
    assert reply.headers["x-cos-request-id"]
    assert reply.headers["Date"]
    got = caller.get(ticket["ResourceUrl"])
    assert got.content == data
    assert got.headers["ETag"] == reply.headers["ETag"]


def test_checksums_of_many_pieces(caller: Caller) -> None:
    data = bytes(range(256)) * 12_345
    ticket = caller.ticket()
    reply = caller.put(ticket["UploadUrl"], data)
    assert reply.headers["ETag"] == f'"{md5(data)}"'
    assert reply.headers["x-cos-hash-crc64ecma"] == str(fastcrc.crc64.xz(data))
    assert caller.get(ticket["ResourceUrl"]).content == data


def test_what_a_get_says(caller: Caller) -> None:
    ticket = caller.ticket()
    caller.put(ticket["UploadUrl"], JPEG, Content_Type="image/jpeg")
    reply = caller.get(ticket["ResourceUrl"])
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert reply.headers["Content-Length"] == str(len(JPEG))
    assert reply.headers["Last-Modified"].endswith("GMT")
    head = caller.http.head(ticket["ResourceUrl"])
    assert head.content == b""
    for name in ("ETag", "Content-Length", "Content-Type", "x-cos-hash-crc64ecma"):
        assert head.headers[name] == reply.headers[name]


@pytest.mark.parametrize(
    ("asked", "status", "got", "content_range"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        (f"bytes=5-{'9' * 5000}", 200, b"0123456789", None),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_range(
    caller: Caller, asked: str, status: int, got: bytes, content_range: str | None
) -> None:
    url = caller.upload(b"0123456789")
    reply = caller.get(url, Range=asked)
    assert (reply.status_code, reply.content) == (status, got)
    assert reply.headers.get("Content-Range") == content_range


def test_a_range_outside(caller: Caller) -> None:
    url = caller.upload(b"0123456789")
    assert refusal(caller.get(url, Range="bytes=10-")) == (416, "InvalidRange")
    assert refusal(caller.get(url, Range="bytes=-0")) == (416, "InvalidRange")


def test_a_second_put_replaces_the_first(caller: Caller) -> None:
    ticket = caller.ticket()
    caller.put(ticket["UploadUrl"], b"first")
    caller.put(ticket["UploadUrl"], b"second")
    assert caller.get(ticket["ResourceUrl"]).content == b"second"


def test_content_md5(caller: Caller) -> None:
    ticket = caller.ticket()
    url = ticket["UploadUrl"]
    wrong = caller.put(url, b"hello", Content_MD5=content_md5(b"hullo"))
    assert refusal(wrong) == (400, "BadDigest")
    for malformed in ("5d41402abc4b2a76b9719d911017c592", "x", "aGVsbG8="):
        assert refusal(caller.put(url, b"hello", Content_MD5=malformed)) == (400, "InvalidDigest")
    assert refusal(caller.get(ticket["ResourceUrl"])) == (404, "NoSuchKey")
    right = caller.put(url, b"hello", Content_MD5="XUFAKrxLKna5cZ2REBfFkg==")
    assert right.status_code == 200


def test_nothing_uploaded_yet(caller: Caller) -> None:
    ticket = caller.ticket()
    reply = caller.get(ticket["ResourceUrl"])
    assert refusal(reply) == (404, "NoSuchKey")
    assert "<Message>The specified key does not exist.</Message>" in reply.text
    assert f"<Resource>{caller.host}/faceid/VideoLivenessCompare/" in reply.text
    head = caller.http.head(ticket["ResourceUrl"])
    assert (head.status_code, head.content) == (404, b"")


def test_chunked_is_taken(caller: Caller) -> None:
    ticket = caller.ticket()
    assert caller.put(ticket["UploadUrl"], iter([b"one ", b"two"])).status_code == 200
    assert caller.get(ticket["ResourceUrl"]).content == b"one two"


def raw_put(caller: Caller, url: str, headers: str, body: bytes, *, then: str = "read") -> bytes:
    with line_to(caller.url) as line:
        line.sendall(
            f"PUT {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n{headers}\r\n".encode() + body
        )
        if then == "stop sending":
            line.shutdown(1)
        return read_all(line)


def test_neither_length_nor_chunked(caller: Caller) -> None:
    url = caller.ticket()["UploadUrl"]
    answer = raw_put(caller, url, "Connection: close\r\n", b"")
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"<Code>MissingContentLength</Code>" in answer


def test_more_than_five_gigabytes(caller: Caller) -> None:
    url = caller.ticket()["UploadUrl"]
    with line_to(caller.url) as line:
        head = f"PUT {target_of(url)} HTTP/1.1\r\nHost: {caller.host}\r\n"
        line.sendall(f"{head}Content-Length: {5 * 1024**3 + 1}\r\n\r\n".encode())
        answer = b""
        while b"</Error>" not in answer:
            answer += line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"<Code>EntityTooLarge</Code>" in answer


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: 10\r\n", b"short"),
        ("Transfer-Encoding: chunked\r\n", b"5\r\nshort\r\n"),
        ("Content-Length: 10\r\n", b""),
    ],
)
def test_a_body_that_ends_too_soon(caller: Caller, headers: str, body: bytes) -> None:
    ticket = caller.ticket()
    answer = raw_put(caller, ticket["UploadUrl"], headers, body, then="stop sending")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"<Code>IncompleteBody</Code>" in answer
    assert refusal(caller.get(ticket["ResourceUrl"])) == (404, "NoSuchKey")


def test_only_the_declared_bytes_are_kept(caller: Caller) -> None:
    ticket = caller.ticket()
    headers = "Connection: close\r\nContent-Length: 4\r\n"
    assert raw_put(caller, ticket["UploadUrl"], headers, b"keepdrop").startswith(b"HTTP/1.1 200 ")
    assert caller.get(ticket["ResourceUrl"]).content == b"keep"


@pytest.fixture
def with_folder(tmp_path: Path) -> Iterator[tuple[Emulator, Path]]:
    with Emulator(EmulatorOptions(port=0, data=tmp_path)) as emulator:
        yield emulator, tmp_path / "objects"


def test_objects_go_with_their_window(with_folder: tuple[Emulator, Path]) -> None:
    emulator, folder = with_folder
    caller = Caller.of(emulator)
    caller.upload(JPEG)
    assert len(list(folder.iterdir())) == 1
    emulator.advance(3600)
    later = caller.upload(b"later")
    emulator.advance(3601)
    assert len(list(folder.iterdir())) == 1
    assert caller.get(later).content == b"later"


def test_each_put_clears_away_what_has_ended(tmp_path: Path) -> None:
    clock = Clock()
    objects = Objects(tmp_path, clock)
    for key in ("first", "second"):
        objects.put(key, b"x", content_type="text/plain", expires=clock.now() + 60)
    clock.advance(61)
    objects.put("third", b"x", content_type="text/plain", expires=clock.now() + 60)
    assert len(list((tmp_path / "objects").iterdir())) == 1


def test_a_refused_body_leaves_nothing(with_folder: tuple[Emulator, Path]) -> None:
    emulator, folder = with_folder
    caller = Caller.of(emulator)
    url = caller.ticket()["UploadUrl"]
    assert caller.put(url, b"x" * 500_000, Content_MD5=content_md5(b"")).status_code == 400
    raw_put(caller, url, "Content-Length: 10\r\n", b"x", then="stop sending")
    assert list(folder.iterdir()) == []


def test_a_folder_outlives_the_emulator(tmp_path: Path) -> None:
    with Emulator(EmulatorOptions(port=0, data=tmp_path)) as emulator:
        port = int(emulator.url.rpartition(":")[2])
        caller = Caller.of(emulator)
        url = caller.upload(JPEG)
        left_over = tmp_path / "objects" / "half.part"
        left_over.write_bytes(b"of a body that never came whole")
    with Emulator(EmulatorOptions(port=port, data=tmp_path)) as emulator:
        again = caller.get(url)
        assert (again.content, again.headers["ETag"]) == (JPEG, f'"{md5(JPEG)}"')
        assert not left_over.exists()
        emulator.advance(7201)
        assert list((tmp_path / "objects").iterdir()) == []


@pytest.mark.parametrize("torn", [b"", b"half", b"x00000099", b'{"key": "k"}00000012'])
def test_a_folder_that_was_torn(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "torn.object").write_bytes(torn)
    with Emulator(EmulatorOptions(port=0, data=tmp_path)):
        assert list((tmp_path / "objects").iterdir()) == []


def test_an_old_client(caller: Caller) -> None:
    """With HTTP/1.0, the connection ends after the answer, and a single header says so."""
    url = caller.upload(JPEG)
    with line_to(caller.url) as line:
        line.sendall(f"GET {target_of(url)} HTTP/1.0\r\nHost: {caller.host}\r\n\r\n".encode())
        head, _, body = read_all(line).partition(b"\r\n\r\n")
    assert body == JPEG
    assert head.lower().count(b"connection:") == 1
    assert b"connection: close" in head


def test_without_a_folder_nothing_is_left() -> None:
    with Emulator(EmulatorOptions(port=0)) as emulator:
        folder = emulator.folder
        Caller.of(emulator).upload(JPEG)
        assert folder.exists()
    assert not folder.exists()


def test_a_refusal_is_seen_by_a_client_that_closes(emulator: Emulator, caller: Caller) -> None:
    """urllib asks to close the connection, and sends the whole body before it reads the answer."""
    ticket = caller.ticket()
    emulator.add_fault("PutObject", "api:SlowDown")
    for url, status in ((ticket["ResourceUrl"], 403), (ticket["UploadUrl"], 503)):
        request = urllib.request.Request(url, data=b"x" * 20_000_000, method="PUT")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        with refused.value as reply:
            assert reply.code == status
            assert b"<Error>" in reply.read()


def test_many_requests_on_one_connection(caller: Caller) -> None:
    """The unread part of a refused body does not disturb the next request."""
    ticket = caller.ticket()
    with requests.Session() as session:
        for _ in range(3):
            refused = session.put(ticket["ResourceUrl"], data=b"x" * 3_000_000)
            assert refused.status_code == 403
            assert session.put(ticket["UploadUrl"], data=b"y").status_code == 200
