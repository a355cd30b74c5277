"""The PostgreSQL server of this machine, for tests that create databases."""

import os
from typing import Any, cast

import asyncpg

POSTGRES = os.environ.get("FACEID_TEST_POSTGRES", "postgres@127.0.0.1:5432")


async def execute(statement: str, *values: Any, database: str = "postgres") -> None:
    connection = await cast("Any", asyncpg).connect(f"postgresql://{POSTGRES}/{database}")
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()
