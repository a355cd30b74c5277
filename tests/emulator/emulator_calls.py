"""Callers of the emulator: plain HTTP with signatures that can be altered, and the vendor's SDK."""

import hashlib
import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from tencentcloud.common.credential import Credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from faceid import signing
from faceid.emulator import Emulator

REGION = "ap-singapore"
JPEG = b"\xff\xd8\xff\xe0" + b"a picture " * 40
MP4 = b"\x00\x00\x00\x18ftypmp42" + b"a film " * 200


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@dataclass
class Caller:
    """Signs calls as the API requires; ``headers`` change the headers after signing."""

    url: str
    secret_id: str
    secret_key: str
    token: str = ""
    http: requests.Session = field(default_factory=requests.Session)

    @classmethod
    def of(cls, emulator: Emulator, **other: Any) -> "Caller":
        given: dict[str, Any] = {
            "url": emulator.url,
            "secret_id": emulator.secret_id,
            "secret_key": emulator.secret_key,
        }
        return cls(**{**given, **other})

    @classmethod
    def announced(cls, ready: dict[str, str]) -> "Caller":
        """Create a caller for an emulator that has printed this ready line."""
        return cls(ready["url"], ready["secret_id"], ready["secret_key"])

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def post(
        self,
        action: str,
        parameters: Any = None,
        *,
        region: str = REGION,
        body: bytes | None = None,
        headers: dict[str, str | None] | None = None,
        **signed: Any,
    ) -> requests.Response:
        if body is None:
            body = json.dumps({} if parameters is None else parameters).encode()
        given: dict[str, Any] = {
            "secret_id": self.secret_id,
            "secret_key": self.secret_key,
            "token": self.token,
            "service": "faceid",
            "host": self.host,
            "action": action,
            "version": "2018-03-01",
            "region": region,
            "timestamp": int(time.time()),
            "body": body,
        }
        changed = {**signing.sign_request(**{**given, **signed}), **(headers or {})}
        sent = {name: value for name, value in changed.items() if value is not None}
        return self.http.post(self.url + "/", data=body, headers=sent, timeout=30)

    def call(self, action: str, parameters: Any = None, **other: Any) -> dict[str, Any]:
        """Call an action, and return the contents of the response envelope."""
        reply = self.post(action, parameters, **other)
        assert reply.status_code == 200
        assert reply.headers["Content-Type"] == "application/json"
        answer: dict[str, Any] = reply.json()["Response"]
        assert len(answer["RequestId"]) == 36
        return answer

    def code(self, action: str, parameters: Any = None, **other: Any) -> str:
        """Make a call that fails, and return the error code."""
        return self.call(action, parameters, **other)["Error"]["Code"]

    def ticket(self, target_action: str = "VideoLivenessCompare", **other: Any) -> dict[str, Any]:
        answer = self.call("CreateUploadUrl", {"TargetAction": target_action}, **other)
        assert "Error" not in answer, answer
        return answer

    def put(self, url: str, data: Any, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.put(url, data=data, headers=named, timeout=60)

    def get(self, url: str, **headers: str) -> requests.Response:
        return self.http.get(url, headers=headers, timeout=30)

    def upload(self, data: bytes, **other: Any) -> str:
        """Upload an object with these bytes, and return its resource URL."""
        ticket = self.ticket(**other)
        assert self.put(ticket["UploadUrl"], data).status_code == 200
        return ticket["ResourceUrl"]

    def comparison(self, image: bytes = JPEG, video: bytes = MP4) -> dict[str, str]:
        """Upload both files, and return the parameters of a call of VideoLivenessCompare."""
        return {
            "ImageUrl": self.upload(image),
            "ImageMd5": md5(image),
            "VideoUrl": self.upload(video),
            "VideoMd5": md5(video),
            "LivenessType": "SILENT",
        }


def credential(target: Any, secret_key: str | None = None) -> Credential:
    return Credential(target.secret_id, secret_key or target.secret_key)


def profile(url: str, method: str = "POST") -> ClientProfile:
    """Return an SDK profile for the server at this URL."""
    parts = urlsplit(url)
    http = HttpProfile(protocol=parts.scheme, endpoint=parts.netloc, reqMethod=method)
    return ClientProfile(httpProfile=http)


@contextmanager
def line_to(url: str) -> Generator[socket.socket]:
    """Open a connection on which the test writes raw bytes."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as line:
        yield line


def read_all(line: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    received = b""
    while part := line.recv(65536):
        received += part
    return received


def target_of(url: str) -> str:
    """Return the path and query of a URL, for a request line."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
