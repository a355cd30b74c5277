"""The options of the emulator, from the command line or from environment variables.

An option that is not given is read from ``FACEID_EMULATOR_<NAME>``. If a value is invalid, the
emulator does not start, and prints one line that names the variable.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from faceid.actions import CREATE_UPLOAD_URL, TARGET_ACTIONS, TargetAction, load_actions
from faceid.errors import InvalidInput, reason_of

PREFIX = "FACEID_EMULATOR_"
"""Prefix of the environment variables."""

# These are not secret, because they only give access to an emulator. Other keys are refused, with
# the service's code, so that a client's handling of wrong keys can be tested.
DEFAULT_SECRET_ID = "AKIDEXAMPLEfaceidEmulatorEXAMPLE0001"  # noqa: S105 - the emulator's, and public
DEFAULT_SECRET_KEY = "EXAMPLEfaceidEmulatorSecretKey01"  # noqa: S105 - likewise


class BadOption(ValueError):
    """Raised if an option is invalid. The message is one line and names the variable."""


class EmulatorOptions(BaseSettings):
    """The options of one emulator.

    ``EmulatorOptions.read(port=0)`` sets the port and reads all other options from the environment.
    The constructor does the same, but does not check whether ``rates`` names existing actions, and
    raises the errors of pydantic instead of ``BadOption``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    """Host name or IP address to listen on."""
    port: int = Field(default=8600, ge=0, le=65535)
    """Port to listen on; 0 picks a free port."""
    window: int = Field(default=7200, ge=1, le=604_800)
    """Seconds until upload tickets, uploaded files and files of answers expire."""
    rates: dict[str, float] = {}
    """Maps actions to calls per second, to override the API's limits."""
    skew: float = Field(default=0, ge=-315_360_000, le=315_360_000, allow_inf_nan=False)
    """Seconds by which the emulator's clock is ahead of this machine's."""
    data: Path | None = None
    """Folder for the objects; if ``None``, a temporary folder, removed when the emulator ends."""
    secret_id: str = Field(default=DEFAULT_SECRET_ID, pattern=r"^[A-Za-z0-9_-]{1,128}$")
    """The only secret ID that is accepted."""
    secret_key: SecretStr = Field(default=SecretStr(DEFAULT_SECRET_KEY), min_length=1)
    """The only secret key that is accepted."""
    token: SecretStr = SecretStr("")
    """The only ``X-TC-Token`` that is accepted; if empty, any token is accepted."""
    key_segments: Literal[3, 4] = 3
    """Number of segments of an object key: 3 (documented), or 4, the third of which is presumably
    the caller's AppId (observed)."""
    download_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds in which a target action must be able to download a file; if ``None``, those in the
    table of target actions."""
    actions: Path | None = Field(
        default=None, validation_alias=AliasChoices("actions", f"{PREFIX}ACTIONS", "FACEID_ACTIONS")
    )
    """JSON file with further target actions, in the format of ``FACEID_ACTIONS``."""

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
        """Return the given options, and all others as they are in the environment.

        Raises ``BadOption`` if a value is invalid or ``rates`` names an action that does not exist.
        """
        try:
            options = cls(**given)
            actions = options.target_actions()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadOption(f"{_variable(first['loc'])}: {reason_of(first)}") from None
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
        """Return the target actions of the emulator, by name.

        Raises ``InvalidInput`` if the file ``actions`` cannot be read or is invalid.
        """
        return load_actions(self.actions) if self.actions else TARGET_ACTIONS


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return name if name.startswith("FACEID_") else PREFIX + name.upper()
