"""Where the keys come from: the environment, or a Prefect block ``tencent-credentials/<name>``.

Whoever starts a run may name a block, and what that says stands in the environment's place: the
key, and with it account, endpoint and region. So the block decides on the run's service, in every
place that names one: records, locks, rates, tags, results.

A key that is refused while a run is at work is read again from where it came: it may have been
rotated, or its token have died.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator

from faceid.actions import UPLOAD_REGIONS
from faceid.client import FaceIdClient
from faceid.errors import AccountError, InvalidInput, RateLimited, ServiceUnavailable
from faceid.models import Credentials, Service
from faceid.pacing import Pacer
from faceid.settings import ACCOUNT_PATTERN, FaceIdSettings, base_url, service_of
from tasks.state.pacing import open_pacers
from tasks.state.storage import open_storage

SLUG = "tencent-credentials"
_NAME = re.compile("[a-z0-9-]+")

CHECKED_WITH = ("VideoLivenessCompare", UPLOAD_REGIONS[-1], "ImageUrl")
"""Target action, region and field of the ticket that a check asks for."""


class TencentCredentials(Block):
    """An API key of a Tencent Cloud account, and where it is good."""

    _block_type_name = "Tencent Credentials"
    _block_type_slug = SLUG
    _description = (
        "An API key of a Tencent Cloud account, for the Face ID flows. To rotate it, save the new "
        "key here: runs at work take it up."
    )
    _code_example = """
        ```python
        from tasks.credentials import TencentCredentials

        block = TencentCredentials.load("BLOCK_NAME")
        block.check()  # raises an error that says what is wrong with the key
        ```
    """

    secret_id: str = Field(
        min_length=1, max_length=128, description="The key's ID. It begins with AKID."
    )
    secret_key: SecretStr = Field(min_length=1, description="The key itself.")
    token: SecretStr = Field(
        default=SecretStr(""), description="The session token, where the key is a temporary one."
    )
    account: str = Field(
        default="default",
        pattern=ACCOUNT_PATTERN,
        description="Your name for the account: what records and rates count by. A letter or "
        "digit, then up to 63 of A-Z a-z 0-9 . _ -",
    )
    endpoint: str = Field(
        default="",
        description="The API, such as https://faceid.intl.tencentcloudapi.com, or an emulator's "
        "http://127.0.0.1:8600. Empty: the worker's FACEID_ENDPOINT.",
    )
    region: str = Field(
        default="",
        description="The region of the check, and of the faceid deliver command where that names "
        "none, such as ap-singapore. Runs name their own.",
    )

    @field_validator("token", "account", "endpoint", "region", mode="before")
    @classmethod
    def _what_is_left_empty_is_not_given(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return value or field.default

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_base_url(cls, value: str) -> str:
        return value and base_url(value)

    async def acheck(self) -> None:
        """Returns when the key works. Else raises as ``check_credentials``."""
        await check_credentials(self.over(FaceIdSettings.load()))

    def check(self) -> None:
        """As ``acheck``, for code that is not async."""
        run_coro_as_sync(self.acheck())

    def over(self, settings: FaceIdSettings) -> FaceIdSettings:
        """The settings with what the block says in their place."""
        given = {"endpoint": self.endpoint, "region": self.region}
        return settings.model_copy(
            update={
                "secret_id": self.secret_id,
                "secret_key": self.secret_key,
                "token": self.token,
                "account": self.account,
                **{name: value for name, value in given.items() if value},
            }
        )


async def load_settings(block: str) -> FaceIdSettings:
    """The environment's settings, and over them what the block says, if one is named.

    Raises ``InvalidInput`` where it is not there or makes no sense, and ``ServiceUnavailable``
    where the Prefect server cannot be asked.
    """
    settings = FaceIdSettings.load()
    return (await _load(block)).over(settings) if block else settings


async def _load(name: str) -> TencentCredentials:
    what = f"the block {SLUG}/{name}"
    if not _NAME.fullmatch(name):
        # It would be part of the API's path; and none of Prefect's has such a name.
        raise InvalidInput("MissingCredentials", f"credentials: {name!r} is no block's name")
    try:
        return await TencentCredentials.aload(name)
    except ValueError:
        raise InvalidInput("MissingCredentials", f"{what} is not there; make it first") from None
    except Exception as error:
        # Prefect's messages may show what it found.
        if isinstance(wrong := error.__cause__, ValidationError):
            first = wrong.errors(include_url=False, include_input=False)[0]
            reason = f"{first['loc'][0]}: {first['msg']}"
            raise InvalidInput("MissingCredentials", f"{what}: {reason}") from None
        raise ServiceUnavailable(
            "PrefectUnavailable", f"{what} cannot be read ({type(error).__name__})"
        ) from None


def block_of(parameters: Mapping[str, Any]) -> str:
    """The name of the block that a run was given; empty for none."""
    return str(parameters.get("credentials", ""))


async def settings_of(block: str) -> FaceIdSettings:
    """The settings of a run that named the block; the environment's where that is gone."""
    try:
        return await load_settings(block)
    except InvalidInput:
        return FaceIdSettings.load()


async def services_in_use(client: PrefectClient) -> list[Service]:
    """The environment's service, and the other one where a block names its endpoint."""
    try:
        documents = await client.read_block_documents_by_type(SLUG, include_secrets=False)
    except PrefectHTTPStatusError:
        documents = []  # nobody registered the type; or none of them can be read by a run either
    endpoints = [document.data.get("endpoint") for document in documents]
    found: dict[Service, None] = {FaceIdSettings.load().service: None}
    found.update((service_of(endpoint), None) for endpoint in endpoints if endpoint)
    return list(found)


async def check_credentials(settings: FaceIdSettings) -> None:
    """Returns when the service accepts the key: one upload ticket, of those 20 a second, that
    nobody uses. That is not billed.

    Raises ``InvalidInput`` where there is no key or the region is none, ``AccountError`` for a key
    or an account that is refused, and ``ServiceUnavailable``.
    """
    credentials = settings.credentials()
    try:
        pacers = open_pacers(settings, open_storage(settings), settings.account, priority=True)
    except InvalidInput:
        pacers = None  # nothing is delivered from here: there is nobody to share a rate with
    action, region, field = CHECKED_WITH
    async with FaceIdClient(settings.endpoint, credentials, pacers=pacers) as client:
        with suppress(RateLimited):  # whose rate it is was known by the key
            await client.create_upload_url(action, settings.region or region, field)


def open_client(
    settings: FaceIdSettings,
    block: str,
    pacers: Callable[[str], Pacer | None],
    *,
    fail_fast_on_auth: bool = False,
) -> FaceIdClient:
    """A client with the settings' key, which are those of the block. Use it as a context manager.

    Raises ``InvalidInput`` where there is no key.
    """

    async def renew() -> Credentials:
        try:
            now = await load_settings(block)
            if (now.endpoint, now.account) == (settings.endpoint, settings.account):
                return now.credentials()
        except InvalidInput:
            pass
        where = f"the block {SLUG}/{block}" if block else "the environment"
        raise AccountError("CredentialsChanged", f"{where} has no key of this account any more")

    return FaceIdClient(
        settings.endpoint,
        settings.credentials(),
        pacers=pacers,
        renew=renew,
        fail_fast_on_auth=fail_fast_on_auth,
    )
