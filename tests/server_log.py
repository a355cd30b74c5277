"""Finds refused requests and lost events in the log of a Prefect server."""

from pathlib import Path

REFUSALS = ("database is locked", "Subscription queue is full", "dead letter queue")
"""Phrases that a server logs when it has refused a request or lost an event."""


def refusals(folder: Path, log: str) -> list[str]:
    """Return the lines of ``folder/log`` with such phrases, and the paths of dead-letter events."""
    lines = (folder / log).read_text(errors="replace").splitlines()
    said = [line for line in lines if any(words in line for words in REFUSALS)]
    return said + [str(path) for path in folder.rglob("dlq/*")]
