"""Runs an S3 store that can be away: ``python -m tests.chaos.object_store PORT FLAG``.

While the file FLAG exists, it answers 503. It serves one request at a time, because moto does not
check a condition and write the object in one step.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


def main(port: int, flag: Path) -> None:
    moto: Any = DomainDispatcherApplication(create_backend_app)

    def answer(request: dict[str, Any], start: Any) -> Iterable[bytes]:
        if flag.exists():
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ServiceUnavailable</Code><Message>away</Message></Error>"]
        return moto(request, start)

    run_simple("127.0.0.1", port, answer, threaded=False)


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    main(int(sys.argv[1]), Path(sys.argv[2]))
