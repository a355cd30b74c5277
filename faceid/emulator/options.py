"""How the emulator is set up: the flags of ``faceid emulator``, each also an environment variable.

Every option is read from ``FACEID_EMULATOR_<NAME>`` unless it is given. A bad value refuses the
start with one line that names the variable.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from faceid.actions import CREATE_UPLOAD_URL, TARGET_ACTIONS, TargetAction, load_actions
from faceid.errors import InvalidInput

PREFIX = "FACEID_EMULATOR_"

# Published on purpose: they open nothing but an emulator. Any others are refused with the
# service's own code, so that a client's handling of a wrong key can be tried.
DEFAULT_SECRET_ID = "AKIDEXAMPLEfaceidEmulatorEXAMPLE0001"  # noqa: S105
DEFAULT_SECRET_KEY = "EXAMPLEfaceidEmulatorSecretKey01"  # noqa: S105


class BadOption(ValueError):
    """An option has a value that cannot be; the message is one line and names the variable."""


class EmulatorOptions(BaseSettings):
    """Options of one emulator.

    ``EmulatorOptions(port=0)`` reads the rest from the environment; ``read`` does the same and
    turns every complaint into one ``BadOption``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8600, ge=0, le=65535)
    """0: any free port."""
    window: int = Field(default=7200, ge=1, le=604_800)
    """Seconds that an upload ticket, its object and a file of an answer live."""
    rates: dict[str, float] = {}
    """Action to requests in any second, instead of the API's own."""
    skew: float = Field(default=0, ge=-315_360_000, le=315_360_000, allow_inf_nan=False)
    """Seconds by which the whole server's clock is ahead of this machine's."""
    data: Path | None = None
    """Folder of the objects; without it a temporary one, removed at the end."""
    secret_id: str = Field(default=DEFAULT_SECRET_ID, pattern=r"^[A-Za-z0-9_-]{1,128}$")
    secret_key: SecretStr = Field(default=SecretStr(DEFAULT_SECRET_KEY), min_length=1)
    token: SecretStr = SecretStr("")
    """If set, a request's ``X-TC-Token`` must be this one; else any is taken."""
    key_segments: Literal[3, 4] = 3
    """Segments of an object's key; with 4 the third is an AppId (fact sheet §3.2)."""
    download_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How long a target action may take to fetch a file; ``None``: as the API's table says."""
    actions: Path | None = Field(
        default=None, validation_alias=AliasChoices("actions", f"{PREFIX}ACTIONS", "FACEID_ACTIONS")
    )
    """JSON file that adds target actions, as the client's ``FACEID_ACTIONS``."""

    @field_validator("key_segments", mode="before")
    @classmethod
    def _number_from_text(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("rates", mode="after")
    @classmethod
    def _rates_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(rate <= 0 or not math.isfinite(rate) for rate in value.values()):
            raise ValueError("a rate must be above 0 requests per second")
        return value

    @classmethod
    def read(cls, **given: Any) -> Self:
        """The options given, which win, and the environment for the rest.

        Raises ``BadOption``.
        """
        try:
            options = cls(**given)
            actions = options.target_actions()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadOption(f"{_variable(first['loc'])}: {first['msg']}") from None
        except SettingsError:
            example = json.dumps({CREATE_UPLOAD_URL: 40})
            raise BadOption(f"{PREFIX}RATES: must be JSON, such as {example}") from None
        except InvalidInput as error:
            raise BadOption(f"{error.code}: {error.message}") from None
        for name in options.rates:
            if name != CREATE_UPLOAD_URL and name not in actions:
                known = ", ".join([CREATE_UPLOAD_URL, *sorted(actions)])
                raise BadOption(f"{PREFIX}RATES: there is no action {name!r}: {known}")
        return options

    def target_actions(self) -> dict[str, TargetAction]:
        """The target actions that are served. Raises ``InvalidInput``."""
        return load_actions(self.actions) if self.actions else TARGET_ACTIONS


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return name if name.startswith("FACEID_") else PREFIX + name.upper()
