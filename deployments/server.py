"""``python -m deployments.server ...``: ``prefect server ...``, whose SQLite writers take turns.

SQLite lets one connection write at a time. Prefect's server, left alone, gets two things wrong
with that (``docs/prefect-internals.md`` has the details and the measurements):

- **It refuses.** A transaction begins as DEFERRED and takes the write lock at its first write. By
  then somebody else may have written, and SQLite refuses it at once: a trigger is answered with
  503, an event is lost. Here each transaction begins as IMMEDIATE: it waits for the lock.
- **It stands still.** A server that has just migrated its database keeps one connection in which
  each write opens a transaction by itself. The event persister, which counts on autocommit, then
  holds the write lock through a whole flush, and everybody else waits. Here each connection is
  set to autocommit when it is taken from the pool.

PostgreSQL is not touched. A Prefect that is not as we know it is started as it is, with a warning.
"""

import inspect
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

from prefect.cli import app
from prefect.server.database import configurations
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.pool import Pool

from deployments.settings_files import APPLICATION_NAME

_PARAMETERS = ["self", "session", "with_for_update"]


def take_turns() -> bool:
    """Makes the SQLite writers of this process wait for each other.

    Returns:
        Whether it could. ``False`` where Prefect has changed; then nothing is changed here.
    """
    begin: Any = vars(AioSqliteConfiguration).get("begin_transaction")
    begin_mode: Any = getattr(configurations, "SQLITE_BEGIN_MODE", None)
    if begin is None or list(inspect.signature(begin).parameters) != _PARAMETERS:
        return False
    if not isinstance(begin_mode, ContextVar):
        return False
    mode = cast("ContextVar[str | None]", begin_mode)

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction]:
        del self, with_for_update  # as if it were always set
        async with session.begin() as transaction:
            token = mode.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                # Reset at once: a session that is opened inside this one, only to read, would
                # inherit the mode and wait for the lock that is held here.
                mode.reset(token)
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction
    event.listen(Pool, "checkout", set_to_autocommit)
    return True


def set_to_autocommit(connection: Any, *_: object) -> None:
    """Undoes what SQLAlchemy's reset after Prefect's migrations leaves behind in a connection."""
    if isinstance(connection, AsyncAdapt_aiosqlite_connection) and connection.isolation_level == "":
        connection.isolation_level = None


def main() -> None:
    if take_turns():
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
