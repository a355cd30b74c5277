"""Reading files from ``http(s)://`` URLs, such as presigned URLs of an object store.

A file is read with a single GET, because a presigned URL may not be valid for HEAD. Redirects are
not followed, because they could lead outside the roots. Error messages do not contain the URL.
"""

import base64
import io
from errno import EIO, ENOENT
from http.client import NOT_FOUND, HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from faceid import __version__

SECONDS = 60.0
"""Timeout in seconds for connecting and for each read."""

# Characters that stay as they are in a URL; all others are percent-encoded. "%" is among them, so
# that what is already encoded is not encoded again.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


def is_link(location: str) -> bool:
    """Return whether a location is an ``http`` or ``https`` URL."""
    return location.partition("://")[0].lower() in ("http", "https")


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


_OPENER = build_opener(_NoRedirects)


def open_link(url: str) -> io.BufferedReader:
    """Open an ``http(s)`` URL for reading bytes, and return the file.

    User info in the URL is sent as basic authentication. Both this function and reading from the
    file raise only ``OSError``: ``FileNotFoundError`` for status 404.
    """
    try:
        # Only http(s) URLs get here, and `faceid.files.roots` has checked where they point.
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
    """The body of an HTTP response; raises ``OSError`` if it is cut off."""

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response
        self._left = response.length
        """Number of bytes that are still to come; ``None`` if the server did not say."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left == 0:
            return 0
        try:
            # Unlike `read`, this returns what has arrived, so that the caller can stop in between.
            left = len(buffer) if self._left is None else min(len(buffer), self._left)
            data = self._response.read1(left)
        except (OSError, HTTPException) as error:
            raise _failed(error) from None
        if self._left is not None:
            if not data:
                raise OSError(EIO, "cut off")
            self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        self._response.close()


def _failed(error: Exception) -> OSError:
    reason = error.reason if isinstance(error, URLError) else error
    return OSError(EIO, type(reason).__name__)
