"""Headers and error bodies of the object store's replies."""

import base64
import secrets
from xml.sax.saxutils import escape

from faceid.emulator.exchange import Exchange, Reply
from faceid.emulator.objects import StoredObject
from faceid.emulator.refusals import StoreRefusal


def describing(stored: StoredObject) -> list[tuple[bytes, bytes]]:
    """Return the headers with the checksums of an object.

    These are the MD5 in double quotes, and the CRC-64 as an unsigned decimal number (documented).
    """
    return [
        (b"etag", f'"{stored.md5}"'.encode()),
        (b"x-cos-hash-crc64ecma", str(stored.crc64).encode()),
    ]


def common_headers(exchange: Exchange, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that all replies of the store have, except ``Date`` and the length."""
    return [
        (b"x-cos-request-id", request_id.encode()),
        (b"server", b"tencent-cos"),
        (b"connection", b"keep-alive" if exchange.keeps_alive else b"close"),
    ]


def opaque(size: int) -> str:
    """Return a random request ID or trace ID, in base64 (observed).

    ``size`` is the number of random bytes, which are first written in hexadecimal.
    """
    return base64.b64encode(secrets.token_hex(size).encode()).decode()


def error_reply(refusal: StoreRefusal, resource: str, request_id: str) -> Reply:
    """Return the reply for a refusal, with the store's XML in its body.

    ``resource`` is the host and the key of the object.
    """
    trace_id = opaque(24)
    elements = {
        "Code": refusal.code,
        "Message": refusal.message,
        **refusal.details,
        "Resource": resource,
        "RequestId": request_id,
        "TraceId": trace_id,
    }
    inside = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in elements.items())
    body = f"<?xml version='1.0' encoding='utf-8' ?><Error>{inside}</Error>"
    headers = [(b"content-type", b"application/xml"), (b"x-cos-trace-id", trace_id.encode())]
    return Reply(refusal.status, headers, body.encode("utf-8", "replace"))
