"""Files behind ``http(s)://`` links, such as an object store presigns them.

One GET and no more: such a link is signed for that, and not for HEAD. No redirect is followed, as
it might lead out of the roots. What goes wrong is told without the link.
"""

import base64
import io
from errno import EIO, ENOENT
from http.client import NOT_FOUND, HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from faceid import __version__

SECONDS = 60.0
"""How long to wait for the next bytes."""

# What a URL may hold as it is; all else is percent-encoded, and what is encoded stays.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


def is_link(location: str) -> bool:
    return location.partition("://")[0].lower() in ("http", "https")


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


_OPENER = build_opener(_NoRedirects)


def open_link(url: str) -> IO[bytes]:
    """Raises ``OSError``, as reading then does."""
    try:
        # Only links come here, and where they may point was checked: see ``faceid.files.roots``.
        response: HTTPResponse = _OPENER.open(_request(url), timeout=SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == NOT_FOUND:
            raise FileNotFoundError(ENOENT, "no such file") from None
        raise OSError(EIO, f"HTTP {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(error) from None
    return io.BufferedReader(_Body(response))


def _request(url: str) -> Request:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    bare = parts._replace(netloc=host, fragment="").geturl()
    headers = {"User-Agent": f"faceid-flows/{__version__}"}
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    return Request(quote(bare, safe=_SAFE), headers=headers)  # noqa: S310 - see open_link


class _Body(io.RawIOBase):
    """The answer's body; one that is cut off is no whole file."""

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._response.read(len(buffer))
        except (OSError, HTTPException) as error:
            raise _failed(error) from None
        if not data and self._response.length:
            raise OSError(EIO, "cut off")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        self._response.close()


def _failed(error: Exception) -> OSError:
    reason = error.reason if isinstance(error, URLError) else error
    return OSError(EIO, type(reason).__name__)
