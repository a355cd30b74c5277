"""The settings of the Prefect server (``server.env``) and of whatever runs flows (``worker.env``).

The local stack, ``compose.yaml`` and ``faceid doctor`` all take them from these two files.
"""

from pathlib import Path

from dotenv import dotenv_values


def _read(name: str) -> dict[str, str]:
    values = dotenv_values(Path(__file__).with_name(name), interpolate=False)
    return {variable: text or "" for variable, text in values.items()}


APPLICATION_NAME = "faceid-flows"
"""Name that ``deployments.server`` puts into its settings, so that ``faceid doctor`` finds it."""

SERVER_SETTINGS = _read("server.env")
WORKER_SETTINGS = _read("worker.env")
