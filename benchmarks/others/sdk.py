"""A script with the vendor's SDK in 32 threads. The SDK has no upload, so ``requests`` is used."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from benchmarks.others.sdk_client import ask, client

AT_ONCE = 32

_own = threading.local()


def deliver(content: bytes) -> None:
    if not hasattr(_own, "client"):
        _own.client, _own.session = client(), requests.Session()
    ticket = ask(_own.client, "CreateUploadUrl", TargetAction="IdCardOCRVerification")
    _own.session.put(ticket.UploadUrl, data=content, timeout=60).raise_for_status()
    assert ticket.ExpiredTimestamp > time.time()
    ask(_own.client, "IdCardOCRVerification", ImageUrl=ticket.ResourceUrl)


def main(content: bytes, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(deliver, content) for _ in range(count)]:
            done.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes(), int(sys.argv[2]))
