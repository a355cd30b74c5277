"""Small sample images and videos of drawn faces, which show no real person.

``alder.jpg`` and ``alder.mp4`` show the same face, ``birch.jpg`` and ``birch.mp4`` another face,
and ``cedar.jpg`` a third face, of which there is no video.
"""

from importlib.resources import files
from pathlib import Path


def copy_samples(folder: Path) -> dict[str, Path]:
    """Copy the samples into an existing folder, and return their paths by file name."""
    copies: dict[str, Path] = {}
    for sample in files(__name__).iterdir():
        if sample.name.endswith((".jpg", ".mp4")):
            copies[sample.name] = folder / sample.name
            copies[sample.name].write_bytes(sample.read_bytes())
    return copies
