"""A Prefect server on PostgreSQL, as in a deployment on several machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deployments.stack import free_port, prefect_server
from faceid.emulator import Emulator

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def test_a_delivery_is_recorded_in_postgresql(database: str, emulator: Emulator, tmp_path: Path):
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
    }
    log = tmp_path / "server.log"
    with prefect_server(free_port(), environment, log) as (_, api_url):
        ended = subprocess.run(
            [sys.executable, "-m", "faceid", "deliver", "--request-id", "r-1"]
            + ["--action", "VideoLivenessCompare", "--region", "ap-singapore"]
            + ["--resource", "ImageUrl=alder.jpg", "--resource", "VideoUrl=alder.mp4"]
            + ["--param", "LivenessType=SILENT"],
            capture_output=True,
            text=True,
            env={**environment, "PREFECT_API_URL": api_url},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        run_id = json.loads(ended.stdout)["flow_run_id"]
        run = httpx.get(f"{api_url}/flow_runs/{run_id}").json()
    assert run["state"]["message"] == "verdict: passed, Success [emulator]"
    assert "temporary" not in ended.stderr
