"""``python -m deployments.server ...``: ``prefect server ...``, whose SQLite writers take turns.

SQLite lets one connection write at a time. Prefect's server, left alone, does not get on with that
under load (``docs/prefect-internals.md`` has the details and the measurements):

- **It refuses.** A transaction begins as DEFERRED and takes the write lock at its first write. By
  then somebody else may have written, and SQLite refuses it at once: a trigger is answered with
  503, an event is lost. Here each transaction begins as IMMEDIATE: it waits for the lock.
- **It stands still.** A server that has just migrated its database keeps one connection in which
  each write opens a transaction by itself. The event persister, which counts on autocommit, then
  holds the write lock through a whole flush, and everybody else waits. Here each connection is
  set to autocommit when it is taken from the pool.
- **It forgets.** It writes events by statements that spell out a hundred values each, and each of
  its services parses each event anew: more than half of its work. On a slow machine more events
  come than it writes, until a queue is full and the rest is dropped. Here rows are handed over
  beside one short statement, in a transaction that is over at once, and an event is parsed once.

PostgreSQL is not touched. A Prefect that is not as we know it is started as it is, with a warning.
"""

import inspect
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from prefect.cli import app
from prefect.server.database import configurations, provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage import database as event_storage
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.pool import Pool

from deployments.settings_files import APPLICATION_NAME

EVENTS_AT_ONCE = 500
"""Events that are written in one transaction, and that are kept as they were parsed."""


def adapt_to_sqlite() -> bool:
    """Changes Prefect in this process as said above.

    Returns:
        Whether it could. ``False`` where Prefect has changed; then nothing is changed here.
    """
    begin: Any = vars(AioSqliteConfiguration).get("begin_transaction")
    write: Any = vars(event_storage).get("_write_sqlite_events")
    mode: Any = getattr(configurations, "SQLITE_BEGIN_MODE", None)
    if (
        _parameters(begin) != ["self", "session", "with_for_update"]
        or _parameters(write) != ["db", "session", "events"]
        or not isinstance(mode, ContextVar)
    ):
        return False
    begin_mode = cast("ContextVar[str | None]", mode)

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction]:
        del self, with_for_update  # as if it were always set
        async with session.begin() as transaction:
            token = begin_mode.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                # Reset at once: a session that is opened inside this one, only to read, would
                # inherit the mode and wait for the lock that is held here.
                begin_mode.reset(token)
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction
    event.listen(Pool, "checkout", set_to_autocommit)
    event_storage._write_sqlite_events = write_events  # pyright: ignore[reportPrivateUsage]
    # Its services hand the same bytes over, one after the other, and only read what comes of them.
    parse = lru_cache(EVENTS_AT_ONCE)(ReceivedEvent.model_validate_json)
    type.__setattr__(ReceivedEvent, "model_validate_json", parse)
    return True


def set_to_autocommit(connection: Any, *_: object) -> None:
    """Undoes what SQLAlchemy's reset after Prefect's migrations leaves behind in a connection."""
    if isinstance(connection, AsyncAdapt_aiosqlite_connection) and connection.isolation_level == "":
        connection.isolation_level = None


async def write_events(session: AsyncSession, events: list[ReceivedEvent]) -> None:
    """In place of Prefect's: the same rows, and none for an event that is there already."""
    database: Any = provide_database_interface()
    for start in range(0, len(events), EVENTS_AT_ONCE):
        some = events[start : start + EVENTS_AT_ONCE]
        known = await session.scalars(
            sa.select(database.Event.id).where(database.Event.id.in_({event.id for event in some}))
        )
        there = set(known.all())
        new = [event for event in some if event.id not in there]
        rows = [event.as_database_row() for event in new]
        resources = [row for event in new for row in event.as_database_resource_rows()]
        await session.execute(sa.text("BEGIN IMMEDIATE"))
        for table, values in ((database.Event, rows), (database.EventResource, resources)):
            if values:
                await session.execute(sa.insert(table.__table__), values)
        await session.commit()


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters) if function else []


def main() -> None:
    if adapt_to_sqlite():
        # Only a name: PostgreSQL shows it in its list of connections, and SQLite has no use for it.
        os.environ["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME"] = (
            APPLICATION_NAME
        )
    else:
        print(  # noqa: T201 - before Prefect's own output, and as plain as that
            "warning: this Prefect is not the one that faceid-flows knows; on SQLite its server "
            "may answer 503 under load",
            file=sys.stderr,
        )
    sys.argv[1:1] = ["server"]
    app()


if __name__ == "__main__":
    main()
