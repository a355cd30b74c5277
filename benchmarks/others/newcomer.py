"""The flow that a Prefect newcomer would write, with ``.map``, the SDK and default settings."""

import sys
import time
from pathlib import Path
from typing import Any

import requests
from prefect import flow, task

from benchmarks.others.sdk_client import ask, client


@task(retries=3)
def get_url(_number: int) -> Any:
    return ask(client(), "CreateUploadUrl", TargetAction="IdCardOCRVerification")


@task(retries=3)
def upload(ticket: Any, path: str) -> Any:
    with Path(path).open("rb") as file:
        requests.put(ticket.UploadUrl, data=file, timeout=60).raise_for_status()
    return ticket


@task
def check_expiry(ticket: Any) -> Any:
    if ticket.ExpiredTimestamp < time.time():
        raise ValueError("the URL has expired")
    return ticket


@task(retries=3)
def verify(ticket: Any) -> Any:
    return ask(client(), "IdCardOCRVerification", ImageUrl=ticket.ResourceUrl).Result


@flow
def deliver_all(path: str, count: int) -> None:
    tickets = get_url.map(list(range(count)))
    uploads = upload.map(tickets, path)
    checked = check_expiry.map(uploads)
    for answer in verify.map(checked):
        answer.result()


if __name__ == "__main__":
    deliver_all(sys.argv[1], int(sys.argv[2]))
