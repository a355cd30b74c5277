"""Small real files for trying things out: drawn faces, no real person's.

``alder.jpg`` and ``alder.mp4`` show the same drawn face, ``birch.jpg`` and ``birch.mp4`` another;
``cedar.jpg`` is a third, with no video of its own.
"""

from importlib.resources import files
from pathlib import Path


def copy_samples(folder: Path) -> dict[str, Path]:
    """Copies the samples into a folder that exists; gives their paths by file name."""
    copies: dict[str, Path] = {}
    for sample in files(__name__).iterdir():
        if sample.name.endswith((".jpg", ".mp4")):
            copies[sample.name] = folder / sample.name
            copies[sample.name].write_bytes(sample.read_bytes())
    return copies
