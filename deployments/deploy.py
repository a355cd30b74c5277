"""``make deploy``: registers everything with the Prefect server at ``PREFECT_API_URL``.

``python -m deployments.deploy`` prints a line for each object that it has created or changed. The
exit code is 2 if the server cannot be reached or rejects our credentials.
"""

import asyncio

from prefect import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from deployments.registration.register import Registration, register
from faceid import redaction
from faceid.command import fail
from faceid.errors import InvalidInput

UNAUTHORIZED = 401
"""HTTP status if the server rejects our credentials."""


async def deploy() -> Registration:
    """Register everything with the server at ``PREFECT_API_URL``, and return what was done.

    Raises ``InvalidInput`` if the variable is not set, if the server cannot be reached or rejects
    our credentials, or if ``automations.yaml`` is invalid.
    """
    api_url = PREFECT_API_URL.value()
    if not api_url:
        raise InvalidInput(
            "Configuration",
            "PREFECT_API_URL is not set: set it to your Prefect server's API, such as "
            "http://127.0.0.1:4200/api",
        )
    async with get_client() as client:
        if await client.api_healthcheck() is not None:
            raise InvalidInput(
                "Configuration",
                f"no Prefect server answers at {api_url}: start it, or set another PREFECT_API_URL",
            )
    try:
        return await register(pool=True)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != UNAUTHORIZED:
            raise
        raise InvalidInput(
            "Configuration",
            f"the Prefect server at {api_url} rejected our credentials: set "
            "PREFECT_API_AUTH_STRING to the value of its PREFECT_SERVER_API_AUTH_STRING, and unset "
            "PREFECT_API_KEY",
        ) from None


def main() -> None:
    """Register everything, and print a line for each object that was created or changed."""
    redaction.install()
    try:
        done = asyncio.run(deploy())
    except InvalidInput as error:
        fail(str(error))
    for change in done.changes or ["nothing to change"]:
        print(change)  # noqa: T201 - results go to stdout


if __name__ == "__main__":
    main()
