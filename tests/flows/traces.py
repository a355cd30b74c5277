"""Finds traces of a request in the storage, in folders and in Prefect's database."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tasks.settings import DeliverySettings
from tasks.state.layout import CACHE, OPEN, RECORDS
from tasks.state.storage import open_storage
from tests.environment import HOME

EVENTS = {"events", "event_resources"}
"""Tables from which nothing can be deleted."""


def database() -> sqlite3.Connection:
    """Connect to the database of the tests' Prefect server."""
    return sqlite3.connect(Path(HOME) / "prefect.db", timeout=30)


def rows_with(text: str) -> set[str]:
    """Return the columns of Prefect's database that contain the text, except in events."""
    found: set[str] = set()
    with closing(database()) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            if table in EVENTS:
                continue
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                found |= {
                    f"{table}.{column}"
                    for column, value in zip(columns, row, strict=True)
                    if text
                    in (value.decode(errors="replace") if isinstance(value, bytes) else str(value))
                }
    return found


def documents_with(text: str) -> list[str]:
    """Return the names of stored documents that contain the text when they are decrypted."""
    storage = open_storage(DeliverySettings.load())
    names = [name for folder in (CACHE, RECORDS, OPEN) for name in storage.names(folder)]
    return [name for name in names if text in str(storage.read(name))]


def files_with(text: str, folder: Path) -> list[Path]:
    """Return the paths below a folder whose name or content contains the text."""
    return [
        path
        for path in folder.rglob("*")
        if text in path.name or (path.is_file() and text.encode() in path.read_bytes())
    ]
