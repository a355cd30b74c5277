"""Fixtures for the ``faceid`` command in this process, and the local stack as processes."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.deployments.postgres_server import POSTGRES, execute
from tests.deployments.stack_processes import running_up
from tests.sample_request import REQUEST


@pytest.fixture
def database() -> Iterator[str]:
    """The URL, in the form that Prefect expects, of a new PostgreSQL database."""
    name = f"faceid_{uuid4().hex}"
    try:
        asyncio.run(execute(f"CREATE DATABASE {name}"))
    except OSError:
        if os.environ.get("FACEID_TEST_SERVICES") == "required":
            raise
        pytest.skip("no PostgreSQL on this machine")
    yield f"postgresql+asyncpg://{POSTGRES}/{name}"
    asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def up(samples: Path, tmp_path: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """A function that starts ``faceid up --emulator`` on a free port.

    It returns the contents of the ready file.
    """
    with ExitStack() as started:
        yield lambda: started.enter_context(running_up(tmp_path))


@pytest.fixture
def manifest(samples: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that writes a manifest of ``count`` requests, and returns its path.

    The keyword argument ``p_2`` contains changes to the request ``p-2``, and so on.
    """
    rates = '{"CreateUploadUrl": 1000, "VideoLivenessCompare": 1000}'
    monkeypatch.setenv("FACEID_RATES", rates)

    def write(count: int, **changes: dict[str, Any]) -> str:
        path = samples / "people.jsonl"
        entries = [
            REQUEST | {"request_id": f"p-{n}"} | changes.get(f"p_{n}", {}) for n in range(count)
        ]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return str(path)

    return write
