"""The settings of a Prefect server and of what runs the flows, from ``server.env`` and
``worker.env``: the local stack, ``compose.yaml`` and whoever checks a server take them from there.
"""

from pathlib import Path

from dotenv import dotenv_values


def _read(name: str) -> dict[str, str]:
    values = dotenv_values(Path(__file__).with_name(name), interpolate=False)
    return {variable: text or "" for variable, text in values.items()}


APPLICATION_NAME = "faceid-flows"
"""What ``deployments.server`` calls itself in its settings, where ``faceid doctor`` finds it."""

SERVER_SETTINGS = _read("server.env")
WORKER_SETTINGS = _read("worker.env")
