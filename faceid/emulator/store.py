"""The object store: ``PUT``, ``GET`` and ``HEAD /<key>`` with presigned URLs.

Signatures and windows are verified. The checks are made in this order (assumed): there is a
signature, its key is known, it is valid, and its window is open. Replies and XML errors are as
documented, unless a comment says otherwise.
"""

import base64
import re
import time
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import unquote

from faceid.emulator.cos_signing import Grant, string_to_sign
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import ClientGone, Exchange, Reply, trouble
from faceid.emulator.faults import NO_FAULT, Fault, Traits
from faceid.emulator.journal import Entry
from faceid.emulator.objects import Incoming
from faceid.emulator.refusals import EXPIRED, StoreRefusal
from faceid.emulator.store_replies import common_headers, describing, error_reply, opaque
from faceid.emulator.tickets import target_action_of

MAX_BYTES = 5 * 1024**3
"""Maximum size in bytes of the body of a PUT (documented)."""

_OPS = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class _Cut(Exception):
    """Raised to cut the connection, because of a fault."""


class Store:
    """Answers the requests to the object store."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request to the store."""
        emulation = self._emulation
        # documented: the key is the raw path after the first slash, decoded once
        key = unquote(exchange.raw_path[1:])
        request_id = opaque(16)
        entry = Entry(
            at=emulation.clock.now(),
            op=_OPS.get(exchange.method, "unknown"),
            target_action=target_action_of(key),
            key=key,
            tencent_request_id=request_id,
        )
        emulation.journal.begin(entry)
        fault = NO_FAULT
        try:
            grant = self._verify(exchange, key)
            fault = self._reach(exchange, entry, key)
            reply = await self._perform(exchange, entry, grant, fault)
        except ClientGone:
            return  # nobody is left to answer, and nothing was stored
        except _Cut:
            await exchange.reset()
            return
        except StoreRefusal as refusal:
            emulation.journal.refuse(entry, refusal.code)
            reply = error_reply(refusal, f"{exchange.headers.get('host', '')}/{key}", request_id)
        if fault.kind != "http":
            reply.headers += common_headers(exchange, request_id)
        if not exchange.keeps_alive:
            await exchange.drain()
        entry.status = None if fault.drops_answer else reply.status
        await exchange.answer(reply, fault)

    def _verify(self, exchange: Exchange, key: str) -> Grant:
        """Verify the signature and the window of a request, and return its parsed signature.

        Raises ``StoreRefusal`` if a check fails.
        """
        if exchange.method not in _OPS:
            raise StoreRefusal("MethodNotAllowed")
        try:
            # The vendor's SDK for the store sends the signature in a header, in the format of a
            # presigned URL's query.
            grant = Grant.parse(exchange.headers.get("authorization") or exchange.query)
        except ValueError:
            raise StoreRefusal("AccessDenied") from None
        pair = self._emulation.store_keys.get(grant.secret_id)
        if pair is None:
            raise StoreRefusal("InvalidAccessKeyId")
        host = exchange.headers.get("host", "")
        # The vendor's SDK for the store signs the host without its port (documented).
        hosts = dict.fromkeys((host, host.rsplit(":", 1)[0]))
        # A URL that is signed for GET is accepted for HEAD (assumed), because the API returns no
        # URL that is signed for HEAD.
        methods = ("HEAD", "GET") if exchange.method == "HEAD" else (exchange.method,)
        http_strings = [
            grant.http_string(method, f"/{key}", exchange.query, exchange.headers, name)
            for method in methods
            for name in hosts
        ]
        if not grant.fits(pair.secret_key, http_strings):
            raise StoreRefusal(
                "SignatureDoesNotMatch",
                details={
                    "StringToSign": string_to_sign(grant.sign_time, http_strings[0]),
                    "FormatString": http_strings[0],
                },
            )
        now = self._emulation.clock.now()
        # A window does not include its end (assumed).
        if not grant.start <= now < grant.end or self._emulation.objects.ended(key):
            raise self._expired()
        return grant

    def _expired(self) -> StoreRefusal:
        server_time = datetime.fromtimestamp(int(self._emulation.clock.now()), UTC)
        return StoreRefusal(
            "AccessDenied",
            EXPIRED,
            details={"ServerTime": server_time.strftime("%Y-%m-%dT%H:%M:%SZ")},
        )

    def _reach(self, exchange: Exchange, entry: Entry, key: str) -> Fault:
        """Count a request that has been verified, and return its fault."""
        self._emulation.journal.count_call(entry.op, time.monotonic())

        def traits() -> Traits:
            if entry.op == "PutObject":
                declared = _content_md5(exchange.headers.get("content-md5", ""))
                md5 = declared.hex() if declared else ""
            else:
                stored = self._emulation.objects.find(key)
                md5 = stored.md5 if stored else ""
            return Traits(entry.target_action, keys=(key,), md5s=(md5,))

        return self._emulation.faults.next_for(entry.op, traits)

    async def _perform(self, exchange: Exchange, entry: Entry, grant: Grant, fault: Fault) -> Reply:
        """Carry out a request, with its fault if there is one, and return the reply.

        Raises ``StoreRefusal`` if the store refuses the request, ``ClientGone`` if the client
        closes the connection before the body is complete, and ``_Cut`` if a fault cuts it.
        """
        key = entry.key or ""
        match fault.kind:
            case "reset":
                raise _Cut
            case "delay":
                await exchange.delay(fault.amount)
            case "http":
                return trouble(int(fault.amount))
            case "api":
                raise StoreRefusal(fault.code)
            case "expire-now":
                self._emulation.objects.end_now(key)
                raise self._expired()
            case _:
                pass
        if entry.op == "PutObject":
            reply = await self._put(exchange, entry, grant, fault)
        else:
            reply = self._get(exchange, entry)
        if fault.kind == "bad-etag":
            reply.headers = [
                (name, b'"%s"' % value.strip(b'"')[::-1] if name == b"etag" else value)
                for name, value in reply.headers
            ]
        return reply

    async def _put(self, exchange: Exchange, entry: Entry, grant: Grant, fault: Fault) -> Reply:
        headers = exchange.headers
        declared = headers.get("content-length")
        if declared is None and "chunked" not in headers.get("transfer-encoding", "").lower():
            raise StoreRefusal("MissingContentLength")  # documented
        if int(declared or 0) > MAX_BYTES:
            raise StoreRefusal("EntityTooLarge")
        wanted = None
        if "content-md5" in headers:
            wanted = _content_md5(headers["content-md5"])
            if wanted is None:
                raise StoreRefusal("InvalidDigest")
        cut_after = fault.amount if fault.kind == "reset-after" else None
        with self._emulation.objects.incoming() as incoming:
            await _receive(exchange, entry, incoming, cut_after)
            if exchange.cut_off or (declared is not None and incoming.size != int(declared)):
                raise StoreRefusal("IncompleteBody")
            if wanted is not None and incoming.md5 != wanted.hex():
                raise StoreRefusal("BadDigest")
            stored = self._emulation.objects.keep(
                incoming,
                entry.key or "",
                content_type=headers.get("content-type", "application/octet-stream"),
                expires=grant.end,
            )
        return Reply(200, describing(stored))

    def _get(self, exchange: Exchange, entry: Entry) -> Reply:
        stored = self._emulation.objects.find(entry.key or "")
        if stored is None:
            raise StoreRefusal("NoSuchKey")
        status, start, end = _asked_range(exchange.headers.get("range", ""), stored.size)
        headers = [
            *describing(stored),
            (b"content-type", stored.content_type.encode("latin-1")),
            (b"last-modified", formatdate(stored.modified, usegmt=True).encode()),
            (b"accept-ranges", b"bytes"),
        ]
        if status == 206:
            headers.append((b"content-range", f"bytes {start}-{end - 1}/{stored.size}".encode()))
        if exchange.method == "HEAD":
            return Reply(status, headers, length=end - start)
        entry.bytes = end - start
        file = self._emulation.objects.open(stored)
        file.seek(start)
        return Reply(status, headers, file=file, length=end - start)


async def _receive(
    exchange: Exchange, entry: Entry, incoming: Incoming, cut_after: float | None
) -> None:
    async for chunk in exchange.chunks():
        incoming.write(chunk)
        entry.bytes = incoming.size
        # The length of a chunked body is not known in advance.
        if incoming.size > MAX_BYTES:
            raise StoreRefusal("EntityTooLarge")
        if cut_after is not None and incoming.size >= cut_after:
            raise _Cut
    if cut_after is not None:
        raise _Cut


def _content_md5(text: str) -> bytes | None:
    """Return the 16 bytes in a Content-MD5 header; ``None`` if the header is invalid."""
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return digest if len(digest) == 16 else None


def _asked_range(header: str, size: int) -> tuple[int, int, int]:
    """Return the status, the start and the end of the reply for a ``Range`` header.

    The end is exclusive. The status of a partial reply is 206 (documented). As in HTTP, a header
    that is malformed or has several ranges is ignored. Raises ``StoreRefusal`` with the code
    ``InvalidRange`` if the range is outside the object (assumed).
    """
    asked = _RANGE.fullmatch(header.strip())
    if asked is None or asked.groups() == ("", ""):
        return 200, 0, size
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return 200, 0, size
    else:
        start, end = max(0, size - int(last)), size
    if start >= end:
        raise StoreRefusal("InvalidRange")
    return 206, start, end
