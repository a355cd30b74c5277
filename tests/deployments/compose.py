"""Runs the services of ``deployments/compose.yaml`` as processes, without a container engine.

Commands, settings, secrets and healthchecks are read from the file. The folders and addresses that
containers would have are replaced by local ones.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from dotenv import dotenv_values

from tests.waiting import until

FILE = Path(__file__).parents[2] / "deployments" / "compose.yaml"


def read_compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the file gives a service, without any optional ``env_file``."""
    found: dict[str, str] = {}
    for entry in service.get("env_file", ()):
        if isinstance(entry, str):
            values = dotenv_values(FILE.parent / entry)
            found |= {name: text or "" for name, text in values.items()}
    return found | service.get("environment", {})


@dataclass
class Topology:
    folder: Path
    secrets: Mapping[str, str]
    """The values of the secrets, by their names in the file."""
    places: Mapping[str, str]
    """Texts in the file, and the texts that replace them here."""
    variables: Mapping[str, str]
    """Variables in the file that have other values here."""
    extra: Mapping[str, str]
    """Variables that the machine's own ``faceid.env`` would add."""
    services: dict[str, Any] = field(default_factory=lambda: read_compose()["services"])
    running: list["subprocess.Popen[bytes]"] = field(
        default_factory=list["subprocess.Popen[bytes]"]
    )

    def here(self, text: str) -> str:
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text

    def environment(self, name: str) -> dict[str, str]:
        given = environment_of(self.services[name])
        mine = {key: self.variables.get(key, self.here(text)) for key, text in given.items()}
        # Like a container, the process inherits nothing from this machine's environment.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **mine,
            **self.extra,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "FACEID_SECRETS": str(self._mounted(name)),
        }

    def _mounted(self, name: str) -> Path:
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for secret in self.services[name]["secrets"]:
            path = folder / secret["target"]
            path.unlink(missing_ok=True)
            path.write_text(self.secrets[secret["source"]] + "\n")
            path.chmod(0o400)
        return folder

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        with self.log(name).open("ab") as output:
            process = subprocess.Popen(
                [self.here(word) for word in self.services[name]["command"]],
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.running.append(process)
        return process

    def call(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Run a service that ends by itself, and return how it ended."""
        return subprocess.run(
            [self.here(word) for word in self.services[name]["command"]],
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, name: str) -> str:
        """Run a service that must succeed, and return what it printed."""
        ended = self.call(name)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def start_healthy(self, name: str) -> "subprocess.Popen[bytes]":
        process = self.start(name)
        test = cast("list[str]", self.services[name]["healthcheck"]["test"])
        assert test[0] == "CMD"

        def look() -> bool:
            assert process.poll() is None, self.log(name).read_text()
            checked = subprocess.run(
                [self.here(word) for word in test[1:]],
                env=self.environment(name),
                capture_output=True,
                check=False,
            )
            return checked.returncode == 0

        until(look, f"a healthy {name}")
        return process

    def stop(self) -> None:
        """Terminate all services, the last one first."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                finally:
                    process.kill()
