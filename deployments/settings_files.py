"""The settings of the Prefect server (``server.env``) and of the workers (``worker.env``).

The local stack, ``compose.yaml`` and ``faceid doctor`` all read these two files.
"""

from pathlib import Path

from dotenv import dotenv_values


def _read(name: str) -> dict[str, str]:
    values = dotenv_values(Path(__file__).with_name(name), interpolate=False)
    return {variable: text or "" for variable, text in values.items()}


APPLICATION_NAME = "faceid-flows"
"""Name in the settings of ``deployments.server``, by which ``faceid doctor`` recognizes it."""

SERVER_SETTINGS = _read("server.env")
"""Environment variables of a Prefect server."""
WORKER_SETTINGS = _read("worker.env")
"""Environment variables of a worker."""
