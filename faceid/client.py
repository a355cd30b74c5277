"""The HTTP client: requests upload tickets, uploads files and calls target actions.

``faceid.calls`` makes the calls of the API. Except for the two cases there, retries are left to the
caller, because retries at two levels would multiply.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

import anyio.to_thread
from pydantic import SecretStr

from faceid.actions import (
    CREATE_UPLOAD_URL,
    TARGET_ACTIONS,
    TargetAction,
    find_action,
)
from faceid.calls import AccountCalls, Departure
from faceid.errors import (
    ServiceRefused,
    ServiceUnavailable,
    UrlRefused,
    WindowOver,
)
from faceid.files.sources import SOURCE_SECONDS, Patience, is_remote, stream_source
from faceid.http import DEFAULT_TIMEOUTS, ConnectionPool, Timeouts, Transport
from faceid.models import Credentials, Reply, ResourceFile, Service, UploadTicket
from faceid.pacing import Pacer
from faceid.replies import read_store_refusal, read_ticket
from faceid.settings import FaceIdSettings, base_url, service_of
from faceid.verification import Verification, verify


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
        self._connections = ConnectionPool(timeouts, transport)
        self._calls = AccountCalls(
            self.endpoint,
            credentials,
            self._connections,
            pacers=pacers,
            renew=renew,
            fail_fast_on_auth=fail_fast_on_auth,
        )

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
        await self._calls.close()

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
        return self._connections.clock.now()

    async def create_upload_url(self, target_action: str, region: str, field: str) -> UploadTicket:
        """Request an upload ticket for the resource ``field`` of a target action.

        This is safe to repeat: every ticket has an object key of its own. Raises the
        ``FaceIdError`` that corresponds to the service's error code, ``NoAnswer`` if no readable
        answer came, and ``ServiceRefused`` if the live service returns URLs that are not ``https``.
        """
        reply = await self._calls.make(CREATE_UPLOAD_URL, region, {"TargetAction": target_action})
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
        answer = await self._connections.exchange(
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
        answer = await self._connections.exchange(
            "GET", url, headers={"Range": "bytes=0-0"}, content=b""
        )
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
        if not self._connections.clock.is_known:
            await self._connections.exchange("GET", self.endpoint + "/", headers={}, content=b"")

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
        return await self._calls.make(target_action, region, fields, departure)


def _is_https(ticket: UploadTicket) -> bool:
    urls = (ticket.upload_url, ticket.resource_url)
    return all(url.get_secret_value().startswith("https://") for url in urls)
