"""Authentication of API calls: verifies their TC3-HMAC-SHA256 signature."""

import hmac
import re
from collections.abc import Mapping

from faceid.actions import SERVICE
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import Exchange
from faceid.emulator.refusals import Refusal
from faceid.signing import UNSIGNED_PAYLOAD, Authorization, Scope, canonical_request, signature

MAX_SKEW = 300
"""Maximum difference in seconds between the timestamp and the server's time (documented)."""

_LEAST_SIGNED = frozenset({"content-type", "host"})
"""The headers that must be signed (documented)."""


def authenticate(emulation: Emulation, exchange: Exchange, body: bytes) -> None:
    """Verify the signature of a call. Raises ``Refusal`` unless it is valid and recent.

    The codes of the refusals are documented, unless a comment says otherwise.
    """
    headers = exchange.headers
    try:
        claim = Authorization.parse(headers.get("authorization", ""))
    except ValueError:
        raise Refusal("AuthFailure.InvalidAuthorization") from None
    if not _LEAST_SIGNED.issubset(claim.signed_headers):
        raise Refusal("AuthFailure.InvalidAuthorization")  # assumed
    if claim.secret_id != emulation.secret_id:
        raise Refusal("AuthFailure.SecretIdNotFound")
    timestamp = _timestamp(headers)
    # The timestamp is compared with real time and not with the movable clock, so that clients can
    # still sign calls after the clock was moved.
    if abs(emulation.clock.real() - timestamp) > MAX_SKEW:
        raise Refusal("AuthFailure.SignatureExpire")
    scope = Scope.at(timestamp, SERVICE)
    try:
        canonical = canonical_request(
            headers,
            claim.signed_headers,
            body,
            method=exchange.method,
            query=exchange.query,
            unsigned_payload=headers.get("x-tc-content-sha256") == UNSIGNED_PAYLOAD,
        )
    except KeyError:  # a signed header is missing
        raise Refusal("AuthFailure.SignatureFailure") from None
    expected = signature(emulation.secret_key, timestamp, scope, canonical)
    # A wrong date or service in the credential scope gets the same code (assumed).
    if claim.scope != scope or not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise Refusal("AuthFailure.SignatureFailure")
    token = headers.get("x-tc-token")
    if token and emulation.token and token != emulation.token:
        raise Refusal("AuthFailure.TokenFailure")


def required(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header. Raises ``Refusal`` if it is missing (the code is assumed)."""
    if value := headers.get(name):
        return value
    raise Refusal("MissingParameter", f"The request is missing the header {name}.")


def _timestamp(headers: Mapping[str, str]) -> int:
    text = required(headers, "x-tc-timestamp")
    if not re.fullmatch("[0-9]{1,11}", text):
        raise Refusal("InvalidParameterValue", "X-TC-Timestamp must be Unix seconds.")  # assumed
    return int(text)
