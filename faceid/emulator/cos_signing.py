"""The signature of the object store's presigned URLs, as pure functions.

Only the emulator needs them, because clients use the URLs as they are. SignKey, HttpString and
StringToSign are the terms of the documentation.

Source: the documentation of the vendor's object store (COS). Test vectors are in
``tests/emulator/test_cos_signing.py``.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote

ALGORITHM = "sha1"
"""The only value of ``q-sign-algorithm``."""
_ELEVEN_DIGITS = 10**10


def http_string(
    method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str]
) -> str:
    """Return the HttpString of a request: its signed parts as text.

    ``path`` is percent-decoded and begins with a slash. ``params`` and ``headers`` are the signed
    query parameters and headers, not encoded.
    """
    return f"{method.lower()}\n{path}\n{_pairs(params)}\n{_pairs(headers)}\n"


def _pairs(fields: Mapping[str, str]) -> str:
    encoded = sorted((quote(name.lower(), safe=""), value) for name, value in fields.items())
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in encoded)


def string_to_sign(sign_time: str, http: str) -> str:
    """Return the StringToSign of an HttpString. ``sign_time`` is the value of ``q-sign-time``."""
    digest = hashlib.sha1(http.encode(), usedforsecurity=False).hexdigest()
    return f"{ALGORITHM}\n{sign_time}\n{digest}\n"


@lru_cache(maxsize=1024)
def sign_key(secret_key: str, key_time: str) -> str:
    """Return the SignKey for a value of ``q-key-time``: 40 hexadecimal digits.

    It is cached, because all upload tickets of the same second have the same key.
    """
    return _hmac(secret_key, key_time)


def signature(secret_key: str, key_time: str, to_sign: str) -> str:
    """Return the signature of a StringToSign: 40 hexadecimal digits."""
    return _hmac(sign_key(secret_key, key_time), to_sign)


def _hmac(key: str, message: str) -> str:
    return hmac.digest(key.encode(), message.encode(), "sha1").hex()


def presigned_query(
    method: str, host: str, path: str, *, secret_id: str, secret_key: str, start: int, end: int
) -> str:
    """Return the query of a presigned URL that is valid from ``start`` to ``end`` (Unix seconds).

    ``path`` is percent-decoded. The only signed header is ``Host``, and no query parameter is
    signed. The parameters are in the order of the service's URLs (observed).
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
    """A parsed signature: the query of a presigned URL, or the store's ``Authorization`` header."""

    secret_id: str
    """ID of the key that signed it (``q-ak``)."""
    sign_time: str
    """Validity of the signature as text (``q-sign-time``): two times, separated by a semicolon."""
    key_time: str
    """Validity of the SignKey as text (``q-key-time``)."""
    header_list: tuple[str, ...]
    """Lower-case names of the signed headers."""
    param_list: tuple[str, ...]
    """Lower-case names of the signed query parameters."""
    signature: str
    """The signature: 40 hexadecimal digits if it is valid."""
    start: int
    """Beginning of the signature's validity, in Unix seconds."""
    end: int
    """End of the signature's validity, in Unix seconds."""

    @classmethod
    def parse(cls, query: str) -> "Grant":
        """Parse a query, or the value of a header, which has the same format.

        Raises ``ValueError`` if a part is missing or malformed.
        """
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
        """Return the HttpString that the server computes for a request with this signature.

        ``path`` is percent-decoded, and ``host`` replaces the value of the ``Host`` header. Signed
        parameters and headers that the request does not have count as empty; if the client signed
        other values, its signature does not match.
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
        """Return whether ``secret_key`` gives this signature for one of the HttpStrings."""
        return any(
            hmac.compare_digest(
                signature(secret_key, self.key_time, string_to_sign(self.sign_time, http)).encode(),
                self.signature.encode(),
            )
            for http in http_strings
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(unquote(name).lower() for name in text.split(";")) if text else ()
