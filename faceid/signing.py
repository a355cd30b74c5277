"""TC3-HMAC-SHA256, the signature method of Tencent Cloud's API, as pure functions.

The client uses it to sign requests, and the emulator to verify them. Nothing here reads a clock,
the environment or the network: everything that is signed is an argument.

Source: "Signature Method v3" of the API documentation. ``tests/faceid/test_signing.py`` contains
the published test vectors, and others generated with the vendor's SDK.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

ALGORITHM = "TC3-HMAC-SHA256"
"""Name of the signature method, the first word of the ``Authorization`` header."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Text that is signed in place of the body if the body is not to be signed."""
CONTENT_TYPE = "application/json"
"""Content type of calls, which is always signed."""


@dataclass(frozen=True)
class Scope:
    """The credential scope of a signature. As text: ``<date>/<service>/tc3_request``."""

    date: str
    """UTC date of the signature (``YYYY-MM-DD``)."""
    service: str
    """The API's service name, such as ``faceid``."""

    @classmethod
    def at(cls, timestamp: int, service: str) -> "Scope":
        """Return the scope of a request with this ``X-TC-Timestamp``, in Unix seconds."""
        return cls(datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d"), service)

    def __str__(self) -> str:
        return f"{self.date}/{self.service}/tc3_request"


def canonical_request(
    headers: Mapping[str, str],
    signed_headers: tuple[str, ...],
    body: bytes,
    *,
    method: str = "POST",
    query: str = "",
    unsigned_payload: bool = False,
) -> str:
    """Return the canonical request: the text whose hash is signed.

    ``headers`` maps lower-case names to the values that are sent. ``signed_headers`` are the names
    of the signed headers, in the order of the ``Authorization`` header. ``query`` is the query of
    a GET. With ``unsigned_payload``, a fixed text takes the place of the body. Raises ``KeyError``
    if a signed header is not among the headers.
    """
    payload = UNSIGNED_PAYLOAD.encode() if unsigned_payload else body
    lines = [f"{name}:{_canonical_value(name, headers[name])}\n" for name in signed_headers]
    return "\n".join(
        (
            method,
            "/",
            query,
            "".join(lines),
            ";".join(signed_headers),
            hashlib.sha256(payload).hexdigest(),
        )
    )


def _canonical_value(name: str, value: str) -> str:
    # The newer edition of the documentation signs the action's name in lower case.
    return value.strip().lower() if name == "x-tc-action" else value.strip()


def signature(secret_key: str, timestamp: int, scope: Scope, canonical: str) -> str:
    """Return the signature of a canonical request: 64 hexadecimal digits.

    ``timestamp`` is in Unix seconds, and ``scope`` must be the scope at that time.
    """
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    string_to_sign = f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
    key = _hmac(("TC3" + secret_key).encode(), scope.date)
    key = _hmac(key, scope.service)
    key = _hmac(key, "tc3_request")
    return hmac.new(key, string_to_sign.encode(), hashlib.sha256).hexdigest()


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def authorization(
    secret_id: str, scope: Scope, signed_headers: tuple[str, ...], signature: str
) -> str:
    """Return the value of the ``Authorization`` header for a signature of these headers."""
    return (
        f"{ALGORITHM} Credential={secret_id}/{scope}, "
        f"SignedHeaders={';'.join(signed_headers)}, Signature={signature}"
    )


@dataclass(frozen=True)
class Authorization:
    """A parsed ``Authorization`` header."""

    secret_id: str
    """ID of the key that signed the request."""
    scope: Scope
    """Date and service of the signature."""
    signed_headers: tuple[str, ...]
    """Lower-case names of the signed headers, in the order in which they were signed."""
    signature: str
    """The signature, 64 hexadecimal digits if it is valid."""

    @classmethod
    def parse(cls, value: str) -> "Authorization":
        """Parse the value of an ``Authorization`` header.

        Raises ``ValueError`` if the value does not have the format that ``authorization`` returns.
        """
        algorithm, _, rest = value.partition(" ")
        fields = {
            name: text
            for name, _, text in (part.strip().partition("=") for part in rest.split(","))
        }
        credential = fields.get("Credential", "").split("/")
        if (
            algorithm != ALGORITHM
            or set(fields) != {"Credential", "SignedHeaders", "Signature"}
            or len(credential) != 4
            or credential[3] != "tc3_request"
        ):
            raise ValueError("the Authorization header is not in the format of TC3-HMAC-SHA256")
        return cls(
            secret_id=credential[0],
            scope=Scope(date=credential[1], service=credential[2]),
            signed_headers=tuple(fields["SignedHeaders"].split(";")),
            signature=fields["Signature"],
        )


def sign_request(
    *,
    secret_id: str,
    secret_key: str,
    token: str = "",
    service: str,
    host: str,
    action: str,
    version: str,
    region: str = "",
    timestamp: int,
    body: bytes,
    content_type: str = CONTENT_TYPE,
) -> dict[str, str]:
    """Return all headers of a signed POST of ``body`` to the path ``/``.

    ``timestamp`` is in Unix seconds. ``host`` is the value of the ``Host`` header, including the
    port if the URL has one. The signed headers are Content-Type and Host, as in the vendor's SDK.
    """
    signed = ("content-type", "host")
    scope = Scope.at(timestamp, service)
    canonical = canonical_request({"content-type": content_type, "host": host}, signed, body)
    headers = {
        "Host": host,
        "Content-Type": content_type,
        "X-TC-Action": action,
        "X-TC-Version": version,
        "X-TC-Timestamp": str(timestamp),
        "Authorization": authorization(
            secret_id, scope, signed, signature(secret_key, timestamp, scope, canonical)
        ),
    }
    if region:
        headers["X-TC-Region"] = region
    if token:
        headers["X-TC-Token"] = token
    return headers
