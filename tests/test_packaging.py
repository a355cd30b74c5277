"""The contents of the wheel, and its ``faceid`` command without the other packages."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel, as they would be installed."""
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
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "content")
    return folder / "content"


def test_the_wheel_carries_the_library_alone(unpacked: Path):
    packages = {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"faceid"}
    assert (unpacked / "faceid" / "py.typed").exists()
    assert (unpacked / "faceid" / "samples" / "alder.jpg").exists()


def test_without_the_flows_the_command_has_the_emulator_and_says_where_the_rest_is(
    unpacked: Path, tmp_path: Path
):
    # -S disables the editable installation, so the search path is given explicitly.
    packages = Path(pytest.__file__).parent.parent
    shown = subprocess.run(
        [sys.executable, "-S", "-m", "faceid", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(unpacked), str(packages)])},
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "emulator" in shown.stdout
    assert "deliver" not in shown.stdout
    assert "in a checkout of faceid-flows" in shown.stdout
