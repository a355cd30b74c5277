"""The settings of deliveries: those of the library, and where and how requests are kept."""

from typing import Self

from pydantic import Field, SecretStr

from faceid.errors import KEY_NAMES, InvalidInput
from faceid.models import Credentials
from faceid.settings import FaceIdSettings


class DeliverySettings(FaceIdSettings):
    """The settings that steps, flows and commands need; read from the environment as the others."""

    storage: str = ""
    """Folder or fsspec URL of records, cached steps and results of batches; if not set, the folder
    ``faceid`` in Prefect's home."""
    data_key: SecretStr = SecretStr("")
    """Fernet keys that the storage is encrypted with, newest first, comma-separated. Required for
    the live service. For an emulator, a key is created in the storage on first use if the storage
    is on this machine."""
    locks: str = ""
    """``redis://…``, ``rediss://…`` or ``unix://…`` URL of a Redis server for locks and rates, if
    several machines share the storage or the account; if not set, files on this machine."""
    wait_in_run: float = Field(60, ge=0)
    """Seconds that a run waits for an unavailable action before leaving it to a follow-up run."""
    give_up_after: float = Field(86400, ge=0)
    """Seconds after which a request that cannot be delivered fails as ``unavailable``."""

    def from_block(self) -> Self:
        """Return a copy for the values of a block, whose fields errors then name."""
        settings = self.model_copy()
        settings._key_names = {name: f"the block's {name}" for name in KEY_NAMES}
        return settings

    def credentials(self) -> Credentials:
        try:
            return super().credentials()
        except InvalidInput as error:
            advice = "Or name a tencent-credentials block. make demo needs no account."
            raise InvalidInput(error.code, error.message, advice=advice) from None
