"""A lock has one holder at a time: in one process, across processes, and after a kill."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import Popen

import pytest

from faceid.errors import InvalidInput, StorageError
from tasks.state.locks import acquire_lock
from tests.tasks.script_processes import close_input, next_line


async def wait_for_it() -> None:
    """Allow waiting for a lock that is not free, by raising no error."""


HOLDS = """
import asyncio, sys
from pathlib import Path
from tasks.state.locks import acquire_lock

async def waiting():
    print("waiting", flush=True)

async def main():
    async with acquire_lock("", Path(sys.argv[1]), "r-1", waiting):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print("freed", flush=True)

asyncio.run(main())
"""

MEETS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from tasks.state import locks

locks.POLL_SECONDS = 0
alone = Path(sys.argv[2])

async def waiting():
    pass

async def main():
    for _ in range(500):
        async with locks.acquire_lock("", Path(sys.argv[1]), "r-1", waiting):
            handle = os.open(alone, os.O_CREAT | os.O_EXCL)
            await asyncio.sleep(0)
            alone.unlink()
            os.close(handle)

print("ready", flush=True)
sys.stdin.read()
asyncio.run(main())
print("alone", flush=True)
"""


async def test_one_at_a_time_in_one_process(tmp_path: Path):
    inside: list[int] = []

    async def work(number: int) -> int:
        async with acquire_lock("", tmp_path, "r-1", wait_for_it):
            inside.append(number)
            await asyncio.sleep(0)
            assert inside == [number]
            inside.remove(number)
        return number

    assert await asyncio.gather(*map(work, range(5))) == list(range(5))


async def test_a_holder_whose_file_was_removed_leaves_the_next_ones_alone(tmp_path: Path):
    async with AsyncExitStack() as first:
        lease = await first.enter_async_context(acquire_lock("", tmp_path, "r-1", wait_for_it))
        (lock,) = tmp_path.iterdir()
        lock.unlink()
        async with acquire_lock("", tmp_path, "r-1", wait_for_it) as held:
            with pytest.raises(StorageError, match="expired"):
                await lease.confirm()
            await first.aclose()
            await held.confirm()


def test_one_at_a_time_across_processes(tmp_path: Path, script: Callable[..., "Popen[str]"]):
    first = script(HOLDS, tmp_path)
    assert next_line(first) == "held"
    second = script(HOLDS, tmp_path)
    assert next_line(second) == "waiting"
    close_input(second)  # if it held the lock, it would release it at once
    close_input(first)
    assert next_line(first) == "freed"
    assert [next_line(second), next_line(second)] == ["held", "freed"]


def test_processes_in_a_hurry_never_meet(tmp_path: Path, script: Callable[..., "Popen[str]"]):
    locks, alone = tmp_path / "locks", tmp_path / "alone"
    processes = [script(MEETS_NOBODY, locks, alone) for _ in range(3)]
    assert [next_line(process) for process in processes] == ["ready"] * 3
    for process in processes:
        close_input(process)
    assert [next_line(process) for process in processes] == ["alone"] * 3
    assert list(locks.iterdir()) == []


async def test_a_killed_holder_frees_it(tmp_path: Path, script: Callable[..., "Popen[str]"]):
    holder = script(HOLDS, tmp_path)
    assert await asyncio.to_thread(next_line, holder) == "held"
    asked = 0

    async def kill_it() -> None:
        nonlocal asked
        asked += 1
        holder.send_signal(signal.SIGKILL)

    async with asyncio.timeout(10), acquire_lock("", tmp_path, "r-1", kill_it):
        assert asked == 1
        assert holder.wait() == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


async def test_the_order_in_which_locks_are_freed_does_not_matter(tmp_path: Path):
    for order in ((0, 1), (1, 0)):
        locks = [acquire_lock("", tmp_path, name, wait_for_it) for name in ("r-1", "r-2")]
        for lock in locks:
            await lock.__aenter__()
        for index in order:
            await locks[index].__aexit__(None, None, None)
        assert list(tmp_path.iterdir()) == []


async def test_other_requests_do_not_wait(tmp_path: Path):
    async def refuse() -> None:
        raise AssertionError

    async with acquire_lock("", tmp_path, "r-1", refuse), acquire_lock("", tmp_path, "R-1", refuse):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


async def test_who_finds_it_held_may_refuse_to_wait(tmp_path: Path):
    async def refuse() -> None:
        raise InvalidInput("Refused", "not while another is at work")

    async with acquire_lock("", tmp_path, "r-1", wait_for_it):
        with pytest.raises(InvalidInput, match="another is at work"):
            async with acquire_lock("", tmp_path, "r-1", refuse):
                pass
        # The lock is still held.
        with pytest.raises(InvalidInput, match="another is at work"):
            async with acquire_lock("", tmp_path, "r-1", refuse):
                pass
    async with acquire_lock("", tmp_path, "r-1", refuse):
        pass


async def test_it_is_freed_when_its_holder_fails(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        async with acquire_lock("", tmp_path, "r-1", wait_for_it):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


async def test_lock_files_are_private(tmp_path: Path):
    folder = tmp_path / "storage" / "locks"
    async with acquire_lock("", folder, "r-1", wait_for_it):
        (file,) = folder.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert "r-1" not in file.name
        for made in (folder, folder.parent):
            assert made.stat().st_mode & 0o777 == 0o700


async def test_where_no_lock_can_be_is_a_storage_error(tmp_path: Path):
    (tmp_path / "locks").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot lock"):
        async with acquire_lock("", tmp_path / "locks", "r-1", wait_for_it):
            pass


@pytest.mark.parametrize("locks", ["nonsense", "http://127.0.0.1:1", "redis://127.0.0.1:high"])
async def test_a_bad_setting_is_named(tmp_path: Path, locks: str):
    with pytest.raises(InvalidInput, match="FACEID_LOCKS: "):
        async with acquire_lock(locks, tmp_path, "r-1", wait_for_it):
            pass


async def test_a_redis_server_that_is_not_there_is_a_storage_error(tmp_path: Path):
    with pytest.raises(StorageError, match="FACEID_LOCKS cannot be reached") as raised:
        async with acquire_lock("redis://127.0.0.1:1/9", tmp_path, "r-1", wait_for_it):
            pass
    assert raised.value.code == "LocksUnavailable"
