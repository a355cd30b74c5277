"""Settings from environment variables: ``TENCENTCLOUD_*`` for credentials, ``FACEID_*`` for others.

``FaceIdSettings.load()`` picks up changes of the environment on every call. README.md lists all
variables.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from faceid.actions import (
    CREATE_UPLOAD_URL,
    CREATE_UPLOAD_URL_RATE,
    TARGET_ACTIONS,
    TargetAction,
    load_actions,
)
from faceid.errors import KEY_NAMES, InvalidInput
from faceid.files.roots import Roots
from faceid.models import EXPIRY_MARGIN, Credentials, Service

ACCOUNT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
LIVE_ENDPOINT = "https://faceid.intl.tencentcloudapi.com"
LIVE_DOMAIN = "tencentcloudapi.com"


def service_of(endpoint: str) -> Service:
    """Return ``live`` if the endpoint is one of the vendor's hosts, otherwise ``emulator``."""
    host = urlsplit(endpoint).hostname or ""
    return "live" if host == LIVE_DOMAIN or host.endswith("." + LIVE_DOMAIN) else "emulator"


def base_url(endpoint: str) -> str:
    """Return the endpoint as ``scheme://host[:port]``, without a trailing slash.

    Raises ``ValueError`` if the URL has anything else, such as a path, a query or user info.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ValueError("must look like https://host or http://127.0.0.1:8600")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must consist of a scheme, a host and a port only")
    return f"{parts.scheme}://{parts.netloc}"


class FaceIdSettings(BaseSettings):
    """The settings that the library needs."""

    model_config = SettingsConfigDict(
        env_prefix="FACEID_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    secret_id: str = Field("", validation_alias=AliasChoices("TENCENTCLOUD_SECRET_ID"))
    """ID of the API key."""
    secret_key: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("TENCENTCLOUD_SECRET_KEY")
    )
    """The API key itself."""
    token: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("TENCENTCLOUD_TOKEN"))
    """Session token, if the key is temporary."""
    region: str = Field("", validation_alias=AliasChoices("TENCENTCLOUD_REGION"))
    """Region of ``faceid deliver`` without ``--region``, such as ``ap-singapore``."""

    endpoint: Annotated[str, AfterValidator(base_url)] = LIVE_ENDPOINT
    """URL of the API. Any host other than the vendor's is treated as an emulator."""
    account: str = Field("default", pattern=ACCOUNT_PATTERN)
    """Your name for the account. Rates and records are kept per account."""
    rates: dict[str, float] = {}
    """JSON object that maps actions to requests per second, such as ``{"CreateUploadUrl": 40}``,
    for accounts with a raised quota. Other actions keep the rates of the table of target
    actions."""
    expiry_margin: float = Field(EXPIRY_MARGIN.total_seconds(), ge=0)
    """Seconds that must be left in a window before an upload and before the call; never more than a
    tenth of the ticket's life is asked for."""
    resource_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated folders and URL prefixes (``/srv/in,s3://bucket/in/,https://``) that
    locations may point into. If not set: for commands, the working folder and any URL; for runs of
    deployments, nothing."""
    actions: Path | None = None
    """JSON file that adds target actions to the table, or replaces actions of the same name."""

    _deployed: bool = PrivateAttr(False)
    _key_names: dict[str, str] = PrivateAttr(
        {name: f"TENCENTCLOUD_{name.upper()}" for name in KEY_NAMES}
    )

    @field_validator("resource_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        # Comma-separated and not, like PATH, colon-separated, because URLs contain colons.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("rates")
    @classmethod
    def _rates_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(rate <= 0 for rate in value.values()):
            raise ValueError("a rate must be above 0 requests per second")
        return value

    @classmethod
    def load(cls) -> Self:
        """Load the settings from the environment.

        Cheap: they are parsed again only if the environment has changed. Raises ``InvalidInput``,
        naming the variable, if a value is invalid.
        """
        ours = ("FACEID_", "TENCENTCLOUD_")
        seen = tuple(item for item in os.environ.items() if item[0].upper().startswith(ours))
        return cls._read(seen)

    @classmethod
    @lru_cache(maxsize=4)  # a class each
    def _read(cls, environment: tuple[tuple[str, str], ...]) -> Self:  # noqa: ARG003 - the cache key
        try:
            return cls()  # pyright: ignore[reportCallIssue]  # all have defaults, by alias
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InvalidInput(
                "Configuration", f"{_variable(first['loc'])}: {first['msg']}"
            ) from None
        except (json.JSONDecodeError, ValueError):
            # pydantic-settings raises these for a variable that should hold JSON but does not
            raise InvalidInput(
                "Configuration", 'FACEID_RATES: must be JSON, such as {"VideoLivenessCompare": 40}'
            ) from None

    def deployed(self) -> Self:
        """Return a copy for runs that others than this machine's owner may have started.

        With it, locations may only point into the configured resource roots: see ``Roots.of``.
        """
        settings = self.model_copy()
        settings._deployed = True
        return settings

    def roots(self) -> Roots:
        """Return the roots that locations may point into, resolved now: see ``Roots.of``."""
        return Roots.of(self.resource_roots, deployed=self._deployed)

    @property
    def service(self) -> Service:
        return service_of(self.endpoint)

    @property
    def host(self) -> str:
        """The host and port of the endpoint."""
        return urlsplit(self.endpoint).netloc

    def credentials(self) -> Credentials:
        """Return the credentials of the environment.

        Raises ``InvalidInput`` if there are none, as there is no default.
        """
        if not self.secret_id or not self.secret_key.get_secret_value():
            missing = "TENCENTCLOUD_SECRET_KEY" if self.secret_id else "TENCENTCLOUD_SECRET_ID"
            raise InvalidInput(
                "MissingCredentials",
                f"{missing} is not set: set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY",
            )
        return Credentials(
            secret_id=self.secret_id,
            secret_key=self.secret_key,
            token=self.token if self.token.get_secret_value() else None,
            names=self._key_names,
        )

    def target_actions(self) -> dict[str, TargetAction]:
        """Return the table of target actions, including those added by ``FACEID_ACTIONS``.

        Raises ``InvalidInput`` if that file cannot be read or is invalid.
        """
        return load_actions(self.actions) if self.actions else TARGET_ACTIONS

    def rate(self, action: str) -> float | None:
        """Return the requests per second allowed for an action, or ``None`` if unknown."""
        if action in self.rates:
            return self.rates[action]
        if action == CREATE_UPLOAD_URL:
            return CREATE_UPLOAD_URL_RATE
        known = self.target_actions().get(action)
        return known.rate if known else None


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return name if name.startswith("TENCENTCLOUD_") else f"FACEID_{name.upper()}"
