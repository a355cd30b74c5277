"""The ``faceid`` command in this process, and the local stack as processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from faceid.command import run

REQUEST: dict[str, Any] = {
    "request_id": "r-1",
    "target_action": "VideoLivenessCompare",
    "region": "ap-singapore",
    "resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
    "action_parameters": {"LivenessType": "SILENT"},
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def faceid(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """Runs the command in this process."""
    import_module("deployments.cli")
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}

    def call(*tokens: str) -> Ended:
        with pytest.raises(SystemExit) as ending:
            run(tokens)
        captured = capsys.readouterr()
        return Ended(int(ending.value.code or 0), captured.out, captured.err)

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


DELIVER = {
    "--request-id": "r-1",
    "--action": "VideoLivenessCompare",
    "--region": "ap-singapore",
    "--resource": ["ImageUrl=alder.jpg", "VideoUrl=alder.mp4"],
    "--param": ["LivenessType=SILENT"],
}


def deliver_tokens(**changes: Any) -> list[str]:
    flags: dict[str, Any] = DELIVER | {f"--{k.replace('_', '-')}": v for k, v in changes.items()}
    tokens = ["deliver"]
    for flag, value in flags.items():
        if value is not None:
            # A flag of any type, or a list of them: what is in it only str() needs to know.
            for text in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
                tokens += [flag, str(text)]  # pyright: ignore[reportUnknownArgumentType]
    return tokens


def until(look: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """What ``look`` finds as soon as it finds something; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


def trigger(api: httpx.Client, **changes: Any) -> str:
    """The ID of a run of the sample request, as a user of the API triggers it."""
    deployment = api.get("/deployments/name/deliver/default").json()["id"]
    created = api.post(
        f"/deployments/{deployment}/create_flow_run", json={"parameters": REQUEST | changes}
    )
    assert created.status_code == 201, created.text
    return created.json()["id"]


def final_state(api: httpx.Client, run_id: str) -> dict[str, Any]:
    """The state that a run ended in, as soon as it has."""

    def look() -> dict[str, Any] | None:
        state = cast("dict[str, Any]", api.get(f"/flow_runs/{run_id}").json()["state"])
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return cast("dict[str, Any]", until(look, "the run's end"))


def parts_of_up() -> list[psutil.Process]:
    """What ``faceid up`` has started, and what these have."""
    (up,) = [
        process
        for process in psutil.Process().children()
        if {"faceid", "up"} <= set(process.cmdline())
    ]
    return up.children(recursive=True)


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


@contextmanager
def running_up(
    folder: Path, output: IO[bytes] | None = None, **more: str
) -> Generator[dict[str, str]]:
    """``faceid up --emulator`` on a free port, in this folder; gives what its ready file says.

    ``output`` is where its complaints go; ``more`` is added to its environment.
    """
    ready = folder / "ready.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "faceid", "up", "--emulator", "--port", "0"]
        + ["--ready-file", str(ready)],
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect"), **more},
        cwd=folder,
        stderr=output,
    )
    try:

        def look() -> bool:
            assert process.poll() is None, "it ended by itself"
            return ready.exists()

        until(look, "the ready file")
        assert ready.stat().st_mode & 0o777 == 0o600
        yield json.loads(ready.read_text())
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert_all_gone(family)


POSTGRES = os.environ.get("FACEID_TEST_POSTGRES", "postgres@127.0.0.1:5432")


async def execute(statement: str, *values: Any, database: str = "postgres") -> None:
    connection = await cast("Any", asyncpg).connect(f"postgresql://{POSTGRES}/{database}")
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


@pytest.fixture
def database() -> Iterator[str]:
    """A database of its own; its URL for Prefect."""
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
    """Starts ``faceid up --emulator`` on a free port; gives what its ready file says."""
    with ExitStack() as started:
        yield lambda: started.enter_context(running_up(tmp_path))
