"""What a batch says of itself at its end, in the dashboard: counts, its failures, a picture."""

import base64

from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact
from prefect.runtime import flow_run

from flows.batch import Books
from flows.batch_meter import Speed
from flows.batch_picture import draw


async def summarize(books: Books, speed: Speed | None) -> None:
    """The artifacts ``summary-<flow run id>`` and ``picture-<flow run id>``."""
    title = f"{books.done:,} of {books.total:,} requests"
    await acreate_markdown_artifact(
        "\n".join(_lines(title, books)),
        key=f"summary-{flow_run.id}",
        description="Outcomes and failures",
    )
    picture = draw(title, _counts(books), speed).encode()
    await acreate_image_artifact(
        f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}",
        key=f"picture-{flow_run.id}",
        description="Outcomes and calls per second",
    )


def say(books: Books) -> str:
    """The counts, in words."""
    counts = [f"{books.status['verdict']} verdicts"]
    counts += [f"{books.status[s]} {s}" for s in ("failed", "waiting") if books.status[s]]
    left = books.total - books.done
    return f"{', '.join(counts)} of {books.total} requests" + (
        f", {left} not begun" if left else ""
    )


def _counts(books: Books) -> dict[str, int]:
    return {
        "passed": books.verdicts["passed"],
        "not passed": books.verdicts["refused"],
        "answered": books.verdicts["none"],
        "failed": books.status["failed"],
        "waiting": books.status["waiting"],
        "not begun": books.total - books.done,
    }


def _lines(title: str, books: Books) -> list[str]:
    lines = [f"# {title}", "", *_head("outcome", "requests")]
    lines += [f"| {what} | {count} |" for what, count in _counts(books).items() if count]
    if books.failures:
        lines += ["", "## Failures", "", *_head("kind", "code", "such as", "requests")]
        failures = sorted(books.failures.items(), key=lambda item: item[1].requests, reverse=True)
        for (kind, code), (requests, examples) in failures:
            lines.append(f"| {kind} | {code} | {', '.join(examples)} | {requests} |")
    return lines


def _head(*columns: str) -> list[str]:
    """A table's head; its last column holds numbers."""
    rule = ["---"] * (len(columns) - 1) + ["---:"]
    return [f"| {' | '.join(row)} |" for row in (columns, rule)]
