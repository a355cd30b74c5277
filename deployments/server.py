"""``python -m deployments.server ...``: ``prefect server ...`` with serialized SQLite writes.

SQLite allows one writer at a time. An unmodified Prefect server does not cope with that under load
(``docs/prefect-internals.md`` has the details and the measurements):

- **Requests are refused.** A transaction begins as DEFERRED and takes the write lock only at its
  first write. If another connection has written in between, SQLite refuses the write at once, and a
  trigger is answered with 503 or an event is lost. In this server, each transaction begins as
  IMMEDIATE and therefore waits for the lock.
- **The server stalls.** After a migration, the pool keeps one connection in which each write opens
  a transaction implicitly. The event persister relies on autocommit, so with this connection it
  holds the write lock during a whole flush, and every other writer waits. In this server, each
  connection is set to autocommit when it is checked out of the pool.
- **Events are dropped.** Events are inserted by statements that spell out a hundred rows each, and
  each of the server's services parses every event again. Together, this is a large part of the
  server's work. On a slow machine, events arrive faster than they are written, until a queue is
  full and further events are dropped. In this server, the rows are passed as parameters of one
  short statement, in a short transaction, and each event is parsed once.

With PostgreSQL, the only difference is that each event is parsed once. If the installed Prefect
does not have the internals that this module replaces, the server starts unmodified, with a warning.
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
"""Number of events that are written in one transaction, and of parsed events that are cached."""


def adapt_to_sqlite() -> bool:
    """Patch Prefect in this process as the module's docstring describes, and return ``True``.

    If Prefect's internals are not as expected, nothing is changed, and ``False`` is returned.
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
        del self, with_for_update  # every transaction begins as if `with_for_update` were set
        async with session.begin() as transaction:
            token = begin_mode.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                # The mode is reset at once. A read-only session that is opened within this one
                # would otherwise inherit the mode and wait for the lock that this session holds.
                begin_mode.reset(token)
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction
    event.listen(Pool, "checkout", set_to_autocommit)
    event_storage._write_sqlite_events = write_events  # pyright: ignore[reportPrivateUsage]  # see above
    # The result can be cached, because Prefect's services parse the same bytes one after the other
    # and do not modify the result.
    parse = lru_cache(EVENTS_AT_ONCE)(ReceivedEvent.model_validate_json)
    type.__setattr__(ReceivedEvent, "model_validate_json", parse)
    return True


def set_to_autocommit(connection: Any, *_: object) -> None:
    """Restore autocommit in a connection that SQLAlchemy reset after Prefect's migrations."""
    if isinstance(connection, AsyncAdapt_aiosqlite_connection) and connection.isolation_level == "":
        connection.isolation_level = None


async def write_events(session: AsyncSession, events: list[ReceivedEvent]) -> None:
    """Insert the same rows as Prefect's function of this name, without events that are stored."""
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
    """Run ``prefect server`` with the arguments of this process."""
    if adapt_to_sqlite():
        # This is only a name, by which `faceid doctor` recognizes this server. PostgreSQL shows it
        # in its list of connections, and SQLite ignores it.
        os.environ["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME"] = (
            APPLICATION_NAME
        )
    else:
        print(  # noqa: T201 - plain text, like the output of Prefect that follows
            "warning: faceid-flows does not support this version of Prefect; on SQLite its server "
            "may answer 503 under load",
            file=sys.stderr,
        )
    sys.argv[1:1] = ["server"]
    app()


if __name__ == "__main__":
    main()
