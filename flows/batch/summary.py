"""Reports the end of a batch, with artifacts (counts, failures and a picture) and an event."""

import base64
from typing import Literal

from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact
from prefect.runtime import flow_run

from faceid.models import Outcome, Service
from flows.batch.meter import Speed
from flows.batch.picture import draw
from flows.batch.runner import BatchStats
from flows.delivery.outcome import add_tags
from flows.server.events import emit_event
from flows.server.runs import best_effort

BatchOutcome = Outcome | Literal["completed", "partial", "cancelled"]
"""Outcome of a batch's run. ``partial`` means that some requests have no verdict."""

_FINISHED = ("completed", "partial", "cancelled")


async def summarize(stats: BatchStats, speed: Speed | None) -> None:
    """Create the artifacts ``summary-<flow run id>`` and ``picture-<flow run id>``.

    ``speed`` is that of the action whose rate came closest to its limit; ``None`` if none was
    called.
    """
    title = f"{stats.done:,} of {stats.total:,} requests"
    with best_effort("the run has no summary"):
        await acreate_markdown_artifact(
            "\n".join(_lines(title, stats)),
            key=f"summary-{flow_run.id}",
            description="Outcomes and failures",
        )
        picture = draw(title, _counts(stats), speed).encode()
        await acreate_image_artifact(
            f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}",
            key=f"picture-{flow_run.id}",
            description="Outcomes and calls per second",
        )


async def emit_batch_event(
    outcome: BatchOutcome,
    service: Service,
    message: str,
    stats: BatchStats | None,
    next_run: str | None,
) -> None:
    """Tag the batch's run with its outcome, and emit the event of its end.

    The event is ``batch.waiting`` if the outcome is ``partial`` and requests wait, and
    ``batch.failed`` if an error stopped the batch. ``message`` is the message of the run's final
    state, and ``next_run`` the ID of the flow run that continues, if there is one.
    """
    tags: list[str] = []
    with best_effort("the run is not tagged with its outcome"):
        tags = await add_tags(f"outcome:{outcome}")
    name = next((tag[6:] for tag in tags if tag.startswith("batch:")), flow_run.name or "")
    word = outcome if outcome in _FINISHED else "failed"
    if word == "partial" and stats and stats.status["waiting"]:
        word = "waiting"
    emit_event(
        f"batch.{word}",
        kind="batch",
        name=name,
        service=service,
        labels={"scope": "batch", "outcome": outcome},
        payload={
            "batch": name,
            "service": service,
            "outcome": outcome,
            "message": message,
            "flow_run_id": str(flow_run.id),
            "next_flow_run_id": next_run,
            **(_tally(stats) if stats else {}),
        },
        next_run=next_run,
    )


def _tally(stats: BatchStats) -> dict[str, object]:
    return {
        "requests": stats.total,
        "not_begun": stats.total - stats.done,
        **{status: stats.status[status] for status in ("verdict", "failed", "waiting")},
        "verdicts": {word: stats.verdicts[word] for word in ("passed", "refused", "none")},
        "failures": [
            {"kind": kind, "code": code, "requests": failures.requests}
            for (kind, code), failures in stats.failures.items()
        ],
    }


def describe_counts(stats: BatchStats) -> str:
    """Return the counts in words, such as ``2 verdicts, 1 failed of 3 requests``."""
    counts = [f"{stats.status['verdict']} verdicts"]
    counts += [f"{stats.status[s]} {s}" for s in ("failed", "waiting") if stats.status[s]]
    left = stats.total - stats.done
    return f"{', '.join(counts)} of {stats.total} requests" + (
        f", {left} not begun" if left else ""
    )


def _counts(stats: BatchStats) -> dict[str, int]:
    return {
        "passed": stats.verdicts["passed"],
        "not passed": stats.verdicts["refused"],
        "answered": stats.verdicts["none"],
        "failed": stats.status["failed"],
        "waiting": stats.status["waiting"],
        "not begun": stats.total - stats.done,
    }


def _lines(title: str, stats: BatchStats) -> list[str]:
    lines = [f"# {title}", "", *_head("outcome", "requests")]
    lines += [f"| {what} | {count} |" for what, count in _counts(stats).items() if count]
    if stats.failures:
        lines += ["", "## Failures", "", *_head("kind", "code", "such as", "requests")]
        failures = sorted(stats.failures.items(), key=lambda item: item[1].requests, reverse=True)
        for (kind, code), (requests, examples) in failures:
            lines.append(f"| {kind} | {code} | {', '.join(examples)} | {requests} |")
    return lines


def _head(*columns: str) -> list[str]:
    """Return the first two lines of a Markdown table whose last column is right-aligned."""
    rule = ["---"] * (len(columns) - 1) + ["---:"]
    return [f"| {' | '.join(row)} |" for row in (columns, rule)]
