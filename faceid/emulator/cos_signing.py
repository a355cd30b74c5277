"""The signature of the object store's presigned URLs, as pure functions.

Only the emulator needs it: clients use the URLs as they are. Source: the documentation of the
vendor's object store (COS); test vectors are in ``tests/emulator/test_cos_signing.py``.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote

ALGORITHM = "sha1"
_ELEVEN_DIGITS = 10**10


def http_string(
    method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str]
) -> str:
    """Return the HttpString of a request. ``path`` is percent-decoded and begins with a slash."""
    return f"{method.lower()}\n{path}\n{_pairs(params)}\n{_pairs(headers)}\n"


def _pairs(fields: Mapping[str, str]) -> str:
    encoded = sorted((quote(name.lower(), safe=""), value) for name, value in fields.items())
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in encoded)


def string_to_sign(sign_time: str, http: str) -> str:
    digest = hashlib.sha1(http.encode(), usedforsecurity=False).hexdigest()
    return f"{ALGORITHM}\n{sign_time}\n{digest}\n"


@lru_cache(maxsize=1024)
def sign_key(secret_key: str, key_time: str) -> str:
    """Return the SignKey; cached, because all tickets of the same second share it."""
    return _hmac(secret_key, key_time)


def signature(secret_key: str, key_time: str, to_sign: str) -> str:
    """Return the signature of a StringToSign: 40 hexadecimal digits."""
    return _hmac(sign_key(secret_key, key_time), to_sign)


def _hmac(key: str, message: str) -> str:
    return hmac.digest(key.encode(), message.encode(), "sha1").hex()


def presigned_query(
    method: str, host: str, path: str, *, secret_id: str, secret_key: str, start: int, end: int
) -> str:
    """Return the query of a presigned URL of which only the ``Host`` header is signed.

    ``start`` and ``end`` are Unix seconds. The order of its parts is that of the service's URLs.
    """
    window = f"{start};{end}"
    http = f"{method.lower()}\n{path}\n\nhost={quote(host, safe='')}\n"
    signed = signature(secret_key, window, string_to_sign(window, http))
    times = f"{start}%3B{end}"
    return (
        f"q-sign-algorithm={ALGORITHM}&q-ak={secret_id}&q-sign-time={times}&q-key-time={times}"
        f"&q-header-list=host&q-url-param-list=&q-signature={signed}"
    )


@dataclass(frozen=True)
class Grant:
    """The parsed query of a presigned URL, or ``Authorization`` header of the store."""

    secret_id: str
    sign_time: str
    key_time: str
    header_list: tuple[str, ...]
    param_list: tuple[str, ...]
    signature: str
    start: int
    end: int

    @classmethod
    def parse(cls, query: str) -> "Grant":
        """Parse a query or header. Raises ``ValueError`` if a part is missing or malformed."""
        fields = {
            name: unquote(value)
            for name, _, value in (part.partition("=") for part in query.split("&"))
            if name.startswith("q-")
        }
        try:
            if fields["q-sign-algorithm"] != ALGORITHM:
                raise ValueError("q-sign-algorithm")
            start, end = (int(second) for second in fields["q-sign-time"].split(";"))
            if not 0 <= start <= end < _ELEVEN_DIGITS:
                raise ValueError("q-sign-time")
            return cls(
                secret_id=fields["q-ak"],
                sign_time=fields["q-sign-time"],
                key_time=fields["q-key-time"],
                header_list=_names(fields["q-header-list"]),
                param_list=_names(fields["q-url-param-list"]),
                signature=fields["q-signature"],
                start=start,
                end=end,
            )
        except KeyError as missing:
            raise ValueError(f"{missing.args[0]} is missing") from None

    def http_string(
        self, method: str, path: str, query: str, headers: Mapping[str, str], host: str
    ) -> str:
        """Return the HttpString that the server computes for a request with this grant.

        Listed parameters and headers that are missing count as empty. If the client signed them
        with other values, its signature does not match.
        """
        params: dict[str, str] = {}
        if self.param_list:
            given = {name.lower(): value for name, value in parse_qsl(query, True)}
            params = {name: given.get(name, "") for name in self.param_list}
        named = {name: headers.get(name, "") for name in self.header_list}
        if "host" in named:
            named["host"] = host
        return http_string(method, path, params, named)

    def fits(self, secret_key: str, http_strings: Iterable[str]) -> bool:
        """Return whether the signature matches one of these HttpStrings."""
        return any(
            hmac.compare_digest(
                signature(secret_key, self.key_time, string_to_sign(self.sign_time, http)).encode(),
                self.signature.encode(),
            )
            for http in http_strings
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(unquote(name).lower() for name in text.split(";")) if text else ()
