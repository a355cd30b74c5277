"""Downloads of the files that a target action is given, over HTTP from the emulator's own store.

The emulator downloads only URLs that are signed with a key of its own store, and always from its
own address, whatever host a URL names, so that the emulator cannot be used to access other servers.
A failed download is answered with ``DownLoadError`` (assumed), a slow one with
``DownLoadTimeoutError`` (documented).
"""

import asyncio
import hashlib
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from faceid.emulator.cos_signing import Grant
from faceid.emulator.emulation import Emulation
from faceid.emulator.refusals import Refusal

DOWNLOAD_SECONDS = 4.0
"""Seconds allowed for a download if no limit is documented for the field (assumed; the documented
limits are 3 and 4 seconds)."""

_PIECE = 256 * 1024
_HEAD = 16


@dataclass(frozen=True)
class Fetched:
    """What is known about a file after its download."""

    size: int
    """Size in bytes."""
    md5: str
    """MD5 as 32 hexadecimal digits; empty if the file was not read."""
    head: bytes
    """The first bytes, which identify the format; empty if the file was not read."""


@dataclass(frozen=True)
class Location:
    """A parsed URL of the emulator's own store."""

    host: str
    """Host and port in the URL."""
    target: str
    """Path and query, as in the request line."""
    key: str
    """Object key, percent-decoded."""
    region: str | None
    """Region of the key pair that signed the URL; ``None`` if the pair is valid in all regions."""

    @classmethod
    def parse(cls, url: str, emulation: Emulation) -> "Location | None":
        """Parse a URL; return ``None`` if it is not signed with a key of the emulator's store."""
        if not url.isascii() or not url.isprintable() or " " in url:
            return None
        try:
            parts = urlsplit(url)
            pair = emulation.store_keys[Grant.parse(parts.query).secret_id]
        except (ValueError, KeyError):
            return None
        if parts.scheme != "http" or not parts.netloc:
            return None
        return cls(
            host=parts.netloc,
            target=f"{parts.path}?{parts.query}",
            key=unquote(parts.path[1:]),
            region=pair.region,
        )


async def fetch(
    emulation: Emulation, url: str, *, region: str | None, seconds: float, most: int | None
) -> Fetched:
    """Download a file within ``seconds``, and return what is known about it.

    A file of more than ``most`` bytes is not read, and only its size is returned. With ``region``,
    the file must be in that region. Raises ``Refusal`` if the download fails or takes too long.
    """
    location = Location.parse(url, emulation)
    if location is None:
        raise Refusal("FailedOperation.DownLoadError")
    if region and location.region and location.region != region:
        # That both must be in the same region is documented; the code is assumed.
        raise Refusal("FailedOperation.DownLoadError")
    try:
        async with asyncio.timeout(seconds):
            return await _get(emulation.address, location, most)
    except TimeoutError:
        raise Refusal("FailedOperation.DownLoadTimeoutError") from None
    except (OSError, EOFError, ValueError):
        raise Refusal("FailedOperation.DownLoadError") from None


async def _get(address: tuple[str, int], location: Location, most: int | None) -> Fetched:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(
            f"GET {location.target} HTTP/1.1\r\nHost: {location.host}\r\n"
            "User-Agent: faceid-emulator\r\nConnection: close\r\n\r\n".encode()
        )
        status, size = await _read_head(reader)
        if status != 200:
            raise ValueError("the store refuses it")
        if most is not None and size > most:
            return Fetched(size, md5="", head=b"")
        return await _read_body(reader, size)
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, int]:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status_line.split()[1]), int(headers.get("content-length", ""))


async def _read_body(reader: asyncio.StreamReader, size: int) -> Fetched:
    md5, head, left = hashlib.md5(usedforsecurity=False), b"", size
    while left:
        piece = await reader.read(min(_PIECE, left))
        if not piece:
            raise EOFError
        head += piece[: _HEAD - len(head)]
        md5.update(piece)
        left -= len(piece)
    return Fetched(size, md5.hexdigest(), head)
