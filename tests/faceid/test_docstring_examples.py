"""The examples in the docstrings of the public API run as they stand, against the emulator.

An example is what follows ``Example::``, indented. It is run with the public names of ``faceid``,
in a folder that holds ``id-photo.jpg`` and ``selfie.mp4``.
"""

import ast
import inspect
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import faceid
from faceid import pytest_plugin
from faceid.emulator import Emulator
from faceid.samples import copy_samples


def documented() -> Iterator[tuple[str, Any]]:
    """Yield the names and objects whose docstrings may hold examples."""
    yield "faceid.pytest_plugin", pytest_plugin
    yield "Emulator", Emulator
    for name in faceid.__all__:
        found = getattr(faceid, name)
        yield name, found
        if inspect.isclass(found):
            for member, value in vars(found).items():
                yield f"{name}.{member}", value


def examples() -> dict[str, str]:
    """Return the code of the examples, by the name of what they belong to."""
    found: dict[str, str] = {}
    for name, value in documented():
        text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
        _, marker, rest = text.partition("Example::\n")
        if marker:
            lines = rest.splitlines()
            end = (at for at, line in enumerate(lines) if line and not line.startswith(" "))
            found[name] = textwrap.dedent("\n".join(lines[: next(end, len(lines))]))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_runs(
    name: str, faceid_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    samples = copy_samples(tmp_path)
    shutil.copy(samples["alder.jpg"], tmp_path / "id-photo.jpg")
    shutil.copy(samples["alder.mp4"], tmp_path / "selfie.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEID_ENDPOINT", faceid_emulator.url)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", faceid_emulator.secret_id)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", faceid_emulator.secret_key)
    names = {name: getattr(faceid, name) for name in faceid.__all__}
    names |= {"Emulator": Emulator, "Path": Path, "SecretStr": SecretStr, "os": os}
    code = compile(EXAMPLES[name], name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome: Any = eval(code, names)
    if inspect.isawaitable(outcome):
        await outcome


def test_the_central_names_have_examples():
    central = {"FaceIdClient", "FaceIdClient.verify", "FaceIdError", "Pacer", "TargetAction"}
    assert central | {"load_actions", "Emulator", "faceid.pytest_plugin"} <= set(EXAMPLES)
