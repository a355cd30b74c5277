"""``FaceIdClient``: the three things that go over the network - a ticket, an upload, a call.

The only module that imports httpx. None of its types or exceptions leaves here: what goes wrong
is raised as a class of ``faceid.errors``, ``from None``, because httpx puts whole presigned URLs
into its messages.

The client signs again once when its clock is off, and once with another key where the one that was
refused has been replaced meanwhile. Every other retry is its caller's: two owners would multiply.
"""

import asyncio
import base64
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import IO, Any, Self
from urllib.parse import urlsplit

import anyio.to_thread
import httpx
import orjson
from pydantic import SecretStr

from faceid import __version__
from faceid.actions import API_VERSION, CREATE_UPLOAD_URL, SERVICE
from faceid.errors import (
    AccountError,
    ClockSkewed,
    FaceIdError,
    InvalidInput,
    NoAnswer,
    RateLimited,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UrlRefused,
    WindowOver,
)
from faceid.files.resources import open_location
from faceid.models import Credentials, Reply, ResourceFile, UploadTicket
from faceid.pacing import Pacer
from faceid.redaction import protect
from faceid.replies import read_reply, read_store_refusal, read_ticket
from faceid.settings import service_of
from faceid.signing import sign_request

CHUNK = 256 * 1024
"""Bytes that an upload holds in memory at a time."""

CONNECTIONS = 64
"""To a host, at most: uploads over a long way take their time, and there are many of them."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds for each phase of an exchange."""

    connect: float = 5
    write: float = 60
    read: float = 60


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes tens of milliseconds; each run has a client of its own.
    return httpx.create_ssl_context()


class _Lanes:
    """HTTP clients that have a connection to each host and no more; the last one used comes first.

    One client with as many connections looks at each of them at each exchange, with a system call:
    at a pool of 16 that was half of its time.
    """

    def __init__(self, open_client: Callable[[], httpx.AsyncClient]) -> None:
        self._open_client = open_client
        self._gate = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[httpx.AsyncClient]:
        async with self._gate:
            lane = self._idle.pop() if self._idle else self._open_client()
            try:
                yield lane
            finally:
                self._idle.append(lane)

    async def close(self) -> None:
        """When none is in use any more."""
        for lane in self._idle:
            await lane.aclose()


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class FaceIdClient:
    """One account's way to the service. Use as an async context manager, in one event loop.

    ``pacers`` gives what paces an action, ``None`` for no limit; ``renew`` reads the credentials
    again when they are refused: a key was rotated, a temporary token died. With
    ``fail_fast_on_auth`` an account that is refused at the first call is not tried again: for
    crowds.
    """

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        *,
        pacers: Callable[[str], Pacer | None] | None = None,
        renew: Callable[[], Awaitable[Credentials]] | None = None,
        fail_fast_on_auth: bool = False,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.endpoint = endpoint
        self.host = urlsplit(endpoint).netloc
        self.service = service_of(endpoint)
        self._pacers = pacers
        self._renew = renew
        self._paced: dict[str, Pacer | None] = {}
        self._clock_offset: float | None = None
        """Seconds that the server's clock is ahead; ``None`` until a reply told."""
        self._signing_offset = 0.0
        self._alone = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._renewals = 0
        self._was_accepted = False
        self._refusal: AccountError | None = None
        self._refused_for_good = fail_fast_on_auth
        self._tries = 0
        self._use(credentials)
        self._lanes = _Lanes(partial(_open_lane, timeouts))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._lanes.close()
        for pacer in self._paced.values():
            if pacer:
                await pacer.close()

    def _use(self, credentials: Credentials) -> None:
        self._credentials = credentials
        protect(credentials.secret_key.get_secret_value())
        if credentials.token:
            protect(credentials.token.get_secret_value())

    def server_now(self) -> datetime:
        """The server's clock, as learnt from the ``Date`` of its last reply; good to a second."""
        return datetime.fromtimestamp(time.time() + (self._clock_offset or 0), UTC)

    async def create_upload_url(self, target_action: str, region: str, field: str) -> UploadTicket:
        """An upload ticket for one resource. Safe to repeat: each makes a slot of its own."""
        reply = await self._post(CREATE_UPLOAD_URL, region, {"TargetAction": target_action})
        ticket = read_ticket(reply, field, issued_at=self.server_now(), host=self.host)
        if self.service == "live" and not _is_https(ticket):
            raise ServiceRefused(
                "InsecureUrl",
                "the upload would go over plain http",
                tencent_request_id=reply.tencent_request_id,
                host=self.host,
            )
        return ticket

    async def put_resource(self, ticket: UploadTicket, file: ResourceFile) -> None:
        """Uploads the file to its ticket. Safe to repeat while the ticket lasts.

        Streams: memory does not grow with the file. Raises ``InvalidInput`` when the file is no
        longer the one that was checked, ``WindowOver`` when the ticket has expired.
        """
        url = ticket.upload_url.get_secret_value()
        host = urlsplit(url).netloc
        answer = await self._exchange(
            "PUT",
            url,
            headers={
                "Content-Length": str(file.size),
                "Content-MD5": base64.b64encode(bytes.fromhex(file.md5)).decode(),
            },
            content=_stream(file),
        )
        if answer.status != 200:
            raise read_store_refusal(answer.status, answer.body, host)
        if answer.headers.get("etag", "").strip('"').lower() != file.md5:
            raise ServiceUnavailable(
                "ETagMismatch", f"resource {file.field}: the store has other bytes", host=host
            )

    async def resource_exists(self, ticket: UploadTicket) -> bool:
        """Whether the store gives the upload out; ``False`` only when it says no."""
        url = ticket.resource_url.get_secret_value()
        # One byte by GET: whether a URL signed for GET is good for HEAD is not documented.
        answer = await self._exchange("GET", url, headers={"Range": "bytes=0-0"}, content=b"")
        if answer.status in (200, 206):
            return True
        refusal = read_store_refusal(answer.status, answer.body, urlsplit(url).netloc)
        if isinstance(refusal, WindowOver | UrlRefused):
            return False
        raise refusal

    async def fetch(self, url: SecretStr, into: IO[bytes]) -> str:
        """Writes what a presigned URL points to into an open file; gives its MD5 (hexadecimal).

        Raises ``WindowOver`` when the URL or the file has expired.
        """
        host = urlsplit(url.get_secret_value()).netloc
        digest = hashlib.md5(usedforsecurity=False)
        try:
            async with (
                self._lanes.one() as http,
                http.stream("GET", url.get_secret_value()) as response,
            ):
                self._learn_clock(response.headers.get("date", ""))
                if response.status_code != 200:
                    raise read_store_refusal(response.status_code, await response.aread(), host)
                async for chunk in response.aiter_bytes(CHUNK):
                    digest.update(chunk)
                    await anyio.to_thread.run_sync(into.write, chunk)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise ServiceUnavailable(type(error).__name__, "no answer came", host=host) from None
        return digest.hexdigest()

    async def learn_clock(self) -> None:
        """Asks the API for its time, unless a reply has told it before.

        An empty GET is no call of any action: the service refuses it, with its ``Date``.
        """
        if self._clock_offset is None:
            await self._exchange("GET", self.endpoint + "/", headers={}, content=b"")

    async def call(self, target_action: str, region: str, fields: Mapping[str, Any]) -> Reply:
        """Calls a target action. May be billed: repeating it is the caller's decision.

        ``NoAnswer`` says that it was sent and may have been done.
        """
        return await self._post(target_action, region, fields)

    async def _post(self, action: str, region: str, fields: Mapping[str, Any]) -> Reply:
        """The first call goes alone: a wrong key is refused once, and not to a crowd."""
        tries = self._tries
        if not self._was_accepted:
            async with self._alone:
                told_meanwhile = self._tries > tries
                if self._refusal is not None and (told_meanwhile or self._refused_for_good):
                    raise self._refusal
                if not self._was_accepted:
                    return await self._try_first(action, region, fields)
        return await self._send(action, region, fields)

    async def _try_first(self, action: str, region: str, fields: Mapping[str, Any]) -> Reply:
        self._refusal = None
        try:
            reply = await self._send(action, region, fields)
        except AccountError as refusal:
            self._refusal = refusal
            raise
        except FaceIdError:
            self._was_accepted = True  # for all that is known
            raise
        finally:
            self._tries += 1
        self._was_accepted = True
        return reply

    async def _send(self, action: str, region: str, fields: Mapping[str, Any]) -> Reply:
        body = orjson.dumps(fields)
        renewed = False
        signed_again = False
        pacer = self._pacer(action)
        while True:
            content = (
                body
                if pacer is None
                else _paced(body, pacer, await pacer.acquire(), time.monotonic())
            )
            used, renewals = self._credentials, self._renewals
            try:
                answer = await self._exchange(
                    "POST",
                    self.endpoint + "/",
                    headers=self._sign(action, region, body) | {"Content-Length": str(len(body))},
                    content=content,
                )
                return read_reply(answer.status, answer.body, self.host)
            except RateLimited:
                if pacer:
                    await pacer.throttled()
                raise
            except ClockSkewed:
                if signed_again:
                    # The server's clock did not help either: do not keep signing with it.
                    self._signing_offset = 0.0
                    raise
                signed_again = True
                self._signing_offset = self._clock_offset or 0.0
            except AccountError as refusal:
                of_the_key = refusal.code.startswith("AuthFailure.")
                if renewed or not of_the_key or not await self._renewed(used, renewals):
                    raise
                renewed = True

    async def _renewed(self, used: Credentials, renewals: int) -> bool:
        """Whether there is another key than the one that was refused.

        Looks once for all that were sent with it before somebody looked.
        """
        async with self._renewing:
            if self._renew and self._credentials is used and self._renewals == renewals:
                found = await self._renew()
                self._renewals += 1
                if found != used:
                    self._use(found)
        return self._credentials is not used

    def _sign(self, action: str, region: str, body: bytes) -> dict[str, str]:
        token = self._credentials.token
        return sign_request(
            secret_id=self._credentials.secret_id,
            secret_key=self._credentials.secret_key.get_secret_value(),
            token=token.get_secret_value() if token else "",
            service=SERVICE,
            host=self.host,
            action=action,
            version=API_VERSION,
            region=region,
            timestamp=int(time.time() + self._signing_offset),
            body=body,
        )

    def _pacer(self, action: str) -> Pacer | None:
        if action not in self._paced:
            self._paced[action] = self._pacers(action) if self._pacers else None
        return self._paced[action]

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes],
    ) -> _Answer:
        """One HTTP exchange. Raises ``NoAnswer`` when it may have reached the server."""
        try:
            async with self._lanes.one() as http:
                response = await http.request(method, url, headers=headers, content=content)
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ProxyError,
        ) as error:
            name, reached = type(error).__name__, False
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            name, reached = type(error).__name__, True
        else:
            self._learn_clock(response.headers.get("date", ""))
            return _Answer(response.status_code, response.headers, response.content)
        host = urlsplit(url).netloc
        if reached:
            raise NoAnswer(name, "no answer came", host=host)
        raise ServiceUnavailable(name, "cannot connect", host=host)

    def _learn_clock(self, date: str) -> None:
        try:
            server = parsedate_to_datetime(date)
        except ValueError:
            return  # a gateway without a clock
        # `Date` is cut to whole seconds: on average the server is half a second further.
        self._clock_offset = (server + timedelta(seconds=0.5)).timestamp() - time.time()


def _open_lane(timeouts: Timeouts) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        http2=False,
        verify=_tls(),
        follow_redirects=False,
        # Nobody waits for a lane's connection: whoever has the lane has it alone.
        timeout=httpx.Timeout(
            connect=timeouts.connect, write=timeouts.write, read=timeouts.read, pool=None
        ),
        # One to the API, one to the store.
        limits=httpx.Limits(max_connections=2, max_keepalive_connections=2),
        headers={"User-Agent": f"faceid-flows/{__version__}"},
        # An emulator on this machine is not behind the company's proxy.
        mounts={"all://127.0.0.1": None, "all://localhost": None},
    )


async def _paced(body: bytes, pacer: Pacer, start: float, given: float) -> AsyncIterator[bytes]:
    """The body; the pacer is told how long the call took to get to the network."""
    with suppress(StorageError):  # who asks for the next start will hear of it
        await pacer.departed(start, time.monotonic() - given)
    yield body


async def _stream(file: ResourceFile) -> AsyncIterator[bytes]:
    """The bytes that were checked, or ``InvalidInput`` before the last of them is sent."""
    changed = InvalidInput(
        "ResourceChanged", f"resource {file.field}: the file changed while it was delivered"
    )
    digest = hashlib.md5(usedforsecurity=False)
    left = file.size
    try:
        handle = await anyio.to_thread.run_sync(open_location, file.location)
        try:
            while left:
                chunk = await anyio.to_thread.run_sync(handle.read, min(CHUNK, left))
                digest.update(chunk)
                left -= len(chunk)
                if not chunk or (not left and digest.hexdigest() != file.md5):
                    raise changed
                yield chunk
        finally:
            handle.close()
    except OSError:
        raise InvalidInput(
            "ResourceGone", f"resource {file.field}: the file can no longer be read"
        ) from None


def _is_https(ticket: UploadTicket) -> bool:
    urls = (ticket.upload_url, ticket.resource_url)
    return all(url.get_secret_value().startswith("https://") for url in urls)
