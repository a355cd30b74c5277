"""Who calls: TC3-HMAC-SHA256, verified (fact sheet §2)."""

import hmac
import re
from collections.abc import Mapping

from faceid.actions import SERVICE
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import Exchange
from faceid.emulator.refusals import Refusal
from faceid.signing import UNSIGNED_PAYLOAD, Authorization, Scope, canonical_request, signature

MAX_SKEW = 300
"""Seconds between timestamp and server time (documented §1)."""

_LEAST_SIGNED = frozenset({"content-type", "host"})  # documented §2


def authenticate(emulation: Emulation, exchange: Exchange, body: bytes) -> None:
    """Raises ``Refusal`` when the call is not signed by the emulator's account, now."""
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
    # Real time, not the clock that can be moved: clients go on working when it is moved.
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
    except KeyError:  # a header that was signed has not come
        raise Refusal("AuthFailure.SignatureFailure") from None
    expected = signature(emulation.secret_key, timestamp, scope, canonical)
    # Another day or service in the credential scope: assumed to be the same code.
    if claim.scope != scope or not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise Refusal("AuthFailure.SignatureFailure")
    token = headers.get("x-tc-token")
    if token and emulation.token and token != emulation.token:
        raise Refusal("AuthFailure.TokenFailure")


def required(headers: Mapping[str, str], name: str) -> str:
    """A header's value. Raises ``Refusal``; that it is this code is assumed."""
    if value := headers.get(name):
        return value
    raise Refusal("MissingParameter", f"The request is missing the header {name}.")


def _timestamp(headers: Mapping[str, str]) -> int:
    text = required(headers, "x-tc-timestamp")
    if not re.fullmatch("[0-9]{1,11}", text):
        raise Refusal("InvalidParameterValue", "X-TC-Timestamp must be Unix seconds.")  # assumed
    return int(text)
