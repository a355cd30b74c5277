"""HTTP exchanges over a pool of connections, with the errors of ``faceid.errors``.

This is the only module that imports httpx. Callers never see httpx's exceptions: each is raised as
one of our own, ``from None``, because httpx puts whole presigned URLs into its messages.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import httpx

from faceid import __version__
from faceid.errors import InvalidInput, NoAnswer, ServiceUnavailable
from faceid.server_clock import ServerClock

HTTPError = httpx.HTTPError
"""The base class of what httpx raises if an exchange fails."""

CHUNK = 256 * 1024
"""Size in bytes of the chunks in which files are uploaded and downloaded."""

CONNECTIONS = 64
"""Maximum number of concurrent exchanges of a pool. It is high, because uploads to a distant region
are slow and many of them run at once."""

SLOW_CONNECTIONS = 256
"""Maximum number of concurrent slow exchanges of a pool, in addition to the others."""


@dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds for the phases of an HTTP exchange."""

    connect: float = 5
    """Time for opening a connection."""
    write: float = 60
    """Time for sending one chunk of a request."""
    read: float = 60
    """Time for waiting for one chunk of a reply."""


DEFAULT_TIMEOUTS = Timeouts()
"""The timeouts that are used unless others are given."""

Transport = httpx.AsyncBaseTransport
"""What carries requests in place of the network, such as ``httpx.MockTransport`` in tests."""


@dataclass(frozen=True)
class HttpReply:
    """A reply to an HTTP request."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str]
    """The headers; names are not case-sensitive."""
    body: bytes
    """The whole body, decompressed."""


class ConnectionPool:
    """A pool of HTTP clients, each with one connection to the API and one to the store.

    The most recently used client is used first. There is a client for each concurrent exchange and
    not one for all, because a client checks each of its connections with a system call at every
    exchange. With 16 connections, these checks took half of the client's time (measured).
    """

    def __init__(self, timeouts: Timeouts, transport: Transport | None = None) -> None:
        self.clock = ServerClock()
        """The server's time, which every reply shows."""
        self._timeouts = timeouts
        self._transport = transport
        self._gate = asyncio.Semaphore(CONNECTIONS)
        self._slow_gate = asyncio.Semaphore(SLOW_CONNECTIONS)
        self._idle: list[httpx.AsyncClient] = []

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncGenerator[bytes],
        is_slow: bool = False,
    ) -> HttpReply:
        """Send a request and return the whole reply, whatever its status.

        ``is_slow`` says that the content may be slow to come; such exchanges hold up no others. A
        redirect is returned like any other reply, and is not followed. Raises ``NoAnswer`` if the
        exchange failed but may have reached the server, ``ServiceUnavailable`` if no connection was
        made, and ``InvalidInput`` if the request cannot be sent as HTTP.
        """
        body = content if isinstance(content, bytes) else _Body(content)
        try:
            with _our_errors(url, body):
                async with self._client(is_slow=is_slow) as client:
                    reply = await client.request(method, url, headers=headers, content=body)
                    self.clock.learn(reply.headers.get("date", ""))
                    return HttpReply(reply.status_code, reply.headers, reply.content)
        finally:
            if not isinstance(content, bytes):
                # It may not have been read to its end, and then has a file open.
                await content.aclose()

    @asynccontextmanager
    async def download(self, url: str) -> AsyncGenerator[tuple[HttpReply, AsyncIterator[bytes]]]:
        """Send a GET, and yield the reply and an iterator over the chunks of its body.

        With status 200, ``body`` of the reply is empty, and the iterator yields the body in chunks
        of ``CHUNK`` bytes. With any other status, ``body`` is complete. Entering the context and
        iterating raise the same errors as ``exchange``.
        """
        with _our_errors(url):
            async with self._client() as client, client.stream("GET", url) as reply:
                self.clock.learn(reply.headers.get("date", ""))
                body = b"" if reply.status_code == 200 else await reply.aread()
                yield HttpReply(reply.status_code, reply.headers, body), reply.aiter_bytes(CHUNK)

    async def close(self) -> None:
        """Close all connections. No exchange may be in progress."""
        for client in self._idle:
            await client.aclose()

    @asynccontextmanager
    async def _client(self, *, is_slow: bool = False) -> AsyncGenerator[httpx.AsyncClient]:
        async with self._slow_gate if is_slow else self._gate:
            client = self._idle.pop() if self._idle else self._open()
            try:
                yield client
            finally:
                self._idle.append(client)

    def _open(self) -> httpx.AsyncClient:
        timeouts = self._timeouts
        return httpx.AsyncClient(
            http2=False,
            verify=_tls(),
            transport=self._transport,
            follow_redirects=False,
            # No pool timeout is needed: a client has one exchange at a time, so that no exchange
            # waits for a connection.
            timeout=httpx.Timeout(
                connect=timeouts.connect, write=timeouts.write, read=timeouts.read, pool=None
            ),
            # One connection to the API and one to the store.
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=2),
            headers={"User-Agent": f"faceid-flows/{__version__}"},
            # Local emulators must be reached directly, even if the environment sets a proxy.
            mounts={"all://127.0.0.1": None, "all://localhost": None},
        )


# What the HTTP library refuses before a byte has left. The error of a header's encoding is not one
# of its own.
_REFUSED_HERE = (
    httpx.InvalidURL,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
    UnicodeEncodeError,
)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes tens of milliseconds, and a process opens many clients.
    return httpx.create_ssl_context()


class _Body:
    """A body that is sent in chunks, and whether the first of them was asked for."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.is_begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_begun = True
        async for chunk in self._chunks:
            yield chunk


@contextmanager
def _our_errors(url: str, body: bytes | _Body = b"") -> Generator[None]:
    """Turn httpx's errors into our own.

    Raises ``InvalidInput`` if httpx refused to send anything, ``ServiceUnavailable`` if no
    connection was made, and otherwise ``NoAnswer``.
    """
    host = urlsplit(url).netloc
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise ServiceUnavailable(type(error).__name__, "cannot connect", host=host) from None
    except (*_REFUSED_HERE, httpx.HTTPError, httpx.StreamError) as error:
        name = type(error).__name__
        is_begun = isinstance(body, _Body) and body.is_begun
        if isinstance(error, _REFUSED_HERE) and not is_begun:
            raise InvalidInput(
                "CannotSend",
                f"nothing was sent: this request is no valid HTTP ({name})",
                host=host,
                advice="Check the key, the token and the endpoint for stray characters.",
            ) from None
        raise NoAnswer(name, "no answer came", host=host) from None
