"""Cleans up the environment before anything of this project or of Prefect is imported.

This is a separate module because pytest imports conftest files under other module names.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import certifi

HOME = tempfile.mkdtemp(prefix="faceid-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Each of Prefect's HTTP clients reads all certificate authorities, which takes 20 to 40 ms of CPU
# time, and each run has several clients. No test needs more than one authority.
AUTHORITY = Path(HOME) / "authority.pem"
END = "-----END CERTIFICATE-----\n"
AUTHORITY.write_text(Path(certifi.where()).read_text().partition(END)[0] + END)

# For --faceid-target=live: read before these variables are removed below.
LIVE = {name: os.environ.get(f"TENCENTCLOUD_{name}", "") for name in ("SECRET_ID", "SECRET_KEY")}
LIVE_ENDPOINT = os.environ.get("FACEID_ENDPOINT", "https://faceid.intl.tencentcloudapi.com")

# Neither the developer's own settings nor a proxy may affect the tests.
for name in list(os.environ):
    foreign = name.startswith(("FACEID_", "TENCENTCLOUD_", "PREFECT_"))
    if (foreign and not name.startswith("FACEID_TEST_")) or name.lower().endswith("_proxy"):
        del os.environ[name]

os.environ.update(
    # Prefect creates its home folder when it is imported.
    PREFECT_HOME=HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
    SSL_CERT_FILE=str(AUTHORITY),
)
