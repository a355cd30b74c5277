"""With wrong settings, every flow can still be imported, and its run says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import Flow

from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.forget import forget
from flows.sweep import sweep

WRONG = {
    "FACEID_RATES": "nonsense",
    "FACEID_ACTIONS": "nowhere.json",
    "FACEID_WAIT_IN_RUN": "-1",
    "FACEID_ENDPOINT": "ftp://x",
}


@pytest.mark.parametrize("variable", WRONG)
def test_every_flow_can_be_imported(variable: str, tmp_path: Path):
    imports = "import flows.deliver, flows.deliver_batch, flows.sweep, flows.forget"
    ended = subprocess.run(
        [sys.executable, "-c", imports],
        env={**os.environ, variable: WRONG[variable]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("flow", [deliver, deliver_batch, sweep, forget], ids=lambda f: f.name)
async def test_the_run_says_what_is_wrong(
    flow: Flow[..., Any], prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FACEID_RATES", "nonsense")
    chosen = {"target_action": "IdCardOCRVerification", "region": "ap-singapore"}
    parameters = chosen if flow is deliver else {}
    state = await cast("Any", flow)(**parameters, return_state=True)
    assert state.is_failed()
    assert state.message.startswith("invalid-input: Configuration: FACEID_RATES: must be JSON")
