"""What all tests share: a clean environment, before anything of ours or Prefect's is imported."""

import atexit
import os
import shutil
import tempfile

HOME = tempfile.mkdtemp(prefix="faceid-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in list(os.environ):
    # Nothing of the developer's own set-up may reach a test, nor a proxy stand in the way.
    if name.startswith(("FACEID_", "TENCENTCLOUD_", "PREFECT_")) or name.lower().endswith("_proxy"):
        if name not in ("FACEID_TEST_BROWSER", "FACEID_TEST_SERVICES"):
            del os.environ[name]

os.environ.update(
    # Prefect makes its home when it is imported.
    PREFECT_HOME=HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
)
