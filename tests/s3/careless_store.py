"""Runs an S3 store without conditional writes: ``python -m tests.s3.careless_store WAY PORT``.

With ``ignores``, it overlooks the conditions of a request, as stores do that do not know them. With
``refuses``, it answers such a request with an error that says so. It accepts every key.
"""

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")
UNKNOWN = (
    b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"
)


def store(way: str) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    moto: Any = DomainDispatcherApplication(create_backend_app)

    def answer(request: dict[str, Any], start: Any) -> Iterable[bytes]:
        given = [request.pop(name) for name in CONDITIONS if name in request]
        if given and way == "refuses":
            start("501 Not Implemented", [("Content-Type", "application/xml")])
            return [UNKNOWN]
        return moto(request, start)

    return answer


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", int(sys.argv[2]), store(sys.argv[1]), threaded=True)
