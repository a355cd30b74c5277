"""The local stack's Prefect server on SQLite: writes are serialized.

These tests depend on Prefect's internals. If one fails after an upgrade, see
``docs/prefect-internals.md`` first.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage import database as event_storage
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import Pool

from deployments import server
from deployments.server import adapt_to_sqlite, set_to_autocommit

READ, WRITE = sa.text("SELECT count(*) FROM seen"), sa.text("INSERT INTO seen VALUES (1)")


@pytest.fixture
def in_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Patch Prefect in this process as our server patches it in its own, until the test ends."""
    for owner, name in (
        (AioSqliteConfiguration, "begin_transaction"),
        (event_storage, "_write_sqlite_events"),
        (ReceivedEvent, "model_validate_json"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is restored
    assert adapt_to_sqlite(), "Prefect has changed: see deployments/server.py"
    yield
    event.remove(Pool, "checkout", set_to_autocommit)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AioSqliteConfiguration]:
    """A database with one table, opened as Prefect's server opens it."""
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE seen (number INTEGER)")
    connection.close()
    configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    yield configuration
    await (await configuration.engine()).dispose()


async def session_of(database: AioSqliteConfiguration) -> AsyncSession:
    session = await database.session(await database.engine())
    # A write that waits when it should not fails after half a second instead of a minute.
    await session.execute(sa.text("PRAGMA busy_timeout = 500"))
    await session.commit()
    return session


async def write(database: AioSqliteConfiguration) -> None:
    async with await session_of(database) as session, database.begin_transaction(session):
        await session.execute(WRITE)


async def read_then_write(database: AioSqliteConfiguration) -> None:
    """Read and then write in a transaction, like a trigger; meanwhile another session writes."""
    async with await session_of(database) as session, database.begin_transaction(session):
        await session.execute(READ)
        other = asyncio.create_task(write(database))
        await asyncio.wait([other], timeout=0.1)
        await session.execute(WRITE)
    await other


async def test_left_alone_prefect_refuses_who_has_read_before_he_writes(
    database: AioSqliteConfiguration,
):
    """If this fails, Prefect has fixed the problem, and ``deployments/server.py`` can go."""
    with pytest.raises(OperationalError, match="database is locked"):
        await read_then_write(database)


async def test_a_writer_waits_for_its_turn(database: AioSqliteConfiguration, in_turns: None):
    await read_then_write(database)
    async with await session_of(database) as session:
        assert (await session.execute(READ)).scalar() == 2


async def test_a_read_inside_a_transaction_waits_for_nobody(
    database: AioSqliteConfiguration, in_turns: None
):
    """Prefect's server reads a work pool in a second session while it writes the pool's queue."""
    async with await session_of(database) as session, database.begin_transaction(session):
        await session.execute(WRITE)
        async with await session_of(database) as inner:
            assert (await inner.execute(READ)).scalar() == 0


async def test_a_transaction_that_fails_leaves_the_turn_to_others(
    database: AioSqliteConfiguration, in_turns: None
):
    async def fail() -> None:
        async with await session_of(database) as session, database.begin_transaction(session):
            await session.execute(WRITE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await write(database)
    async with await session_of(database) as session:
        assert (await session.execute(READ)).scalar() == 1


async def isolation_levels(path: Path) -> set[Any]:
    """Return the isolation levels of a server's connections to a database that it just created."""
    url = f"sqlite+aiosqlite:///{path}"
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
        database = provide_database_interface()
        await database.create_db()
        engine = await database.engine()
        levels: set[Any] = set()
        async with engine.connect() as one, engine.connect() as other:
            for connection in (one, other):
                raw = await connection.get_raw_connection()
                levels.add(cast("Any", raw.driver_connection).isolation_level)
        await engine.dispose()
    return levels


async def test_left_alone_a_new_database_has_a_connection_that_holds_the_lock(tmp_path: Path):
    """With an empty isolation level, a write opens a transaction. ``None`` is autocommit."""
    assert "" in await isolation_levels(tmp_path / "new.db")


async def test_every_connection_of_a_new_database_is_autocommit(tmp_path: Path, in_turns: None):
    assert await isolation_levels(tmp_path / "new.db") == {None}


def some_events(count: int) -> list[ReceivedEvent]:
    return [
        ReceivedEvent.model_validate(
            {
                "id": UUID(int=number),
                "occurred": "2026-11-26T12:00:00Z",
                "received": "2026-11-26T12:00:01Z",
                "event": "prefect.task-run.Completed",
                "resource": {"prefect.resource.id": f"prefect.task-run.{number}", "name": "é"},
                "related": [
                    {"prefect.resource.id": f"prefect.flow-run.{n}", "prefect.resource.role": "r"}
                    for n in range(number % 3)
                ],
                "payload": {"number": number},
                "follows": UUID(int=number + 1),
            }
        )
        for number in range(count)
    ]


async def test_events_are_written_as_prefect_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events = some_events(7)
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    monkeypatch.setattr(server, "EVENTS_AT_ONCE", 3)
    written: list[Any] = []
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
        database: Any = provide_database_interface()
        await database.create_db()
        tables = (database.Event.__table__, database.EventResource.__table__)
        theirs = cast("Any", event_storage)._write_sqlite_events
        for write_events in (theirs, server.write_events):
            async with database.session_context() as session:
                # The second time there is nothing to write; Prefect's function would fail.
                for _ in range(1 if write_events is theirs else 2):
                    await write_events(session, events)
                    await session.commit()
                    rows = [
                        [without(row, "id", "created", "updated", "recorded") for row in found]
                        for found in [
                            (await session.execute(sa.select(table))).mappings().all()
                            for table in tables
                        ]
                    ]
                    written.append(sorted(map(str, [*rows[0], *rows[1]])))
                for table in tables:
                    await session.execute(sa.delete(table))
                await session.commit()
        await (await database.engine()).dispose()
    assert len(written[0]) == 7 + 7 + 6
    assert written[0] == written[1] == written[2]


def without(row: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_an_event_is_parsed_once(in_turns: None):
    data = some_events(1)[0].model_dump_json().encode()
    parsed = ReceivedEvent.model_validate_json(data)
    assert parsed == some_events(1)[0]
    assert ReceivedEvent.model_validate_json(bytes(bytearray(data))) is parsed


@pytest.mark.parametrize("change", ["gone", "other parameters", "other mode"])
def test_a_prefect_that_is_not_known_is_started_as_it_is(
    change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def begin_transaction(self: object, session: object) -> None: ...

    match change:
        case "gone":
            monkeypatch.delattr(AioSqliteConfiguration, "begin_transaction")
        case "other parameters":
            monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", begin_transaction)
        case _:
            monkeypatch.setattr(server.configurations, "SQLITE_BEGIN_MODE", "DEFERRED")
    before = vars(AioSqliteConfiguration).get("begin_transaction")
    monkeypatch.setattr(server, "app", lambda: None)
    monkeypatch.setattr(sys, "argv", ["deployments.server", "start"])

    server.main()

    assert sys.argv == ["deployments.server", "server", "start"]
    assert vars(AioSqliteConfiguration).get("begin_transaction") is before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: faceid-flows does not support this version of Prefect")
