"""A plain script with asyncio and httpx, without retries and without stored state."""

import asyncio
import hashlib
import json
import os
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx

from faceid.signing import sign_request

AT_ONCE = 32


class Service:
    """A minimal client of the service."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._url = os.environ["FACEID_ENDPOINT"]

    async def call(self, action: str, parameters: dict[str, str]) -> dict[str, Any]:
        body = json.dumps(parameters).encode()
        headers = sign_request(
            secret_id=os.environ["TENCENTCLOUD_SECRET_ID"],
            secret_key=os.environ["TENCENTCLOUD_SECRET_KEY"],
            service="faceid",
            host=self._url.partition("://")[2],
            action=action,
            version="2018-03-01",
            region="ap-singapore",
            timestamp=int(time.time()),
            body=body,
        )
        response = await self._http.post(self._url, content=body, headers=headers)
        answer: dict[str, Any] = response.json()["Response"]
        assert "Error" not in answer, answer
        return answer

    async def deliver(self, content: bytes) -> None:
        ticket = await self.call("CreateUploadUrl", {"TargetAction": "IdCardOCRVerification"})
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        put = await self._http.put(
            ticket["UploadUrl"], content=content, headers={"Content-MD5": b64encode(md5).decode()}
        )
        put.raise_for_status()
        assert ticket["ExpiredTimestamp"] > time.time()
        await self.call("IdCardOCRVerification", {"ImageUrl": ticket["ResourceUrl"]})


async def main(content: bytes, count: int) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient() as http:
        service = Service(http)

        async def one() -> None:
            async with gate:
                await service.deliver(content)

        await asyncio.gather(*(one() for _ in range(count)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes(), int(sys.argv[2])))
