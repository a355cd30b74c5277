"""A client reads a refused key again, only once for all calls that were refused with it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from faceid.client import FaceIdClient
from faceid.emulator import Emulator, EmulatorOptions
from faceid.errors import AccountError, ServiceUnavailable, TokenExpired
from faceid.models import Credentials

CROWD = 32


class Source:
    """The source from which a client reads its key again."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.looks = 0
        self.trouble: Exception | None = None
        self.key = Credentials(
            secret_id=emulator.secret_id, secret_key=SecretStr(emulator.secret_key)
        )

    async def look(self) -> Credentials:
        self.looks += 1
        await asyncio.sleep(0)  # other refused calls arrive meanwhile
        if self.trouble:
            raise self.trouble
        return self.key.model_copy()

    def rotate(self, number: int, *, temporary: bool, known_here: bool = True) -> None:
        """Replace the account's key; with ``known_here``, the client can read the new one."""
        name = self.key.secret_id if temporary else f"AKIDexample{number}"
        key = self.key.secret_key.get_secret_value() if temporary else f"EXAMPLE-key-{number}"
        token = f"EXAMPLE-token-{number}" if temporary else ""
        self.emulator.rotate(name, key, token)
        if known_here:
            given = {"secret_id": name, "secret_key": key, "token": token or None}
            self.key = Credentials.model_validate(given)

    def client(self) -> FaceIdClient:
        return FaceIdClient(self.emulator.url, self.key, renew=self.look)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions.read(port=0, rates={"CreateUploadUrl": 10_000})) as emulator:
        yield emulator


@pytest.fixture
def source(emulator: Emulator) -> Source:
    emulator.reset()
    return Source(emulator)


async def ticket(client: FaceIdClient) -> bool:
    return bool(await client.create_upload_url("VideoLivenessCompare", "ap-singapore", "ImageUrl"))


async def crowd(client: FaceIdClient) -> list[Any]:
    """Return the results and errors of many simultaneous calls."""
    calls = (ticket(client) for _ in range(CROWD))
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("temporary", [True, False])
async def test_a_key_that_died_is_read_again_once_each_time(source: Source, temporary: bool):
    code = "AuthFailure.TokenFailure" if temporary else "AuthFailure.SecretIdNotFound"
    source.rotate(0, temporary=temporary)
    async with source.client() as client:
        await ticket(client)
        for death in (1, 2, 3):
            source.rotate(death, temporary=temporary)
            assert await crowd(client) == [True] * CROWD
            assert source.looks == death
            assert await ticket(client)
    # Only calls in flight were refused: most of them each time, and none of them twice.
    refused = source.emulator.stats()["errors"]
    assert set(refused) == {code}
    assert 3 <= refused[code] <= 3 * CROWD


async def test_a_key_that_nobody_replaced_is_looked_for_once_by_all(source: Source):
    async with source.client() as client:
        await ticket(client)
        source.rotate(1, temporary=False, known_here=False)
        refused = await crowd(client)
        assert {type(error) for error in refused} == {AccountError}
        assert source.looks == 1
        source.rotate(2, temporary=False)  # as if somebody had fixed it
        assert await ticket(client)
        assert source.looks == 2


async def test_the_first_call_of_a_client_renews_too(source: Source):
    stale = source.key.model_copy(update={"token": SecretStr("EXAMPLE-stale-token")})
    source.rotate(1, temporary=True)
    async with FaceIdClient(source.emulator.url, stale, renew=source.look) as client:
        assert await crowd(client) == [True] * CROWD
    assert source.looks == 1
    assert source.emulator.stats()["errors"] == {"AuthFailure.TokenFailure": 1}


async def test_what_cannot_be_read_now_may_be_read_later(source: Source):
    async with source.client() as client:
        await ticket(client)
        source.rotate(1, temporary=False)
        source.trouble = ServiceUnavailable("PrefectUnavailable", "the block cannot be read")
        assert {type(error) for error in await crowd(client)} == {ServiceUnavailable}
        source.trouble = None
        assert await crowd(client) == [True] * CROWD


@pytest.mark.parametrize(
    ("code", "looks"),
    [
        ("AuthFailure.SignatureFailure", 1),
        ("AuthFailure.UnauthorizedOperation", 1),
        ("UnauthorizedOperation.Arrears", 0),
        ("AuthFailure.SignatureExpire", 0),
    ],
)
async def test_only_what_another_key_can_mend_is_a_reason_to_look(
    source: Source, code: str, looks: int
):
    source.emulator.add_fault("CreateUploadUrl", f"api:{code}", times=2)
    async with source.client() as client:
        with pytest.raises(AccountError):
            await ticket(client)
    assert source.looks == looks


async def test_without_a_place_to_look_the_refusal_is_told(source: Source):
    source.rotate(1, temporary=True, known_here=False)
    stale = source.key.model_copy(update={"token": SecretStr("EXAMPLE-stale-token")})
    async with FaceIdClient(source.emulator.url, stale) as client:
        with pytest.raises(TokenExpired, match="Get a new token"):
            await ticket(client)
