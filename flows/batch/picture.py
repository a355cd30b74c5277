"""Draws a picture of a batch: the outcomes of its requests, and its calls per second over time."""

from collections.abc import Iterator
from html import escape

from flows.batch.meter import Speed

WIDTH = 760
"""Width of the picture in pixels."""
_LEFT, _RIGHT = 180, 90
"""Space left and right of the bars, for their labels and counts."""
_BAR, _ROW = 18, 28
"""Height of a bar, and distance between the tops of two bars."""
_CHART = 160
"""Height of the chart of the calls per second."""

_COLOURS = {
    "passed": "#2e8b57",
    "not passed": "#b8860b",
    "answered": "#4682b4",
    "failed": "#b22222",
    "waiting": "#708090",
    "not begun": "#b0b8c0",
}


def draw(title: str, counts: dict[str, int], speed: Speed | None) -> str:
    """Return the picture as an SVG document.

    ``counts`` maps outcomes to numbers of requests; the outcomes are the keys of ``_COLOURS``.
    Without ``speed``, the chart of the calls per second is omitted.
    """
    bars = [(what, count) for what, count in counts.items() if count]
    top = 60 + _ROW * len(bars)
    height = top + (_CHART + 70 if speed else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="14" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(16, 30, title, size=17),
        *_bars(bars),
    ]
    if speed:
        parts += _chart(speed, top)
    return "\n".join([*parts, "</svg>"])


def _bars(bars: list[tuple[str, int]]) -> Iterator[str]:
    most = max((count for _, count in bars), default=1)
    for row, (what, count) in enumerate(bars):
        y = 50 + _ROW * row
        width = max(2.0, (WIDTH - _LEFT - _RIGHT) * count / most)
        yield _text(_LEFT - 10, y + 14, what, anchor="end")
        yield (
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS[what]}"/>'
        )
        yield _text(_LEFT + width + 8, y + 14, f"{count:,}")


def _chart(speed: Speed, top: int) -> Iterator[str]:
    """Yield the elements of the chart: bars for the calls per second, and a line for the limit."""
    left, right, base = 60, WIDTH - 20, top + 40 + _CHART
    highest = max(speed.limit * 1.15, *speed.per_second)
    wide = (right - left) / len(speed.per_second)
    limit = base - _CHART * speed.limit / highest
    yield _text(16, top + 20, f"{speed.action}, calls per second")
    for number, rate in enumerate(speed.per_second):
        tall = _CHART * rate / highest
        yield (
            f'<rect x="{left + wide * number:.1f}" y="{base - tall:.1f}" '
            f'width="{max(wide - 0.5, 0.5):.1f}" height="{tall:.1f}" fill="#4682b4"/>'
        )
    yield f'<path d="M{left} {base}H{right}" stroke="#222"/>'
    yield f'<path d="M{left} {limit:.1f}H{right}" stroke="#b22222" stroke-dasharray="6 4"/>'
    yield _text(left - 8, limit + 5, f"{speed.limit:g}", anchor="end")
    yield _text(left - 8, base + 5, "0", anchor="end")
    yield _text(right, limit - 6, "the account's limit", anchor="end", fill="#b22222")
    yield _text(left, base + 20, "0 s")
    length = f"{len(speed.per_second) * speed.span:,} s"
    yield _text(right, base + 20, length, anchor="end")


def _text(
    x: float, y: float, text: str, *, size: int = 14, anchor: str = "start", fill: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
