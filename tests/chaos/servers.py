"""The servers of a chaos run, all of its own: emulator, Prefect server, workers, and what they use.

``Local`` keeps its records in a folder on a small disk of its own, where this process may mount
one. ``Shared`` has PostgreSQL, Redis and an S3 store, and two workers.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
from cryptography.fernet import Fernet
from redis import Redis

from deployments.settings_files import SERVER_SETTINGS, WORKER_SETTINGS
from deployments.stack import free_port
from faceid.emulator.options import DEFAULT_SECRET_ID, DEFAULT_SECRET_KEY
from faceid.emulator.remote import ControlError, EmulatorControl
from tests.chaos.parts import MARK, Part, having, marked
from tests.chaos.recorder import ACTION, Recorder

ROOT = Path(__file__).parents[2]
MUTANT = Path(__file__).with_name("mutant")
"""The folder of a module that drops one save."""
RATES = f'{{"CreateUploadUrl": 400, "{ACTION}": 200}}'
CALL_SECONDS = 0.3
"""How long the emulator takes for a call, so that calls are in flight when something happens."""
DISK = "32m"
"""Size of the disk with the records of ``Local``."""
CLONE_NEWNS, MS_REC_PRIVATE = 0x00020000, 0x4000 | 0x40000
RUN_COMMANDS = ("prefect.engine", "prefect.flow_engine")
"""The modules that execute a flow run in a process of its own."""


class Servers:
    """What both set-ups have."""

    def __init__(self, folder: Path, *, mutant: bool = False) -> None:
        self.folder = folder
        self.mark = uuid4().hex
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.api_url = f"http://127.0.0.1:{free_port()}/api"
        self.recorder = Recorder(free_port(), free_port())
        self.skew = 0.0
        self.calls_by_emulators = 0
        """Calls that emulators counted that have been killed since."""
        self.environment: dict[str, str] = {
            **{name: value for name, value in os.environ.items() if _is_neutral(name)},
            **WORKER_SETTINGS,
            MARK: self.mark,
            "PYTHONPATH": f"{MUTANT}{os.pathsep}{ROOT}" if mutant else str(ROOT),
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "FACEID_ENDPOINT": f"http://127.0.0.1:{self.recorder.port}",
            "TENCENTCLOUD_SECRET_ID": DEFAULT_SECRET_ID,
            "TENCENTCLOUD_SECRET_KEY": DEFAULT_SECRET_KEY,
            "FACEID_DATA_KEY": Fernet.generate_key().decode(),
            "FACEID_SPILL": str(folder / "spill"),
            "FACEID_RATES": RATES,
            "FACEID_RESOURCE_ROOTS": str(folder),
            "FACEID_WAIT_IN_RUN": "5",
            "FACEID_DRAIN_SECONDS": "15",
            "FACEID_EMULATOR_RATES": RATES,
        }
        self.server = self._python(
            "server",
            ["deployments.server", "start", "--host", "127.0.0.1"]
            + ["--port", str(httpx.URL(self.api_url).port)],
            lambda: _answers(f"{self.api_url}/health"),
            {**SERVER_SETTINGS, "PREFECT_HOME": str(folder / "server")},
        )
        self.workers: list[Part] = []

    def start(self) -> None:
        """Start everything."""
        self.start_emulator()
        self.server.start()
        for worker in self.workers:
            worker.start()

    def start_emulator(self) -> None:
        """Start a new emulator, which knows nothing of the one before."""
        url = f"http://127.0.0.1:{self.recorder.upstream}"
        command = ["faceid", "emulator", "--port", str(self.recorder.upstream)]
        self.emulator = self._python(
            "emulator",
            [*command, "--skew", str(self.skew)],
            lambda: _answers(f"{url}/_emulator/health"),
        )
        self.emulator.start()
        EmulatorControl(url).add_fault(ACTION, f"delay:{CALL_SECONDS}", times=0)
        self.recorder.open()

    def kill_emulator(self) -> None:
        """Kill the emulator, after a last look at its count."""
        self.recorder.close()
        self.calls_by_emulators += self.emulator_calls()
        self.emulator.end()

    def control(self) -> EmulatorControl:
        """Return the control of the running emulator."""
        return EmulatorControl(f"http://127.0.0.1:{self.recorder.upstream}")

    def emulator_calls(self) -> int:
        """Return the number of calls that the running emulator has counted."""
        with suppress(ControlError):
            return self.control().stats()["calls"].get(ACTION, 0)
        return 0

    def runs(self) -> list[psutil.Process]:
        """Return the processes of flow runs, oldest first."""
        return having(marked(self.mark), *RUN_COMMANDS)

    def store_away(self) -> Callable[[], None]:
        """Take the storage away, and return what brings it back."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop what does not end with the marked processes."""

    def _python(
        self,
        name: str,
        arguments: list[str],
        is_ready: Callable[[], bool],
        more: dict[str, str] | None = None,
    ) -> Part:
        environment = {**self.environment, **(more or {})}
        command = [sys.executable, "-m", *arguments]
        return Part(name, command, environment, self.logs / f"{name}.log", is_ready)


class Local(Servers):
    """File locks, storage in a folder, SQLite, and the worker of ``faceid up``."""

    def __init__(self, folder: Path, *, mutant: bool = False) -> None:
        super().__init__(folder, mutant=mutant)
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.is_mounted = _mount(self.disk)
        """Whether the storage is on a disk of its own, which can be filled."""
        self.environment["FACEID_STORAGE"] = str(self.disk / "storage")
        ready = folder / "ready"
        arguments = ["deployments.serve", "--limit", "4", "--ready-file", str(ready)]
        self.workers = [self._python("worker", arguments, ready.exists)]

    def store_away(self) -> Callable[[], None]:
        storage, away = self.disk / "storage", self.disk / "away"
        storage.rename(away)
        storage.touch()

        def back() -> None:
            storage.unlink()
            away.rename(storage)

        return back

    def fill_disk(self) -> Callable[[], None]:
        """Fill the disk, and return what empties it again."""
        ballast = self.disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                # The last bytes, too: a short write is no error.
                file.write(bytes(4096))
        return ballast.unlink


class Shared(Servers):
    """Redis, PostgreSQL, S3, and two workers of a pool with homes of their own."""

    def __init__(self, folder: Path, *, mutant: bool = False) -> None:
        super().__init__(folder, mutant=mutant)
        store, self.redis_port, self.postgres_port = free_port(), free_port(), free_port()
        self._store_is_away = folder / "store-is-away"
        self.redis = Redis(port=self.redis_port)
        self.environment |= {
            "FACEID_STORAGE": "s3://chaos/storage",
            "FACEID_LOCKS": f"redis://127.0.0.1:{self.redis_port}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "EXAMPLE-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.store = self._python(
            "store",
            ["tests.chaos.object_store", str(store), str(self._store_is_away)],
            lambda: _answers(f"http://127.0.0.1:{store}/moto-api/data.json"),
        )
        command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        self.redis_server = Part(
            "redis",
            [*command, "--save", "", "--dir", str(folder)],
            self.environment,
            self.logs / "redis.log",
            self._redis_answers,
        )
        self.postgres = folder / "postgres"
        self.server.environment["PREFECT_API_DATABASE_CONNECTION_URL"] = (
            f"postgresql+asyncpg://postgres@127.0.0.1:{self.postgres_port}/postgres"
        )
        for number in (1, 2):
            arguments = ["deployments.worker", "--pool=faceid", f"--name=worker-{number}"]
            arguments += ["--limit=3", "--install-policy=never", "--no-create-pool-if-not-found"]
            self.workers.append(
                self._python(
                    f"worker-{number}",
                    arguments,
                    lambda: True,
                    {"PREFECT_HOME": str(folder / f"home-{number}")},
                )
            )

    def start(self) -> None:
        self._begin_postgres()
        self.redis_server.start()
        self.store.start()
        httpx.put(f"{self.environment['AWS_ENDPOINT_URL']}/chaos").raise_for_status()
        self.start_emulator()
        self.server.start()
        command = [sys.executable, "-m", "deployments.deploy"]
        with (self.logs / "deploy.log").open("wb") as log:
            subprocess.run(command, env=self.environment, check=True, stdout=log, stderr=log)
        for worker in self.workers:
            worker.start()

    def store_away(self) -> Callable[[], None]:
        self._store_is_away.touch()
        return self._store_is_away.unlink

    def postgres_control(self, *arguments: str) -> None:
        """Run ``pg_ctl`` on this run's database server."""
        options = f"-p {self.postgres_port} -c listen_addresses=127.0.0.1 -k {self.postgres}"
        command = ["pg_ctl", "-D", str(self.postgres), "-w", "-o", options]
        self._as_postgres([*command, "-l", str(self.postgres / "log"), *arguments])

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.postgres_control("stop", "-m", "immediate")

    def _begin_postgres(self) -> None:
        self.postgres.mkdir()
        if os.getuid() == 0:
            # PostgreSQL does not run as root.
            shutil.chown(self.postgres, "postgres", "postgres")
            self.folder.chmod(0o711)
        self._as_postgres(["initdb", "-D", str(self.postgres), "-A", "trust", "-U", "postgres"])
        self.postgres_control("start")

    def _as_postgres(self, command: list[str]) -> None:
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        with (self.logs / "postgres.log").open("ab") as log:
            subprocess.run(
                [*(prefix if os.getuid() == 0 else []), *command],
                env={**self.environment, "HOME": str(self.postgres)},
                cwd=self.postgres,
                check=True,
                stdout=log,
                stderr=log,
            )

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except Exception:  # it starts, or is down
            return False


def _is_neutral(name: str) -> bool:
    foreign = name.startswith(("FACEID_", "TENCENTCLOUD_", "PREFECT_", "AWS_"))
    return not foreign and not name.lower().endswith("_proxy")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _mount(folder: Path) -> bool:
    """Mount a small disk that only this process and its children see; return whether that works."""
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.unshare(CLONE_NEWNS) or kernel.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        return False
    size = f"size={DISK}".encode()
    return kernel.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size) == 0
