"""API keys from the environment, or from a Prefect block ``tencent-credentials/<name>``.

A run can be started with the name of a block. The block's key, account, endpoint and region then
override those of the environment. The block therefore also determines the service of the run, by
which records, locks, rates, tags and results are kept apart.

A key that is refused during a run is read again from the environment or the block, because it may
have been rotated or its session token may have expired.
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
from faceid.errors import (
    AccountError,
    InvalidInput,
    RateLimited,
    ServiceUnavailable,
    reason_of,
)
from faceid.models import Credentials, Service, check_key_part
from faceid.pacing import Pacer
from faceid.settings import ACCOUNT_PATTERN, base_url, service_of
from tasks.settings import DeliverySettings
from tasks.state.pacing import open_pacers
from tasks.state.storage import open_storage

SLUG = "tencent-credentials"
"""Prefect's identifier of the block type."""
_NAME = re.compile("[a-z0-9-]+")

CHECK_PREFECT = "Check PREFECT_API_URL and PREFECT_API_AUTH_STRING, and that the server is running."
"""Advice for when the Prefect server does not answer."""

CHECKED_WITH = ("VideoLivenessCompare", UPLOAD_REGIONS[-1], "ImageUrl")
"""Target action, region and resource field of the upload ticket that a check requests. The region
is used only if the settings have none."""


class TencentCredentials(Block):
    """An API key of a Tencent Cloud account, with the account's name, endpoint and region."""

    _block_type_name = "Tencent Credentials"
    _block_type_slug = SLUG
    _description = (
        "An API key of a Tencent Cloud account, for the Face ID flows. To rotate it, save the new "
        "key here; running flows will use it."
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
        default=SecretStr(""), description="The session token, if the key is temporary."
    )
    account: str = Field(
        default="default",
        pattern=ACCOUNT_PATTERN,
        description="Your name for the account. Records and rates are kept per account. A letter "
        "or digit, then up to 63 of A-Z a-z 0-9 . _ -",
    )
    endpoint: str = Field(
        default="",
        description="URL of the API, such as https://faceid.intl.tencentcloudapi.com, or of an "
        "emulator, such as http://127.0.0.1:8600. If empty, the worker's FACEID_ENDPOINT.",
    )
    region: str = Field(
        default="",
        description="Region, such as ap-singapore, for checking the key and for faceid deliver "
        "without --region. Runs have a region of their own.",
    )

    @field_validator("token", "account", "endpoint", "region", mode="before")
    @classmethod
    def _what_is_left_empty_is_not_given(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return value or field.default

    _no_stray_characters = field_validator("secret_id", "secret_key", "token", mode="before")(
        check_key_part
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_base_url(cls, value: str) -> str:
        return value and base_url(value)

    async def acheck(self) -> None:
        """Check that the service accepts the key; raise the errors of ``check_credentials``."""
        await check_credentials(self.over(DeliverySettings.load()))

    def check(self) -> None:
        """Check the key as ``acheck`` does, for synchronous code."""
        run_coro_as_sync(self.acheck())

    def over(self, settings: DeliverySettings) -> DeliverySettings:
        """Return a copy of the settings, overridden by the values of the block.

        An endpoint or region that is empty in the block is not overridden.
        """
        given = {"endpoint": self.endpoint, "region": self.region}
        return settings.from_block().model_copy(
            update={
                "secret_id": self.secret_id,
                "secret_key": self.secret_key,
                "token": self.token,
                "account": self.account,
                **{name: value for name, value in given.items() if value},
            }
        )


async def load_settings(block: str) -> DeliverySettings:
    """Return the settings of the environment, overridden by those of a block.

    ``block`` is the name of the block; empty for the environment alone. Raises ``InvalidInput`` if
    the settings are invalid, or if the block does not exist or is invalid, and
    ``ServiceUnavailable`` if the block cannot be read from the Prefect server.
    """
    settings = DeliverySettings.load()
    return (await _load(block)).over(settings) if block else settings


async def _load(name: str) -> TencentCredentials:
    what = f"the block {SLUG}/{name}"
    if not _NAME.fullmatch(name):
        # The name becomes part of a URL of Prefect's API. Prefect allows no other names for blocks.
        raise InvalidInput("MissingCredentials", f"credentials: {name!r} is not a block name")
    try:
        return await TencentCredentials.aload(name)
    except ValueError:
        raise InvalidInput(
            "MissingCredentials", f"{what} does not exist; create it first"
        ) from None
    except Exception as error:
        # Prefect's messages may contain the block's values.
        if isinstance(wrong := error.__cause__, ValidationError):
            first = wrong.errors(include_url=False, include_input=False)[0]
            reason = f"{first['loc'][0]}: {reason_of(first)}"
            raise InvalidInput("MissingCredentials", f"{what}: {reason}") from None
        raise ServiceUnavailable(
            "PrefectUnavailable",
            f"{what} cannot be read ({type(error).__name__})",
            advice=CHECK_PREFECT,
        ) from None


def block_of(parameters: Mapping[str, Any]) -> str:
    """Return the name of the credentials block in a run's parameters; empty if they name none."""
    return str(parameters.get("credentials", ""))


async def settings_of(block: str) -> DeliverySettings:
    """Return the settings of a run with this block.

    If the block does not exist or is invalid, these are the settings of the environment. Raises
    ``ServiceUnavailable`` if the block cannot be read from the Prefect server.
    """
    try:
        return await load_settings(block)
    except InvalidInput:
        return DeliverySettings.load()


async def services_in_use(client: PrefectClient) -> list[Service]:
    """Return the services that runs may use, without duplicates.

    These are the service of the environment, which comes first, and those of the endpoints in the
    credentials blocks on the Prefect server.
    """
    try:
        documents = await client.read_block_documents_by_type(SLUG, include_secrets=False)
    except PrefectHTTPStatusError:
        documents = []  # the block type is not registered, or runs cannot read the blocks either
    endpoints = [document.data.get("endpoint") for document in documents]
    found: dict[Service, None] = {DeliverySettings.load().service: None}
    found.update((service_of(endpoint), None) for endpoint in endpoints if endpoint)
    return list(found)


async def check_credentials(settings: DeliverySettings) -> None:
    """Check that the service accepts the key, by requesting an upload ticket that is not used.

    The call is not billed, but counts towards the rate of CreateUploadUrl. Raises ``InvalidInput``
    if there is no key or the region is invalid, ``AccountError`` if the key or the account is
    refused, ``ServiceUnavailable`` if the service cannot be reached, and any other ``FaceIdError``
    that corresponds to the service's error code.
    """
    credentials = settings.credentials()
    try:
        pacers = open_pacers(settings, open_storage(settings), settings.account, priority=True)
    except InvalidInput:
        pacers = None  # no usable storage: nothing is delivered from here, so no rate is shared
    action, region, field = CHECKED_WITH
    async with FaceIdClient(settings.endpoint, credentials, pacers=pacers) as client:
        with suppress(RateLimited):  # the service checks the key before the rate (assumed)
            await client.create_upload_url(action, settings.region or region, field)


def open_client(
    settings: DeliverySettings,
    block: str,
    pacers: Callable[[str], Pacer | None],
    *,
    fail_fast_on_auth: bool = False,
) -> FaceIdClient:
    """Return a client that uses the key in the settings. Use it as an async context manager.

    ``block`` is the name of the block that the settings come from, or empty for the environment. A
    key that is refused is read again from there; if it is no longer a key of the same account, the
    call raises ``AccountError``. ``pacers`` and ``fail_fast_on_auth`` are those of
    ``FaceIdClient``. Raises ``InvalidInput`` if there is no key.
    """

    async def renew() -> Credentials:
        try:
            now = await load_settings(block)
            if (now.endpoint, now.account) == (settings.endpoint, settings.account):
                return now.credentials()
        except InvalidInput:
            pass
        where = f"the block {SLUG}/{block}" if block else "the environment"
        raise AccountError(
            "CredentialsChanged",
            f"{where} no longer has a key of this account",
            advice="Restore a key of the account that the request was delivered with, then deliver "
            "again.",
        )

    return FaceIdClient(
        settings.endpoint,
        settings.credentials(),
        pacers=pacers,
        renew=renew,
        fail_fast_on_auth=fail_fast_on_auth,
    )
