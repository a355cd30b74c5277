"""The settings of deliveries: those of the library, and others about storage, locks and waiting."""

import json
from pathlib import Path
from typing import Annotated, Any, Self, cast
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from faceid.errors import KEY_NAMES, InvalidInput
from faceid.models import Credentials
from faceid.settings import FaceIdSettings


class DeliverySettings(FaceIdSettings):
    """The settings that steps, flows and commands need.

    The variables of those added here have the prefix ``FACEID_``.
    """

    storage: str = ""
    """Folder, or URL in an S3 store that honours conditional writes, of records, cached steps and
    results of batches; if not set, the folder ``faceid`` in Prefect's home."""
    data_key: SecretStr = SecretStr("")
    """Fernet keys that the storage is encrypted with, newest first, comma-separated. Required for
    the live service. For an emulator, a key is created in the storage on first use if the storage
    is on this machine."""
    spill: str = ""
    """Folder on this machine, as an absolute path, for answers that the storage does not accept,
    encrypted like the storage; if not set, the folder ``faceid-spill`` in Prefect's home."""
    locks: str = ""
    """``redis://…``, ``rediss://…`` or ``unix://…`` URL of a Redis server for locks and rates.
    Required if the storage is not on this machine, and needed if several machines share the
    account; if not set, files on this machine."""
    wait_in_run: float = Field(60, ge=0)
    """Seconds for which a run waits for an unavailable service before it leaves the request to a
    follow-up."""
    give_up_after: float = Field(86400, ge=0)
    """Seconds after the first failed attempt at which a request that still cannot be delivered
    fails as ``unavailable``."""

    drain_seconds: float = Field(65, ge=0)
    """Seconds for which calls in flight may come to their end when a run is told to end. The
    default is longer than the time within which a call is answered."""
    max_calls_per_day: Annotated[dict[str, int], NoDecode] = {}
    """JSON object that maps target actions to calls a day, such as ``{"VideoLivenessCompare":
    5000}``. The limit holds for each account. When it is reached, requests wait for the next day.
    Actions that are not named have no limit."""
    day: str = "UTC"
    """Time zone of the days of ``FACEID_MAX_CALLS_PER_DAY``, such as ``Asia/Singapore``."""

    @field_validator("spill")
    @classmethod
    def _spill_is_on_this_machine(cls, value: str) -> str:
        if value and not Path(value).is_absolute():
            raise ValueError("must be the absolute path of a folder on this machine")
        return value

    @field_validator("max_calls_per_day", mode="before")
    @classmethod
    def _limits_are_whole_numbers(cls, value: Any) -> Any:
        try:
            limits = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            limits = None
        # `type` and not `isinstance`, because true is an int in Python.
        if not isinstance(limits, dict) or not all(
            type(limit) is int and limit >= 0 for limit in cast("dict[str, Any]", limits).values()
        ):
            example = '{"VideoLivenessCompare": 5000}'
            raise ValueError(f"must be a JSON object of whole numbers from 0, such as {example}")
        return cast("dict[str, Any]", limits)

    @field_validator("day")
    @classmethod
    def _day_is_of_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):  # a name that is unknown, a folder, or no name
            raise ValueError("must be a time zone, such as Asia/Singapore") from None
        return value

    @model_validator(mode="after")
    def _limits_are_of_actions(self) -> Self:
        # A limit with a misspelled name would limit nothing, and nobody would notice.
        known = self.target_actions() if self.max_calls_per_day else ()
        if unknown := sorted(set(self.max_calls_per_day) - set(known)):
            names = ", ".join(unknown)
            raise InvalidInput(
                "Configuration", f"FACEID_MAX_CALLS_PER_DAY: not a target action: {names}"
            )
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the days whose calls are limited."""
        return ZoneInfo(self.day)

    def from_block(self) -> Self:
        """Return a copy for the values of a block, whose fields errors then name."""
        settings = self.model_copy()
        settings._key_names = {name: f"the block's {name}" for name in KEY_NAMES}
        return settings

    def credentials(self) -> Credentials:
        """Return the account's API key. Raises ``InvalidInput``, with advice, if there is none."""
        try:
            return super().credentials()
        except InvalidInput as error:
            advice = "Or name a tencent-credentials block. make demo needs no account."
            raise InvalidInput(error.code, error.message, advice=advice) from None
