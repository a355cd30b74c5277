"""Encrypted documents: what is on disk, and the errors if it cannot be trusted."""

import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet

from faceid.errors import InvalidInput, StorageError
from faceid.settings import LIVE_ENDPOINT
from tasks.settings import DeliverySettings
from tasks.state.storage import KEY_FILE, Storage, open_storage
from tests.tasks.script_processes import close_input, next_line

NAME = "records/emulator/default/ab/document.json"
CONTENT: dict[str, Any] = {"person": "EXAMPLE NOBODY", "url": "https://store.example/?sign=SECRET"}
KEY = "EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE0="


def new_key() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage folder, which does not exist yet, with settings for an emulator."""
    monkeypatch.setenv("FACEID_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("FACEID_STORAGE", str(tmp_path / "above" / "storage"))
    return tmp_path / "above" / "storage"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Storage]:
    """A function that opens the storage with the given keys, newest first."""

    def opened(*keys: str) -> Storage:
        monkeypatch.setenv("FACEID_DATA_KEY", ",".join(keys))
        return open_storage(DeliverySettings.load())

    return opened


def test_what_is_written_is_read_again(storage: Callable[..., Storage]):
    opened = storage()
    assert opened.read(NAME) is None
    opened.write(NAME, CONTENT)
    assert opened.read(NAME) == CONTENT
    opened.write(NAME, {"other": [1, None]})
    assert opened.read(NAME) == {"other": [1, None]}
    assert storage().read(NAME) == {"other": [1, None]}


def test_documents_are_listed_by_name_and_drafts_are_not(
    storage: Callable[..., Storage], root: Path
):
    opened = storage()
    assert list(opened.names("records")) == []
    opened.write("records/b/2.json", CONTENT)
    opened.write("records/a/1.json", CONTENT)
    opened.write("cache/3.json", CONTENT)
    (root / "records/a/.draft").write_text("left by a process that was killed")
    assert list(opened.names("records")) == ["records/a/1.json", "records/b/2.json"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_document_is_removed_once_and_folders_are_listed(
    storage: Callable[..., Storage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: bool,
):
    if elsewhere:
        monkeypatch.setenv("FACEID_STORAGE", f"memory://{tmp_path.name}")
    opened = storage(new_key())
    assert opened.folders("records/emulator") == []
    other = NAME.replace("default", "other")
    for name in (NAME, other, "records/emulator/no-folder.json"):
        opened.write(name, CONTENT)
    assert opened.folders("records/emulator") == ["default", "other"]
    assert (opened.remove(NAME), opened.remove(NAME)) == (True, False)
    assert opened.read(NAME) is None
    assert opened.read(other) == CONTENT


def test_what_cannot_be_removed_or_listed_is_told(storage: Callable[..., Storage], root: Path):
    opened = storage()
    (root / NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match=f"cannot remove {NAME} "):
        opened.remove(NAME)
    (root / "records" / "a-file").write_text("")
    with pytest.raises(StorageError, match="cannot list records/a-file/below "):
        opened.folders("records/a-file/below")


def test_nothing_can_be_read_on_disk(storage: Callable[..., Storage], root: Path):
    storage().write(NAME, CONTENT)
    for path in filter(Path.is_file, root.rglob("*")):
        for secret in (b"NOBODY", b"https", b"SECRET", b"person"):
            assert secret not in path.read_bytes(), path


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_folders_are_0700_and_files_0600(
    storage: Callable[..., Storage], root: Path, keys: list[str]
):
    storage(*keys).write(NAME, CONTENT)
    made = [root.parent, root, *root.rglob("*")]
    assert root / NAME in made
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_keys_are_rotated_by_naming_the_new_one_first(storage: Callable[..., Storage]):
    old, new = new_key(), new_key()
    storage(old).write(NAME, CONTENT)
    both = storage(new, old)
    assert both.read(NAME) == CONTENT
    with pytest.raises(StorageError, match="encrypted with a key that is not configured"):
        storage(new).read(NAME)
    both.write(NAME, CONTENT)
    assert storage(new).read(NAME) == CONTENT
    with pytest.raises(StorageError):
        storage(old).read(NAME)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _poisoned(path: Path) -> None:
    envelope = orjson.loads(path.read_bytes())
    at = len(envelope["sealed"]) // 2
    flipped = "A" if envelope["sealed"][at] != "A" else "B"
    envelope["sealed"] = envelope["sealed"][:at] + flipped + envelope["sealed"][at + 1 :]
    path.write_bytes(orjson.dumps(envelope))


def _of_another_kind(path: Path) -> None:
    path.write_bytes(b'["json", "but no document"]')


def _unsealed(path: Path) -> None:
    path.write_bytes(orjson.dumps({"format": 1, "sealed": {"name": NAME, "content": {}}}))


def _of_the_next_format(path: Path) -> None:
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"format": 3}))


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _below_a_file(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file where the folder was")


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (_truncated, "DamagedDocument", f"{NAME} is not a document of faceid-flows"),
        (_emptied, "DamagedDocument", f"{NAME} is not a document of faceid-flows"),
        (_poisoned, "CannotDecrypt", f"{NAME} is damaged, or was encrypted with a key"),
        (_of_another_kind, "DamagedDocument", f"{NAME} is not a document of faceid-flows"),
        (_unsealed, "CannotDecrypt", f"{NAME} is damaged"),
        (_of_the_next_format, "UnknownFormat", f"{NAME} has format 3, and this version reads"),
        (_a_folder, "StorageUnavailable", f"cannot read {NAME} (Is a directory)"),
        (_below_a_file, "StorageUnavailable", f"cannot read {NAME} (Not a directory)"),
    ],
)
def test_what_cannot_be_trusted_is_an_error_and_not_nothing(
    storage: Callable[..., Storage],
    root: Path,
    damage: Callable[[Path], None],
    code: str,
    message: str,
):
    opened = storage()
    opened.write(NAME, CONTENT)
    damage(root / NAME)
    with pytest.raises(StorageError) as raised:
        opened.read(NAME)
    assert raised.value.code == code
    assert message in raised.value.message


def test_a_document_in_the_place_of_another_is_told(storage: Callable[..., Storage], root: Path):
    opened = storage()
    opened.write(NAME, CONTENT)
    (root / NAME).rename(root / "records/emulator/default/ab/other.json")
    with pytest.raises(StorageError, match="holds another document"):
        opened.read("records/emulator/default/ab/other.json")


@contextmanager
def files_limited_to(size: int) -> Generator[None]:
    """Make the kernel refuse to write a file beyond this size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_what_stood_there(storage: Callable[..., Storage], root: Path):
    opened = storage()
    opened.write(NAME, CONTENT)
    before = (root / NAME).read_bytes()
    with files_limited_to(64), pytest.raises(StorageError, match="cannot write"):
        opened.write(NAME, {"new": "content"})
    assert (root / NAME).read_bytes() == before
    assert list((root / NAME).parent.iterdir()) == [root / NAME]
    assert opened.read(NAME) == CONTENT


def test_a_write_where_no_folder_can_be_is_told(storage: Callable[..., Storage], root: Path):
    opened = storage()
    (root / "records").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write"):
        opened.write(NAME, CONTENT)
    assert (root / "records").read_text() == "a file where the folder should be"


def test_a_storage_elsewhere_needs_the_key_to_be_given(
    storage: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    url = f"memory://{tmp_path.name}"
    monkeypatch.setenv("FACEID_STORAGE", url)
    with pytest.raises(InvalidInput, match="FACEID_DATA_KEY is not set"):
        storage()
    key = new_key()
    opened = storage(key)
    assert opened.folder is None
    assert opened.read(NAME) is None
    assert list(opened.names("records")) == []
    opened.write(NAME, CONTENT)
    assert opened.read(NAME) == CONTENT
    assert list(opened.names("records")) == [NAME]
    with pytest.raises(StorageError, match="encrypted with a key"):
        storage(new_key()).read(NAME)


def test_live_without_a_key_is_refused_and_told_how_to_make_one(
    storage: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch, root: Path
):
    monkeypatch.setenv("FACEID_ENDPOINT", LIVE_ENDPOINT)
    with pytest.raises(InvalidInput, match="FACEID_DATA_KEY is not set") as raised:
        storage()
    assert raised.value.message.endswith("head -c 32 /dev/urandom | base64 | tr '+/' '-_'")
    assert not root.exists()
    assert storage(new_key()).read(NAME) is None


def test_the_emulators_key_is_made_once(storage: Callable[..., Storage], root: Path):
    storage()
    made = root / KEY_FILE
    assert made.stat().st_mode & 0o777 == 0o600
    before = made.read_bytes()
    assert before.decode() not in repr(storage())
    storage().write(NAME, CONTENT)
    assert made.read_bytes() == before
    assert [path.name for path in root.iterdir() if path.is_file()] == [KEY_FILE]


USES_STORAGE = """
import sys
from tasks.settings import DeliverySettings
from tasks.state.storage import open_storage
print("ready", flush=True)
sys.stdin.read()
open_storage(DeliverySettings.load()).write(sys.argv[1], {"from": sys.argv[1]})
print("written", flush=True)
"""


def test_processes_that_start_at_once_get_the_same_key(
    storage: Callable[..., Storage], root: Path, script: Callable[..., "Popen[str]"]
):
    names = ["records/1.json", "records/2.json", "records/3.json"]
    processes = [script(USES_STORAGE, name) for name in names]
    assert [next_line(process) for process in processes] == ["ready"] * 3
    for process in processes:
        close_input(process)
    assert [next_line(process) for process in processes] == ["written"] * 3
    opened = storage()
    assert [opened.read(name) for name in names] == [{"from": name} for name in names]
    assert {path.name for path in root.iterdir()} == {KEY_FILE, "records"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FACEID_DATA_KEY", "too short", "FACEID_DATA_KEY: must be Fernet keys, newest first"),
        ("FACEID_DATA_KEY", " , ", "FACEID_DATA_KEY: must be Fernet keys, newest first"),
        ("FACEID_DATA_KEY", f"{KEY};{KEY}", "FACEID_DATA_KEY: must be Fernet keys"),
        ("FACEID_STORAGE", "nowhere://at/all", "FACEID_STORAGE: cannot be opened"),
        ("FACEID_STORAGE", "/proc/none/storage", "FACEID_STORAGE: cannot write data.key"),
    ],
)
def test_a_bad_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as raised:
        open_storage(DeliverySettings.load())
    assert message in raised.value.message
    assert "\n" not in str(raised.value)
    if name == "FACEID_DATA_KEY":
        assert value not in str(raised.value)


def test_a_damaged_key_file_is_named(storage: Callable[..., Storage], root: Path):
    root.mkdir(parents=True)
    (root / KEY_FILE).write_text("no key")
    with pytest.raises(InvalidInput, match=r"data\.key in FACEID_STORAGE: must be Fernet keys"):
        storage()
