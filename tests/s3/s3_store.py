"""The S3 store of the tests, and keys for it."""

from dataclasses import dataclass

import pytest
from s3fs import S3FileSystem


@dataclass
class Store:
    """The URL of the store, with a key that it accepts."""

    url: str
    secret_id: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.secret_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def change_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the secret key in the environment by one that the store refuses."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "EXAMPLE-wrong-secret")
    S3FileSystem.clear_instance_cache()
