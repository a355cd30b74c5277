"""Settings of a command that takes ``--credentials``, the name of a Prefect block."""

import asyncio

from prefect.settings import PREFECT_API_URL

from faceid.errors import InvalidInput
from tasks.credentials import load_settings
from tasks.settings import DeliverySettings


def block_settings(credentials: str) -> DeliverySettings:
    """Return the environment's settings, overridden by those of the block if one is named.

    Raises ``InvalidInput`` if the settings or the block are wrong or the block does not exist, and
    ``ServiceUnavailable`` if the Prefect server cannot be reached.
    """
    if not credentials:
        return DeliverySettings.load()

    if not PREFECT_API_URL.value():
        raise InvalidInput(
            "MissingCredentials",
            "--credentials names a block of a Prefect server; set PREFECT_API_URL to its API",
        )
    return asyncio.run(load_settings(credentials))
