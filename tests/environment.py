"""A clean environment for the tests, before anything of ours or Prefect's is imported.

A module of its own, as pytest imports conftest files under names of its own.
"""

import atexit
import os
import shutil
import tempfile

HOME = tempfile.mkdtemp(prefix="faceid-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# For --faceid-target=live, before they are taken away from everything else.
LIVE = {name: os.environ.get(f"TENCENTCLOUD_{name}", "") for name in ("SECRET_ID", "SECRET_KEY")}
LIVE_ENDPOINT = os.environ.get("FACEID_ENDPOINT", "https://faceid.intl.tencentcloudapi.com")

# Nothing of the developer's own set-up may reach a test, nor a proxy stand in the way.
for name in list(os.environ):
    foreign = name.startswith(("FACEID_", "TENCENTCLOUD_", "PREFECT_"))
    if (foreign and not name.startswith("FACEID_TEST_")) or name.lower().endswith("_proxy"):
        del os.environ[name]

os.environ.update(
    # Prefect makes its home when it is imported.
    PREFECT_HOME=HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
)
