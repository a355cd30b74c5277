"""The settings of commands with the option ``--credentials``, the name of a Prefect block."""

import asyncio

from prefect.settings import PREFECT_API_URL

from faceid.errors import InvalidInput
from tasks.credentials import load_settings
from tasks.settings import DeliverySettings


def block_settings(credentials: str) -> DeliverySettings:
    """Return the settings of the environment, overridden by those of the block.

    ``credentials`` is the name of the block; empty for the environment alone. Raises
    ``InvalidInput`` if the settings or the block are invalid, if the block does not exist, or if
    ``PREFECT_API_URL`` is not set, and ``ServiceUnavailable`` if the block cannot be read.
    """
    if not credentials:
        return DeliverySettings.load()

    if not PREFECT_API_URL.value():
        raise InvalidInput(
            "MissingCredentials",
            "--credentials names a block of a Prefect server; set PREFECT_API_URL to its API",
        )
    return asyncio.run(load_settings(credentials))
