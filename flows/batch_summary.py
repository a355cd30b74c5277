"""What a batch says of itself at its end, in the dashboard: counts, and a table of its failures."""

from prefect.artifacts import Artifact
from prefect.runtime import flow_run

from flows.batch import Books


async def summarize(books: Books) -> None:
    """The artifact ``summary-<flow run id>``."""
    await Artifact(
        type="markdown",
        key=f"summary-{flow_run.id}",
        description="What came of the requests",
        data="\n".join(_lines(books)),
    ).acreate()


def _lines(books: Books) -> list[str]:
    counts = {
        "passed": books.verdicts["passed"],
        "not passed": books.verdicts["refused"],
        "answered, no verdict to give": books.verdicts["none"],
        "failed": books.status["failed"],
        "waiting": books.status["waiting"],
        "not begun": books.total - books.done,
    }
    lines = [f"# {books.done} of {books.total} requests", "", *_head("outcome", "requests")]
    lines += [f"| {what} | {count} |" for what, count in counts.items() if count]
    if books.failures:
        lines += ["", "## Failures", "", *_head("kind", "code", "such as", "requests")]
        failures = sorted(books.failures.items(), key=lambda item: item[1].requests, reverse=True)
        for (kind, code), (requests, examples, _) in failures:
            lines.append(f"| {kind} | {code} | {', '.join(examples)} | {requests} |")
    return lines


def _head(*columns: str) -> list[str]:
    """A table's head; its last column holds numbers."""
    rule = ["---"] * (len(columns) - 1) + ["---:"]
    return [f"| {' | '.join(row)} |" for row in (columns, rule)]
