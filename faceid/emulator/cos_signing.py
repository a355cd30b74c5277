"""The signature of the object store's URLs, as pure functions.

Only the emulator needs it: a client takes the URLs as they are. Source: fact sheet §3.1 and the
vectors of §3.3, which are in ``tests/emulator/test_cos_signing.py``.
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
    """What of a request is signed. ``path`` is percent-decoded, with its leading slash."""
    return f"{method.lower()}\n{path}\n{_pairs(params)}\n{_pairs(headers)}\n"


def _pairs(fields: Mapping[str, str]) -> str:
    encoded = sorted((quote(name.lower(), safe=""), value) for name, value in fields.items())
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in encoded)


def string_to_sign(sign_time: str, http: str) -> str:
    digest = hashlib.sha1(http.encode(), usedforsecurity=False).hexdigest()
    return f"{ALGORITHM}\n{sign_time}\n{digest}\n"


@lru_cache(maxsize=1024)
def sign_key(secret_key: str, key_time: str) -> str:
    """All tickets of one second share it."""
    return _hmac(secret_key, key_time)


def signature(secret_key: str, key_time: str, to_sign: str) -> str:
    """40 hexadecimal digits."""
    return _hmac(sign_key(secret_key, key_time), to_sign)


def _hmac(key: str, message: str) -> str:
    return hmac.digest(key.encode(), message.encode(), "sha1").hex()


def presigned_query(
    method: str, host: str, path: str, *, secret_id: str, secret_key: str, start: int, end: int
) -> str:
    """The query string of a presigned URL that signs the host and nothing else.

    ``start`` and ``end`` are Unix seconds. Form: fact sheet §3.2.
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
    """What a presigned URL, or an ``Authorization`` header of the store, says of itself."""

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
        """Raises ``ValueError`` when a part is missing or is not of the form of §3.1."""
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
        """The server's own HttpString of a request with this grant.

        Parameters and headers that are listed but not there count as empty: the signature of a
        client that sent them does not fit then.
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
        """Whether the signature is that of one of these HttpStrings."""
        return any(
            hmac.compare_digest(
                signature(secret_key, self.key_time, string_to_sign(self.sign_time, http)).encode(),
                self.signature.encode(),
            )
            for http in http_strings
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(unquote(name).lower() for name in text.split(";")) if text else ()
