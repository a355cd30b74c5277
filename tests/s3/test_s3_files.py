"""``s3://`` locations: files, manifests and records, and errors when the store refuses."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from s3fs import S3FileSystem

from faceid.actions import ResourceField
from faceid.emulator import Emulator
from faceid.errors import InvalidInput, StorageError
from faceid.files.resources import measure
from faceid.files.roots import Roots
from faceid.manifests.finding import find_manifests
from tasks.settings import DeliverySettings
from tasks.state.answers import keep_answer
from tasks.state.documents import Conflict, open_documents
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.spill import Spill, take_up
from tasks.state.storage import Storage, open_storage
from tests.deployments.command_line import deliver_tokens
from tests.s3.s3_store import Store, change_key
from tests.tasks.record_saves import PASSED, STALE, refuse_a_stale_save
from tests.tasks.spilled_answers import answered, files

NAME = "records/emulator/default/ab/document.json"
PHOTO = ResourceField(name="ImageUrl", formats=("JPG",))
ROOTS = Roots.of([])


@pytest.fixture
def storage(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("FACEID_STORAGE", f"s3://{bucket}/storage")
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    return open_storage(DeliverySettings.load())


def test_a_file_is_measured_as_a_local_one(bucket: str, samples: Path):
    local = measure(PHOTO, str(samples / "alder.jpg"))
    S3FileSystem().put_file(str(samples / "alder.jpg"), f"{bucket}/in/alder.jpg")
    found = measure(PHOTO, f"s3://{bucket}/in/alder.jpg")
    assert (found.size, found.md5) == (local.size, local.md5)


@pytest.mark.parametrize("location", ["s3://{bucket}/in/none.jpg", "s3://no-such-bucket/x.jpg"])
def test_a_missing_file_is_missing(bucket: str, location: str):
    with pytest.raises(InvalidInput, match="ImageUrl: there is no such file"):
        measure(PHOTO, location.format(bucket=bucket))
    with pytest.raises(InvalidInput, match="manifest: there is no such file"):
        find_manifests(location.format(bucket=bucket), ROOTS)


def test_manifests_are_found_by_a_glob_also_those_that_came_since(bucket: str):
    files = S3FileSystem()
    pattern = f"s3://{bucket}/day/*.jsonl"
    assert find_manifests(pattern, ROOTS) == []
    for name in ("b.jsonl", "a.jsonl", "c.csv", ".hidden.jsonl"):
        files.pipe_file(f"{bucket}/day/{name}", b"{}")
        files.invalidate_cache()
    found = [f"s3://{bucket}/day/a.jsonl", f"s3://{bucket}/day/b.jsonl"]
    assert find_manifests(pattern, ROOTS) == found
    with pytest.raises(InvalidInput, match="outside FACEID_RESOURCE_ROOTS"):
        find_manifests(pattern, Roots.of([f"s3://{bucket}/night"]))


def test_a_wrong_key_is_told_as_such_and_nothing_secret(
    bucket: str, aws: Store, monkeypatch: pytest.MonkeyPatch
):
    change_key(monkeypatch)
    told: list[str] = []
    for location in ("in/alder.jpg", "in/none.jpg"):
        with pytest.raises(InvalidInput, match=r"cannot be read \(permission denied\)") as refused:
            measure(PHOTO, f"s3://{bucket}/{location}")
        told.append(str(refused.value))
    for location in ("m.jsonl", "*.jsonl"):
        with pytest.raises(InvalidInput, match=r"(read|listed) \(permission denied\)") as refused:
            find_manifests(f"s3://{bucket}/{location}", ROOTS)
        told.append(str(refused.value))
    for secret in (aws.secret_id, aws.secret_key, "EXAMPLE-wrong-secret", bucket):
        assert secret not in str(told)


def test_a_store_that_cannot_be_reached_is_told(aws: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    with pytest.raises(InvalidInput, match=r"cannot be read \(EndpointConnectionError\)"):
        measure(PHOTO, "s3://bucket/x.jpg")


def test_a_record_is_kept_and_removed_and_listed_as_it_is_now(storage: Storage):
    assert storage.folder is None
    assert storage.read(NAME) is None
    assert list(storage.names("records")) == []
    version = storage.replace(NAME, {"person": "EXAMPLE NOBODY"}, None)
    assert storage.load(NAME) == ({"person": "EXAMPLE NOBODY"}, version)
    assert list(storage.names("records")) == [NAME]
    assert storage.folders("records/emulator") == ["default"]
    other = NAME.replace("default", "other")
    storage.write(other, {})
    assert storage.folders("records/emulator") == ["default", "other"]
    assert list(storage.names("records")) == [NAME, other]
    assert [storage.remove(NAME), storage.remove(NAME)] == [True, False]
    assert list(storage.names("records")) == [other]
    assert storage.read(NAME) is None


def test_a_refusal_is_never_taken_for_nothing(
    storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    storage.write(NAME, {"a": 1})
    change_key(monkeypatch)
    wrong = Storage(f"s3://{bucket}/storage", storage._keys)  # pyright: ignore[reportPrivateUsage]  # the same keys
    for missing in (NAME, NAME.replace("ab", "cd")):
        for ask in (wrong.read, wrong.remove):
            with pytest.raises(StorageError, match=r"cannot (read|remove) .* \(PermissionError\)"):
                ask(missing)
    with pytest.raises(StorageError, match="cannot write"):
        wrong.write(NAME, {"a": 2})
    with pytest.raises(StorageError, match="cannot list records"):
        wrong.folders("records")
    with pytest.raises(StorageError, match="cannot list records"):
        list(wrong.names("records"))
    assert storage.read(NAME) == {"a": 1}


def test_a_bucket_that_is_not_there_is_no_empty_one(storage: Storage):
    gone = Storage("s3://no-such-bucket/storage", storage._keys)  # pyright: ignore[reportPrivateUsage]  # the same keys
    with pytest.raises(StorageError, match=r"cannot read .* \(no such bucket\)"):
        gone.read(NAME)
    with pytest.raises(StorageError, match="cannot write"):
        gone.write(NAME, {})


WITHOUT = """
import sys
sys.modules["s3fs"] = None
from faceid.command import run
import deployments.cli
run(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("storage_at", "what"),
    [("", "resource ImageUrl: the file cannot be read ("), ("s3://b/x", "FACEID_STORAGE: cannot")],
)
def test_without_the_extra_it_is_named(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, storage_at: str, what: str
):
    monkeypatch.setenv("FACEID_DATA_KEY", Fernet.generate_key().decode())
    if storage_at:
        monkeypatch.setenv("FACEID_STORAGE", storage_at)
    tokens = deliver_tokens(resource=["ImageUrl=s3://bucket/x.jpg", "VideoUrl=alder.mp4"])
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, *tokens], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert what in ended.stderr
    assert "s3:// needs faceid-flows[s3], see make s3)" in ended.stderr
    assert emulator.requests() == []


@pytest.mark.parametrize("make", STALE, ids=lambda make: make.__name__)
async def test_a_stale_save_of_a_record_is_refused(
    storage: Storage, make: Callable[[RecordStore], Awaitable[Record]]
):
    await refuse_a_stale_save(RecordStore(storage, "emulator", "default"), make)


async def test_an_answer_that_the_store_refuses_is_spilled_and_taken_up(
    storage: Storage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spill = Spill(tmp_path / "spill", storage)
    store = RecordStore(storage, "emulator", "default")
    record = await answered(store)
    change_key(monkeypatch)
    wrong = Storage(f"s3://{bucket}/storage/", storage._keys)  # pyright: ignore[reportPrivateUsage]  # the same keys
    away, its_spill = RecordStore(wrong, "emulator", "default"), Spill(spill.folder, wrong)
    with pytest.raises(StorageError, match="AnswerSpilled"):
        await keep_answer(away, its_spill, record, 0)
    with pytest.raises(StorageError, match="PermissionError"):
        await take_up(its_spill, away, "r-1")
    assert len(files(spill.folder)) == 1

    stored = await take_up(spill, store, "r-1")
    assert stored
    assert (stored.verdict, stored.calls) == (PASSED, 1)
    assert files(spill.folder) == []


def test_a_write_whose_reply_was_lost_is_known_as_done(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    put: Any = S3FileSystem.__dict__["_pipe_file"]
    tries: list[Any] = []

    async def lose_the_reply(*args: Any, **more: Any) -> Any:
        tries.append(await put(*args, **more))
        return await put(*args, **more)  # as botocore does if no reply came

    monkeypatch.setattr(S3FileSystem, "_pipe_file", lose_the_reply)
    S3FileSystem.clear_instance_cache()
    documents = open_documents(f"s3://{bucket}/storage")
    version = documents.replace(NAME, b"1", None, durable=True)
    version = documents.replace(NAME, b"2", version, durable=True)
    assert documents.read(NAME) == (b"2", version)
    assert len(tries) == 2
    with pytest.raises(Conflict):
        documents.replace(NAME, b"3", '"0"', durable=True)


def test_a_store_shows_that_it_honours_conditions(bucket: str):
    documents = open_documents(f"s3://{bucket}/storage")
    assert documents.shows_conditional_writes()
    assert documents.names("") == []


@pytest.mark.parametrize("way", ["ignores", "refuses"])
def test_a_store_shows_that_it_does_not(careless: Callable[[str], str], way: str):
    documents = open_documents(f"s3://{careless(way)}/storage")
    assert not documents.shows_conditional_writes()
    assert documents.names("") == []


def test_another_file_system_shows_that_it_does_not(tmp_path: Path):
    documents = open_documents(f"memory://{tmp_path.name}")
    assert not documents.shows_conditional_writes()
    assert documents.names("") == []
    documents.write(NAME, b"1", durable=True)
    assert documents.remove(NAME, documents.read(NAME).version)
    assert documents.names("") == []
