"""``--credentials``: the settings of a run that names a block, for what a command does itself."""

import asyncio

from prefect.settings import PREFECT_API_URL

from faceid.errors import InvalidInput
from faceid.settings import FaceIdSettings
from tasks.credentials import load_settings


def block_settings(credentials: str) -> FaceIdSettings:
    """The environment's settings, and over them what the block says, if one is named.

    Raises ``InvalidInput`` and ``ServiceUnavailable``.
    """
    if not credentials:
        return FaceIdSettings.load()

    if not PREFECT_API_URL.value():
        raise InvalidInput(
            "MissingCredentials",
            "--credentials names a block of a Prefect server; set PREFECT_API_URL to its API",
        )
    return asyncio.run(load_settings(credentials))
