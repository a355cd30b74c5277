"""The settings of deliveries: those of the library, and others about storage, locks and waiting."""

from pydantic import Field, SecretStr

from faceid.errors import InvalidInput
from faceid.models import Credentials
from faceid.settings import FaceIdSettings


class DeliverySettings(FaceIdSettings):
    """The settings that steps, flows and commands need.

    The variables of those added here have the prefix ``FACEID_``.
    """

    storage: str = ""
    """Path or fsspec URL of the storage, where records and cached steps are kept; if empty, the
    folder ``faceid`` in Prefect's home."""
    data_key: SecretStr = SecretStr("")
    """Fernet keys that encrypt the storage, comma-separated, newest first. If empty, the storage of
    an emulator's requests has a key of its own, and the live service cannot be used."""
    locks: str = ""
    """``redis://`` URL of the server that keeps the locks and rates of several machines; if empty,
    both are kept in files of one machine."""
    wait_in_run: float = Field(60, ge=0)
    """Seconds for which a run waits for an unavailable service before it leaves the request to a
    follow-up."""
    give_up_after: float = Field(86400, ge=0)
    """Seconds after the first failed attempt at which a request that still cannot be delivered
    fails as ``unavailable``."""

    def credentials(self) -> Credentials:
        """Return the account's API key. Raises ``InvalidInput``, with advice, if there is none."""
        try:
            return super().credentials()
        except InvalidInput as error:
            advice = "Or name a tencent-credentials block. make demo needs no account."
            raise InvalidInput(error.code, error.message, advice=advice) from None
