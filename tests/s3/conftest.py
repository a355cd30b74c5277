"""An S3 store on this machine, which refuses unknown keys."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from deployments.stack import child, free_port
from tests.s3.s3_store import Store

USER = "worker"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    given: dict[str, Any] = {
        "endpoint_url": url,
        "aws_access_key_id": "AKIAEXAMPLEEXAMPLE00",
        "aws_secret_access_key": "EXAMPLE-root-secret",
        "region_name": "us-east-1",
    }
    iam = cast("Any", boto3).client("iam", **given)
    iam.create_user(UserName=USER)
    iam.put_user_policy(UserName=USER, PolicyName="all", PolicyDocument=json.dumps(POLICY))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    # From here on, the server checks keys, signatures and permissions.
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield Store(url, key["AccessKeyId"], key["SecretAccessKey"])
    server.stop()


@pytest.fixture
def aws(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store, with the environment of a worker that may use it."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield store
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A function that starts a careless store, points the environment to it, and makes a bucket.

    It takes what the store does with conditions, and returns the name of the bucket.
    """
    with ExitStack() as stores:

        def start(way: str) -> str:
            port = str(free_port())
            url = f"http://127.0.0.1:{port}"
            command = ["tests.s3.careless_store", way, port]
            log = tmp_path / "careless.log"
            stores.enter_context(
                child("the store", command, os.environ, log, f"{url}/moto-api/data.json")
            )
            for name, value in Store(url, "AKIAEXAMPLE", "EXAMPLE-secret").environment().items():
                monkeypatch.setenv(name, value)
            S3FileSystem.clear_instance_cache()
            S3FileSystem().mkdir("bucket")
            return "bucket"

        yield start
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(aws: Store) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{uuid4().hex[:12]}"
    S3FileSystem().mkdir(name)
    return name
