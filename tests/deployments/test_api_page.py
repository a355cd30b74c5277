"""Runs the commands of docs/api.md unchanged, against the local stack with basic auth."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.stack import free_port

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
AUTH = "admin:a-password"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_its_lines_do_what_it_says(
    up: Callable[[], dict[str, str]], samples: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(samples / "alder.jpg", samples / "id-photo.jpg")
    shutil.copy(samples / "alder.mp4", samples / "selfie.mp4")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", AUTH)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)
    ready = up()
    (receiver,) = blocks("python")
    (samples / "receiver.py").write_text(receiver)
    lines = "\n".join(blocks("sh"))
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(samples / "prefect"),
            "PREFECT_API_URL": ready["api_url"],
            "FACEID_ENDPOINT": ready["endpoint"],
            "CALLBACK_URL": f"http://127.0.0.1:{free_port()}/",
            "CALLBACK_TOKEN": "a-token",
        },
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for said in (
        "\nverdict: passed, Success [emulator]\n",
        '"outcome:verdict"',
        '"verdict:passed"',
        '{"passed": true, "result": "Success"',
        "\nrerequested: next run ",
        "\ncompleted: 3 verdicts of 3 requests [emulator]\n",
        "| passed | 3 |",
        "\nfaceid: call back\n",
        "\nfaceid.delivery.verdict {",
        '"request_id": "r-4"',
        '"faceid.verdict": "passed"',
    ):
        assert said in f"\n{ran.stdout}", ran.stdout
    refused = (samples / "refused.json").read_text()
    assert "ap-moon" in refused
    # The receiver refuses callers without the token.
    assert "401" in (samples / "receiver.log").read_text()
