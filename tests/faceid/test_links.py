"""``http(s)://`` locations, such as presigned links to an object store, valid for GET only."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import SecretStr

from faceid.actions import ResourceField
from faceid.client import FaceIdClient
from faceid.emulator import Emulator
from faceid.errors import InvalidInput
from faceid.files.resources import measure, open_location
from faceid.files.roots import Roots
from faceid.manifests.finding import find_manifests
from faceid.manifests.reading import Entry, read_manifest
from faceid.models import Credentials
from faceid.samples import copy_samples
from tests.faceid.manifests import HEADER, ROW, validator

PHOTO = ResourceField(name="ImageUrl", formats=("JPG",))
SECRET = "?q-signature=topsecret"


class _Store(BaseHTTPRequestHandler):
    """Serves ``/public`` to all, other files only with the link, and redirects from ``/moved``."""

    protocol_version = "HTTP/1.1"
    files = {
        "/public/m.csv": f"{HEADER}{ROW}".encode(),
        "/in/m.csv": f"{HEADER}{ROW}".encode(),
        "/in/café 1.txt": b"coffee",
        "/in/cut.txt": b"some text",
    }

    def do_HEAD(self) -> None:
        self._answer(403)  # the link was signed for GET

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        content = self.files.get(path)
        if path == "/in/mine.txt":
            self._answer(200, base64.b64decode(self.headers["Authorization"].split()[1]))
        elif path.startswith("/public/"):
            self._answer(200, content or b"")
        elif path == "/moved":
            self._answer(302, location="/in/photo.jpg" + SECRET)
        elif "?" + parts.query != SECRET:
            self._answer(403)
        elif content is None:
            self._answer(404)
        else:
            self._answer(200, content)

    def _answer(self, status: int, content: bytes = b"", location: str = "") -> None:
        self.send_response(status)
        is_cut = self.path.startswith("/in/cut")
        self.send_header("Content-Length", str(len(content) + 9 * is_cut))
        self.close_connection |= is_cut
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    photo = copy_samples(tmp_path_factory.mktemp("samples"))["alder.jpg"]
    _Store.files["/in/photo.jpg"] = photo.read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_link_that_is_good_for_get_alone_is_read(url: str, tmp_path: Path):
    local = measure(PHOTO, str(copy_samples(tmp_path)["alder.jpg"]))
    found = measure(PHOTO, f"{url}/in/photo.jpg{SECRET}")
    assert (found.size, found.md5) == (local.size, local.md5)
    with open_location(f"{url}/in/m.csv{SECRET}") as file:
        assert file.readline() == HEADER.encode()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"/in/none.jpg{SECRET}", "there is no such file"),
        ("/in/photo.jpg?q-signature=topsecret-wrong", r"the file cannot be read \(HTTP 403\)"),
        # the target of a redirect may be outside the roots
        ("/moved", r"the file cannot be read \(HTTP 302\)"),
    ],
)
def test_what_a_link_does_not_give_is_told_without_it(url: str, path: str, reason: str):
    with pytest.raises(InvalidInput, match=f"resource ImageUrl: {reason}") as refused:
        measure(PHOTO, url + path)
    assert "topsecret" not in str(refused.value)
    assert url not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jpg", "https://127.0.0.1:9/x.jpg"])
def test_a_link_to_nobody_is_told(url: str):
    with pytest.raises(InvalidInput, match=r"cannot be read \(ConnectionRefusedError\)"):
        measure(PHOTO, url)


def test_a_link_that_makes_no_sense_is_told():
    with pytest.raises(InvalidInput, match=r"cannot be read \(InvalidURL\)"):
        measure(PHOTO, "http://127.0.0.1:port/x.jpg")


def test_a_link_may_be_written_as_people_write_them(url: str):
    for path in ("/%69n/caf%C3%A9 1.txt", "/in/café 1.txt"):
        with open_location(f"{url}{path}{SECRET}#part") as file:
            assert file.read() == b"coffee"
    host = url.removeprefix("http://")
    with open_location(f"HTTP://me:p%40ss@{host}/in/mine.txt") as file:
        assert file.read() == b"me:p@ss"


def test_an_answer_that_is_cut_off_is_no_file(url: str):
    with pytest.raises(InvalidInput, match=r"cannot be read \(cut off\)"):
        measure(ResourceField(name="ImageUrl"), f"{url}/in/cut.txt{SECRET}")


async def test_a_manifest_may_be_a_link_and_name_links(url: str, faceid_emulator: Emulator):
    assert find_manifests(f"{url}/public/m.csv", Roots.of([])) == [f"{url}/public/m.csv"]
    (entry,) = read_manifest(f"{url}/public/m.csv", validator())
    assert isinstance(entry, Entry)
    assert entry.request.resources["ImageUrl"] == f"{url}/public/a.jpg"
    photo = measure(PHOTO, f"{url}/in/photo.jpg{SECRET}")
    key = SecretStr(faceid_emulator.secret_key)
    keys = Credentials(secret_id=faceid_emulator.secret_id, secret_key=key)
    async with FaceIdClient(faceid_emulator.url, keys) as client:
        ticket = await client.create_upload_url("VideoLivenessCompare", "ap-singapore", "ImageUrl")
        await client.put_resource(ticket, photo)
        assert await client.resource_exists(ticket)


def test_a_link_may_not_be_a_manifest(url: str):
    """The link would be stored in Prefect's database. The manifest itself may contain links."""
    with pytest.raises(InvalidInput, match="a link with a query or a password is not accepted"):
        find_manifests(f"{url}/in/m.csv{SECRET}", Roots.of([]))
