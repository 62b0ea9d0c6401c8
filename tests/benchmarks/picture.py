"""The results as a picture: for each size a bar for each way, as long as it took, in the colour of what users met.

It is SVG with a ground of its own, so that it can be read on a light page and on a dark one. What a colour says is also
written beside the bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from tests.benchmarks.results import Result

WIDTH = 960
MARGIN = 20
LABEL = 278  # where the bars begin
LONGEST = 260  # of the bars
NOTE = LABEL + LONGEST + 62  # where the notes begin; between them the seconds
ROW, BAR = 22, 13
TITLE = 34
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif' font-size='12'"

GROUND, EDGE, INK, FAINT = "#ffffff", "#d0d7de", "#1f2328", "#59636e"
GOOD, SLOW, COLD, FAILED = "#1a7f37", "#8250df", "#bf8700", "#cf222e"

WAITED = 1.0  # seconds: who waits so long for a page has noticed

LEGEND = (
    (GOOD, "no request failed"),
    (SLOW, "one GET in a hundred waited a second"),
    (COLD, "GETs met a cold process"),
    (FAILED, "requests failed"),
)

CAPTION = (
    "Seconds from the order until it is done and every new process takes requests. p99: of GETs, before → during. "
    "The last: how few served."
)


def drawn(results: Sequence[Result]) -> str:
    """A whole SVG document."""
    body: list[str] = []
    y = MARGIN
    for size in sorted({result.size for result in results}):
        restarts = [result for result in results if result.size == size and result.side not in ("none", "extra")]
        if restarts:
            body += _panel(size, restarts, y)
            y += TITLE + ROW * len(restarts) + MARGIN
    body += _foot(y)
    height = y + 2 * ROW + MARGIN
    frame = f"<rect x='0.5' y='0.5' width='{WIDTH - 1}' height='{height - 1}' rx='8' fill='{GROUND}' stroke='{EDGE}'/>"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' role='img' {FONT}>"
    title = "<title>Ways of restarting a group of processes, under the same load</title>"
    return "\n".join([head, title, frame, *body, "</svg>"]) + "\n"


def _panel(size: int, results: Sequence[Result], top: int) -> Iterable[str]:
    slowest = max(result.seconds for result in results)
    yield _text(MARGIN, top + 16, f"{size} processes", INK, "font-size='14' font-weight='600'")
    for number, result in enumerate(results):
        yield from _row(result, top + TITLE + ROW * number, result.seconds / slowest)


def _row(result: Result, top: int, share: float) -> Iterable[str]:
    length, base = max(1.0, LONGEST * share), top + 11
    weight = "font-weight='600'" if result.side == "ours" else ""
    yield _text(LABEL - 10, base, result.about, INK, f"text-anchor='end' {weight}")
    yield f"<rect x='{LABEL}' y='{top}' width='{length:.1f}' height='{BAR}' rx='2' fill='{_colour(result)}'/>"
    yield _text(LABEL + length + 6, base, f"{result.seconds:.1f} s", INK)
    yield _text(NOTE, base, note(result), FAINT)


def note(result: Result) -> str:
    """What the colour of the bar says, and what it does not."""
    p99 = f"p99 {1000 * result.before.p99:.0f} → {1000 * result.during.p99:.0f} ms"
    return f"{result.failed} failed · {result.cold} cold · {p99} · {result.least} of {result.size}"


def _colour(result: Result) -> str:
    if result.failed:
        return FAILED
    if result.cold:
        return COLD
    return SLOW if result.during.p99 >= WAITED else GOOD


def _foot(top: int) -> Iterable[str]:
    x = MARGIN
    for colour, words in LEGEND:
        yield f"<rect x='{x}' y='{top}' width='{BAR}' height='{BAR}' rx='2' fill='{colour}'/>"
        yield _text(x + BAR + 6, top + 11, words, FAINT)
        x += BAR + 30 + 7 * len(words)
    yield _text(MARGIN, top + ROW + 11, CAPTION, FAINT)


def _text(x: float, y: float, words: str, colour: str, more: str = "") -> str:
    return f"<text x='{x:.0f}' y='{y:.0f}' fill='{colour}' {more}>{escape(words)}</text>"
