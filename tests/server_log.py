"""What a Prefect server's log tells of those that it refused, and of what it lost."""

from pathlib import Path

REFUSALS = ("database is locked", "Subscription queue is full", "dead letter queue")
"""What a server's log says when it refused somebody, or lost an event."""


def refusals(folder: Path, log: str) -> list[str]:
    """Lines of the log in this folder that tell of them, and the events that it has put aside."""
    lines = (folder / log).read_text(errors="replace").splitlines()
    said = [line for line in lines if any(words in line for words in REFUSALS)]
    return said + [str(path) for path in folder.rglob("dlq/*")]
