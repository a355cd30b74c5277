"""The HTTP client: requests upload tickets, uploads files and calls target actions.

``FaceIdClient`` signs a request again once when its clock is wrong, and once when the key that was
refused has been replaced in the meantime. All other retries are left to the caller, because retries
at two levels would multiply.
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Protocol, Self
from urllib.parse import urlsplit

import anyio.to_thread
import orjson
from pydantic import SecretStr

from faceid.actions import (
    API_VERSION,
    CREATE_UPLOAD_URL,
    SERVICE,
    TARGET_ACTIONS,
    TargetAction,
    find_action,
)
from faceid.errors import (
    AccountError,
    ClockSkewed,
    FaceIdError,
    RateLimited,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UrlRefused,
    WindowOver,
)
from faceid.files.sources import SOURCE_SECONDS, Patience, is_remote, stream_source
from faceid.http import DEFAULT_TIMEOUTS, ConnectionPool, HttpReply, Timeouts, Transport
from faceid.models import Credentials, Reply, ResourceFile, Service, UploadTicket
from faceid.pacing import Pacer
from faceid.redaction import protect
from faceid.replies import read_reply, read_store_refusal, read_ticket
from faceid.settings import FaceIdSettings, base_url, service_of
from faceid.signing import sign_request
from faceid.verification import Verification, verify


class Departure(Protocol):
    """What has to be done, and to hold, for a call to leave."""

    async def prepare(self) -> None:
        """Called when it is the call's turn, before anything of it is sent; may raise an error."""

    async def confirm(self) -> None:
        """Called directly before the call leaves. If it raises an error, the call is not sent."""


class FaceIdClient:
    """Client for one account. Use it as an async context manager within a single event loop.

    ``endpoint`` is the API's URL without a path. ``pacers`` returns the pacer of an action, or
    ``None`` if the action is not limited. ``renew`` returns the current credentials; it is called
    if the service refuses those in use, because a key may have been rotated or a temporary token
    may have expired. With ``fail_fast_on_auth``, all calls fail at once after the service has
    refused the account on the first one, so that a batch does not send every request in vain.
    ``transport`` carries the requests in place of the network, such as an ``httpx.MockTransport``
    in tests. ``actions`` is the table of target actions for ``verify``. ``source_seconds`` is how
    long each reading of a file may take in all.

    Example::

        key = Credentials(
            secret_id=os.environ["TENCENTCLOUD_SECRET_ID"],
            secret_key=SecretStr(os.environ["TENCENTCLOUD_SECRET_KEY"]),
        )
        pacers = {"CreateUploadUrl": Pacer(20), "VideoLivenessCompare": Pacer(20)}
        async with FaceIdClient(os.environ["FACEID_ENDPOINT"], key, pacers=pacers.get) as client:
            ticket = await client.create_upload_url(
                "VideoLivenessCompare", "ap-singapore", "ImageUrl"
            )
            print(ticket.expires_at - client.server_now())
    """

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        *,
        pacers: Callable[[str], Pacer | None] | None = None,
        renew: Callable[[], Awaitable[Credentials]] | None = None,
        fail_fast_on_auth: bool = False,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        transport: Transport | None = None,
        actions: Mapping[str, TargetAction] = TARGET_ACTIONS,
        source_seconds: float = SOURCE_SECONDS,
    ) -> None:
        self.endpoint = base_url(endpoint)
        self.host = urlsplit(endpoint).netloc
        self.service: Service = service_of(endpoint)
        self._actions = actions
        self._patience = Patience(source_seconds)
        self._pacers = pacers
        self._renew = renew
        self._paced: dict[str, Pacer | None] = {}
        self._clock_offset: float | None = None
        """Seconds by which the server's clock is ahead; ``None`` until a reply has shown it."""
        self._signing_offset = 0.0
        self._alone = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._renewals = 0
        self._was_accepted = False
        self._refusal: AccountError | None = None
        self._fail_fast_on_auth = fail_fast_on_auth
        self._tries = 0
        self._use(credentials)
        self._connections = ConnectionPool(timeouts, transport)

    @classmethod
    def from_environment(cls) -> Self:
        """Return a client for the endpoint, key, rates and actions of the environment's settings.

        Calls are paced within this process. Raises ``InvalidInput`` if there is no key, or if a
        setting is wrong.
        """
        settings = FaceIdSettings.load()

        def pacer(action: str) -> Pacer | None:
            rate = settings.rate(action)
            return None if rate is None else Pacer(rate)

        return cls(
            settings.endpoint,
            settings.credentials(),
            pacers=pacer,
            actions=settings.target_actions(),
            source_seconds=settings.source_seconds,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._connections.close()
        for pacer in self._paced.values():
            if pacer:
                await pacer.close()

    def _use(self, credentials: Credentials) -> None:
        self._credentials = credentials
        protect(credentials.secret_key.get_secret_value())
        if credentials.token:
            protect(credentials.token.get_secret_value())

    async def verify(
        self,
        action: str | TargetAction,
        region: str,
        files: Mapping[str, str | Path],
        parameters: Mapping[str, str] | None = None,
    ) -> Verification:
        """Upload files, call a target action with them, and return its verdict.

        ``action`` is the name of an action in the client's table, or one of your own. ``files``
        maps the action's resource fields (``ImageUrl``, …) to local paths or fsspec URLs;
        ``parameters`` are its other parameters, as text. MD5s are computed. All of them are checked
        before anything is sent.

        Everything happens in one window and nothing is retried, because the call may be billed:
        the ``next_step`` of the error says whether a repetition can help. A negative verdict is not
        an error. Raises ``InvalidInput`` for wrong input, ``WindowOver`` if the uploads took so
        long that the window is about to end, ``NoAnswer`` if the call was sent but not answered,
        and otherwise a ``FaceIdError`` for the error code of the service.

        Example::

            async with FaceIdClient.from_environment() as client:
                found = await client.verify(
                    "VideoLivenessCompare",
                    "ap-singapore",
                    files={"ImageUrl": "id-photo.jpg", "VideoUrl": "selfie.mp4"},
                    parameters={"LivenessType": "SILENT"},
                )
            print(found.verdict.passed, found.verdict.similarity)
        """
        if isinstance(action, str):
            action = find_action(action, self._actions)
        return await verify(self, action, region, files, parameters or {}, self._patience)

    def server_now(self) -> datetime:
        """Return the server's time, based on the ``Date`` header of its last reply (± 1 second).

        Before the first reply, this is the time of this machine.
        """
        return datetime.fromtimestamp(time.time() + (self._clock_offset or 0), UTC)

    async def create_upload_url(self, target_action: str, region: str, field: str) -> UploadTicket:
        """Request an upload ticket for the resource ``field`` of a target action.

        This is safe to repeat: every ticket has an object key of its own. Raises the
        ``FaceIdError`` that corresponds to the service's error code, ``NoAnswer`` if no readable
        answer came, and ``ServiceRefused`` if the live service returns URLs that are not ``https``.
        """
        reply = await self._post(CREATE_UPLOAD_URL, region, {"TargetAction": target_action})
        ticket = read_ticket(reply, field, issued_at=self.server_now(), host=self.host)
        if self.service == "live" and not _is_https(ticket):
            raise ServiceRefused(
                "InsecureUrl",
                "the service returned an upload URL without https",
                tencent_request_id=reply.tencent_request_id,
                host=self.host,
            )
        return ticket

    async def put_resource(
        self, ticket: UploadTicket, file: ResourceFile, patience: Patience | None = None
    ) -> None:
        """Upload a file to the URL of its ticket, as a stream.

        ``patience`` limits how long reading the file may take, instead of ``source_seconds``. This
        is safe to repeat until the ticket expires. Raises ``InvalidInput`` if the file has changed
        since it was checked or cannot be read in time, ``WindowOver`` if the ticket has expired,
        ``ServiceUnavailable`` if the MD5 in the store's reply is not that of the file, and the
        ``FaceIdError`` that corresponds to any other error code of the store.
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
            content=stream_source(file, patience or self._patience),
            is_slow=is_remote(file.location),
        )
        if answer.status != 200:
            raise read_store_refusal(answer.status, answer.body, host)
        if answer.headers.get("etag", "").strip('"').lower() != file.md5:
            raise ServiceUnavailable(
                "ETagMismatch",
                f"resource {file.field}: the store received different bytes",
                host=host,
            )

    async def resource_exists(self, ticket: UploadTicket) -> bool:
        """Return whether the store still serves the uploaded object.

        Returns ``False`` only if the store refuses the URL, or reports that the URL or the object
        has expired; any other failure is raised as a ``FaceIdError``.
        """
        url = ticket.resource_url.get_secret_value()
        # This is a GET of one byte and not a HEAD, because it is not documented whether a URL that
        # is signed for GET is valid for HEAD.
        answer = await self._exchange("GET", url, headers={"Range": "bytes=0-0"}, content=b"")
        if answer.status in (200, 206):
            return True
        refusal = read_store_refusal(answer.status, answer.body, urlsplit(url).netloc)
        if isinstance(refusal, WindowOver | UrlRefused):
            return False
        raise refusal

    async def fetch(self, url: SecretStr, into: IO[bytes]) -> str:
        """Download a presigned URL into an open file and return its MD5 (32 hexadecimal digits).

        Raises ``WindowOver`` if the URL or the object has expired, ``ServiceUnavailable`` if the
        download breaks off, and the ``FaceIdError`` that corresponds to any other error code of the
        store.
        """
        host = urlsplit(url.get_secret_value()).netloc
        digest = hashlib.md5(usedforsecurity=False)
        async with self._connections.download(url.get_secret_value()) as (reply, chunks):
            self._learn_clock(reply.headers.get("date", ""))
            if reply.status != 200:
                raise read_store_refusal(reply.status, reply.body, host)
            async for chunk in chunks:
                digest.update(chunk)
                await anyio.to_thread.run_sync(into.write, chunk)
        return digest.hexdigest()

    async def learn_clock(self) -> None:
        """Ask the API for its time, unless an earlier reply has already shown it.

        This sends an empty GET, which calls no action; all that matters is the ``Date`` header of
        the refusal. Raises ``ServiceUnavailable`` if no reply comes.
        """
        if self._clock_offset is None:
            await self._exchange("GET", self.endpoint + "/", headers={}, content=b"")

    async def call(
        self,
        target_action: str,
        region: str,
        fields: Mapping[str, Any],
        departure: Departure | None = None,
    ) -> Reply:
        """Call a target action and return its answer.

        ``departure`` is told when the call is about to leave, and may keep it back.

        ``fields`` are the parameters of the call, including the URLs of the resources. The call may
        be billed, so repeating it is the caller's decision. Raises ``NoAnswer`` if the call was
        sent and may have been executed, and otherwise the ``FaceIdError`` that corresponds to the
        service's error code.
        """
        return await self._post(target_action, region, fields, departure)

    async def _post(
        self,
        action: str,
        region: str,
        fields: Mapping[str, Any],
        departure: Departure | None = None,
    ) -> Reply:
        """Send a call, one at a time until a call has ended without a refusal of the account.

        A wrong key is therefore refused once, and not for every concurrent call.
        """
        tries = self._tries
        if not self._was_accepted:
            async with self._alone:
                told_meanwhile = self._tries > tries
                if self._refusal is not None and (told_meanwhile or self._fail_fast_on_auth):
                    raise self._refusal
                if not self._was_accepted:
                    return await self._try_first(action, region, fields, departure)
        return await self._send(action, region, fields, departure)

    async def _try_first(
        self, action: str, region: str, fields: Mapping[str, Any], departure: Departure | None
    ) -> Reply:
        self._refusal = None
        try:
            reply = await self._send(action, region, fields, departure)
        except AccountError as refusal:
            self._refusal = refusal
            raise
        except FaceIdError:
            self._was_accepted = True  # the error does not concern the account
            raise
        finally:
            self._tries += 1
        self._was_accepted = True
        return reply

    async def _send(
        self, action: str, region: str, fields: Mapping[str, Any], departure: Departure | None
    ) -> Reply:
        body = orjson.dumps(fields)
        renewed = False
        signed_again = False
        pacer = self._pacer(action)
        while True:
            start = await pacer.acquire() if pacer else 0.0
            if departure:
                await departure.prepare()
            content = _departing(body, departure, pacer, start, time.monotonic())
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
                    # The server's time was refused as well: stop signing with it.
                    self._signing_offset = 0.0
                    raise
                signed_again = True
                self._signing_offset = self._clock_offset or 0.0
            except AccountError as refusal:
                refusal.name_credentials(used.names)
                of_the_key = refusal.code.startswith("AuthFailure.")
                if renewed or not of_the_key or not await self._renewed(used, renewals):
                    raise
                renewed = True

    async def _renewed(self, used: Credentials, renewals: int) -> bool:
        """Return whether the key ``used``, which was refused, has been replaced by another one.

        ``renewals`` is the number of renewals before the call. The current credentials are read
        only once for all calls that were sent with the same key.
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
        is_slow: bool = False,
    ) -> HttpReply:
        """Perform one HTTP exchange, and learn the server's time from it."""
        reply = await self._connections.exchange(
            method, url, headers=headers, content=content, is_slow=is_slow
        )
        self._learn_clock(reply.headers.get("date", ""))
        return reply

    def _learn_clock(self, date: str) -> None:
        try:
            server = parsedate_to_datetime(date)
        except ValueError:
            return  # a reply of a gateway may lack a valid `Date`
        # `Date` is truncated to whole seconds: on average, the server is half a second ahead.
        self._clock_offset = (server + timedelta(seconds=0.5)).timestamp() - time.time()


async def _departing(
    body: bytes, departure: Departure | None, pacer: Pacer | None, start: float, given: float
) -> AsyncIterator[bytes]:
    """Yield the body of a call, once its headers have left and nothing keeps it back.

    ``start`` is what ``pacer.acquire`` returned, and ``given`` the time at which it returned.
    Without its body a call is not executed, so this is the last moment to keep it back.
    """
    if pacer:
        with suppress(StorageError):  # the next `acquire` raises it again
            await pacer.departed(start, time.monotonic() - given)
    if departure:
        await departure.confirm()
    yield body


def _is_https(ticket: UploadTicket) -> bool:
    urls = (ticket.upload_url, ticket.resource_url)
    return all(url.get_secret_value().startswith("https://") for url in urls)
