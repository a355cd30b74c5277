"""The calls of one account to the API: each has its turn, its signature, and its answer.

A call is signed again once when this machine's clock is wrong, and once when the key that was
refused has been replaced in the meantime.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from faceid.actions import API_VERSION, SERVICE
from faceid.errors import AccountError, ClockSkewed, FaceIdError, RateLimited, StorageError
from faceid.http import ConnectionPool
from faceid.models import Credentials, Reply
from faceid.pacing import Pacer
from faceid.redaction import protect
from faceid.replies import read_reply
from faceid.signing import sign_request


class Departure(Protocol):
    """What has to be done, and to hold, for a call to leave."""

    async def prepare(self) -> None:
        """Called when it is the call's turn, before anything of it is sent; may raise an error."""

    async def confirm(self) -> None:
        """Called directly before the call leaves. If it raises an error, the call is not sent."""


class AccountCalls:
    """Makes calls for one account. The arguments are those of ``FaceIdClient``."""

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        connections: ConnectionPool,
        *,
        pacers: Callable[[str], Pacer | None] | None,
        renew: Callable[[], Awaitable[Credentials]] | None,
        fail_fast_on_auth: bool,
    ) -> None:
        self._endpoint = endpoint
        self._host = urlsplit(endpoint).netloc
        self._connections = connections
        self._pacers = pacers
        self._paced: dict[str, Pacer | None] = {}
        self._signing_offset = 0.0
        self._alone = asyncio.Lock()
        self._renew = renew
        self._renewing = asyncio.Lock()
        self._renewals = 0
        self._was_accepted = False
        self._refusal: AccountError | None = None
        self._fail_fast_on_auth = fail_fast_on_auth
        self._tries = 0
        self._use(credentials)

    async def close(self) -> None:
        """Close the pacers that were used."""
        for pacer in self._paced.values():
            if pacer:
                await pacer.close()

    def _use(self, credentials: Credentials) -> None:
        self._credentials = credentials
        protect(credentials.secret_key.get_secret_value())
        if credentials.token:
            protect(credentials.token.get_secret_value())

    async def make(
        self,
        action: str,
        region: str,
        fields: Mapping[str, Any],
        departure: Departure | None = None,
    ) -> Reply:
        """Make a call, and return its answer.

        Calls are made one at a time until a call has ended without a refusal of the account. A
        wrong key is therefore refused once, and not for every concurrent call. Raises ``NoAnswer``
        if the call was sent and may have been executed, and otherwise the ``FaceIdError`` that
        corresponds to the service's error code.
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
                answer = await self._connections.exchange(
                    "POST",
                    self._endpoint + "/",
                    headers=self._sign(action, region, body) | {"Content-Length": str(len(body))},
                    content=content,
                )
                return read_reply(answer.status, answer.body, self._host)
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
                self._signing_offset = self._connections.clock.offset
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
            host=self._host,
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


async def _departing(
    body: bytes, departure: Departure | None, pacer: Pacer | None, start: float, given: float
) -> AsyncGenerator[bytes]:
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
