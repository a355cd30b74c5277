"""Where the keys come from: the environment, or a Prefect block ``tencent-credentials/<name>``."""

from collections.abc import Callable

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from faceid.client import FaceIdClient
from faceid.errors import InvalidInput
from faceid.models import Credentials
from faceid.pacing import Pacer
from faceid.settings import FaceIdSettings


class TencentCredentials(Block):
    """An API key of a Tencent Cloud account."""

    _block_type_name = "Tencent Credentials"
    _block_type_slug = "tencent-credentials"
    _description = "An API key of a Tencent Cloud account, for the Face ID flows."

    secret_id: str = Field(description="The key's ID. It begins with AKID.")
    secret_key: SecretStr = Field(description="The key itself.")
    token: SecretStr | None = Field(
        default=None, description="The session token, where the key is a temporary one."
    )
    account: str = Field(
        default="default", description="Your name for the account: what rate limits count by."
    )

    def credentials(self) -> Credentials:
        return Credentials(secret_id=self.secret_id, secret_key=self.secret_key, token=self.token)


async def load_credentials(settings: FaceIdSettings, block: str) -> tuple[str, Credentials]:
    """The account's name and key: from the block, or from the environment where ``block`` is empty.

    Raises ``InvalidInput`` where there are none.
    """
    if not block:
        return settings.account, settings.credentials()
    try:
        loaded = await TencentCredentials.aload(block)
    except ValueError:
        # Prefect's message may show what it found
        raise InvalidInput(
            "MissingCredentials", f"there is no usable block tencent-credentials/{block}"
        ) from None
    assert isinstance(loaded, TencentCredentials)
    return loaded.account, loaded.credentials()


async def account_of(settings: FaceIdSettings, block: str) -> str:
    """The name of the account that a run had its keys of; the environment's where the block that
    it named is gone."""
    try:
        account, _ = await load_credentials(settings, block)
    except InvalidInput:
        return settings.account
    return account


def open_client(
    settings: FaceIdSettings,
    block: str,
    credentials: Credentials,
    pacers: Callable[[str], Pacer | None],
    *,
    refused_for_good: bool = False,
) -> FaceIdClient:
    """A client of the settings' endpoint. Use it as a context manager.

    A temporary token that dies while the client lives is read again, once, from the same place.
    """

    async def renew() -> Credentials:
        _, renewed = await load_credentials(FaceIdSettings.load(), block)
        return renewed

    return FaceIdClient(
        settings.endpoint,
        credentials,
        pacers=pacers,
        renew=renew,
        refused_for_good=refused_for_good,
    )
