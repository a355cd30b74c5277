"""The wheel: what is in it, and what works where only the wheel is installed."""

import json
import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import faceid
from tests.waiting import until

ROOT = Path(__file__).parent.parent

VERIFY = """
import asyncio
from faceid import FaceIdClient
from faceid.samples import copy_samples
from pathlib import Path

async def main():
    files = copy_samples(Path.cwd())
    async with FaceIdClient.from_environment() as client:
        found = await client.verify(
            "VideoLivenessCompare",
            "ap-singapore",
            files={"ImageUrl": files["alder.jpg"], "VideoUrl": files["alder.mp4"]},
            parameters={"LivenessType": "SILENT"},
        )
    print("passed:", found.verdict.passed)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "-q", "wheel", str(ROOT), "--no-deps"]
    built = subprocess.run(
        [*command, "--no-build-isolation", "-w", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_contains_only_the_library(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(metadata))
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"faceid"}
    assert {"faceid/py.typed", "faceid/samples/alder.jpg"} <= set(names)
    assert about["Version"] == faceid.__version__
    wanted = [str(line) for line in about.get_all("Requires-Dist", [])]
    always = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in wanted if "extra ==" not in line}
    assert not always & {"prefect", "sqlalchemy", "redis", "jinja2", "cryptography"}
    assert any(line.startswith("prefect") and "extra == 'flows'" in line for line in wanted)


def test_the_changelog_tells_of_this_version():
    assert f"\n## {faceid.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.services
@pytest.mark.timeout(600)
def test_in_an_environment_of_its_own_the_wheel_verifies_files(wheel: Path, tmp_path: Path):
    """Installed from the package registry, in the versions of the lock."""
    pins = re.findall(r"^([a-z0-9._-]+==[^ \\\n]+)", (ROOT / "requirements.lock").read_text(), re.M)
    (tmp_path / "constraints.txt").write_text("\n".join(pins))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = tmp_path / "venv" / "bin" / "faceid"
    subprocess.run(
        [python, "-m", "pip", "-q", "install", wheel, "-c", tmp_path / "constraints.txt"],
        check=True,
        cwd=tmp_path,
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    } | {"FACEID_EMULATOR_READY_FILE": str(tmp_path / "ready")}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.lower()
    for absent in ("prefect", "sqlalchemy", "redis", "fastapi"):
        assert f"\n{absent}==" not in f"\n{listed}"
    refused = run(command, "deliver", "--request-id", "r-1")
    assert refused.returncode == 2
    assert "in a checkout of faceid-flows" in refused.stderr
    assert "in a checkout of faceid-flows" in " ".join(run(command, "--help").stdout.split())

    with subprocess.Popen(
        [command, "emulator", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
    ) as emulator:
        try:
            until((tmp_path / "ready").exists, "the emulator is ready", 60)
            ready = json.loads((tmp_path / "ready").read_text())
            environment |= {
                "FACEID_ENDPOINT": ready["url"],
                "TENCENTCLOUD_SECRET_ID": ready["secret_id"],
                "TENCENTCLOUD_SECRET_KEY": ready["secret_key"],
            }
            verified = run(python, "-c", VERIFY)
            assert verified.stdout == "passed: True\n", verified.stderr
        finally:
            emulator.terminate()
