"""The picture of a report: a lane for every process, all on one axis of time with the number that was available."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.ctl.quantities import clock, counted, duration_text, ms, utc
from supervisor_rolling.ctl.report_html import Html, items, joined, name_tag, pairs, tag
from supervisor_rolling.ctl.report_record import Span
from supervisor_rolling.ctl.report_words import requests_text, words
from supervisor_rolling.ctl.rollout_lines import is_reached

View = Mapping[str, Any]

STAGES = {
    "draining": ("draining", "closed, waits for its connections to end"),
    "restarting": ("restarting", "closed, the old process stops and a new one starts"),
    "warming": ("warming", "closed, until the new process is warm and its startsecs are over"),
    "ready": ("ready", "open, not yet counted as available"),
    "failed": ("failed", "closed, receives no traffic"),
    "down": ("down", "is not running"),
    "old": ("open, old", "serves, on the old code"),
    "new": ("open, new", "serves, on the new code"),
}
"""Each kind of bar: its name, and what it means. The last two are those of a process that is open."""

WITHOUT_PORTS = {
    "draining": ("draining", "was asked to finish its job"),
    "restarting": ("restarting", "the old process finishes its job and stops, a new one starts"),
    "warming": ("warming", "until the new process is ready and its startsecs are over"),
    "ready": ("ready", "not yet counted as available"),
    "failed": ("failed", "is not ready"),
    "old": ("old", "runs the old code"),
    "new": ("new", "runs the new code"),
}
"""The same of a group with ``ports: none``."""

MANY = 60
"""In a larger group lanes are narrow and show their words when they have the focus; an overview stands above."""

MAX_BARS = 20000
"""Latencies that are drawn and listed, in all lanes together: more would make the page slow to open."""

SPARK_WIDTH, SPARK_HEIGHT, SPARK_BARS = 84, 20, 42
"""Of the small picture of a warm-up, in pixels; and how many bars can be distinguished there."""

LANE_LETTERS = 85
"""The letters that fit in a lane, in the narrowest window in which words stand beside bars."""

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def picture(rollout: View) -> Html:
    """The section with legend, axis and lanes."""
    processes, span = rollout["processes"], rollout["span"]
    if not processes or not rollout["is_known"]:
        text = "Only the start was recorded: what happened to the processes is not known."
        return tag(
            "section",
            tag("h2", "The processes"),
            tag("p", text if processes else "The record names no process."),
            class_="picture" if processes else "",
        )
    is_many = len(processes) > MANY
    width = min(14, max(8, *(0.66 * len(process["name"]) + 2.5 for process in processes)))
    step = next((step for step in _TICKS if span / step <= 10), math.ceil(span / 864000) * 86400)
    return tag(
        "section",
        tag("h2", "Process by process", id="processes"),
        _legend(processes),
        _overview(processes, span) if is_many else "",
        _axis(rollout, step),
        _lanes(rollout),
        class_="picture many" if is_many else "picture",
        style=f"--name:{width:.3g}rem;--step:{_percent(step, span)}",
        aria_labelledby="processes",
    )


def _legend(processes: Sequence[View]) -> Html:
    used = {_kind(span) for process in processes for span in process["spans"]} | {"old"}
    stages = STAGES if any(map(is_reached, processes)) else {**STAGES, **WITHOUT_PORTS}
    known = [(kind, *stages[kind]) for kind in stages if kind in used]
    texts = [joined([tag("i", class_=kind), tag("b", name), f" {text}"]) for kind, name, text in known]
    return items("ul", texts, class_="legend", aria_label="What the bars mean")


def _kind(span: Span) -> str:
    if span.stage == "open":
        return "new" if span.is_new else "old"
    return span.stage


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}".rstrip("0").rstrip(".") + "%" if whole else "0%"


# --- the axis


def _axis(rollout: View, step: float) -> Html:
    """Above the lanes, and in sight while they are scrolled: how many are available, and the time."""
    span, began = rollout["span"], utc(rollout["began"])
    ticks = [n * step for n in range(int(span / step + 1e-6) + 1)]
    marks = [tag("span", _tick(at, span), style=f"left:{_percent(at, span)}") for at in ticks]
    times = [
        tag("span", f"since {clock(began)}" if began else "since the start", class_="name"),
        tag("span", *marks, class_="ticks", aria_hidden="true"),
        tag("span", "not available", class_="away"),
        tag("span", _scale_text(rollout["processes"]), class_="warm"),
    ]
    return tag("div", _available(rollout), tag("div", *times, class_="row times"), class_="axis")


def _tick(at: float, span: float) -> str:
    if not at:
        return "0"
    if span < 120:
        return f"{at:.1f} s" if at != int(at) else f"{at:.0f} s"
    minutes, seconds = divmod(round(at), 60)
    if span < 7200:
        return f"{minutes}:{seconds:02} min" if seconds else f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02} h" if rest else f"{hours} h"


def _available(rollout: View) -> Html:
    """How many were available, as a line of steps."""
    if not rollout["availability"]:
        return Html("")
    top = max(rollout["size"], *(number for _, number in rollout["availability"]))
    low = min(number for _, number in rollout["availability"])
    base = 0 if top <= 20 else max(0, math.floor(low - (top - low) - 1))
    line = _steps(rollout, base, top)
    least = (top - low) / (top - base) if top > base else 0
    svg = tag(
        "svg",
        tag("path", d=f"{line}V100H0z", class_="area"),
        tag("path", d=line, class_="line", vector_effect="non-scaling-stroke"),
        viewBox="0 -4 1000 108",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Available processes: at most {top:.0f}, at least {low:.0f}. The scale starts at {base}.",
    )
    scale = tag("span", tag("b", f"{top:.0f}"), tag("b", base), class_="scale", aria_hidden="true")
    return tag(
        "div",
        tag("span", tag("span", "available"), scale, class_="name"),
        tag("span", svg, class_="steps"),
        tag("span", f"at least {low:.0f}", class_="away", style=f"--least:{least:.2f}"),
        class_="row available",
    )


def _steps(rollout: View, base: float, top: float) -> str:
    """The path of the line, in a box of 1000 by 100; of changes at the same place the lowest is drawn, and the last."""
    columns: dict[float, list[float]] = {}
    for at, number in rollout["availability"]:
        columns.setdefault(round(2000 * at / rollout["span"]) / 2, []).append(number)
    columns.setdefault(0.0, [top])

    def y(number: float) -> str:
        return f"{100 * (top - number) / max(1, top - base):.4g}"

    first, *others = sorted(columns.items())
    path = [f"M0 {y(first[1][-1])}"]
    for x, numbers in others:
        lowest = f"V{y(min(numbers))}" if min(numbers) < numbers[-1] else ""
        path.append(f"H{x:g}{lowest}V{y(numbers[-1])}")
    return "".join([*path, "H1000"])


def _overview(processes: Sequence[View], span: float) -> Html:
    """An overview of a large group: each process is a thin line; and links to the lanes."""
    paths: dict[str, list[str]] = {}
    for row, process in enumerate(processes):
        for one in process["spans"]:
            x, width = 1000 * one.begin / span, max(1.5, 1000 * one.seconds / span)
            paths.setdefault(_kind(one), []).append(f"M{x:.4g} {row}.5h{width:.4g}")
    number = len(processes)
    kinds = ["new", *(kind for kind in STAGES if kind not in ("new", "old"))]  # the last lies on top
    label = f"All {number} at once, from top to bottom in the order in which they were closed"
    svg = tag(
        "svg",
        *(tag("path", d="".join(paths[kind]), class_=kind) for kind in kinds if kind in paths),
        viewBox=f"0 0 1000 {number}",
        style=f"--bold:{max(1.15, number / 120):.3g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    links = [tag("a", name_tag(processes[n]["name"]), href=f"#p{n}") for n in range(0, number, math.ceil(number / 16))]
    nav = tag("nav", tag("span", "Go to"), items("ul", links), aria_label="Into the lanes")
    return tag("div", tag("figure", tag("figcaption", label), svg, class_="overview"), nav, class_="whole")


# --- the lanes


def _lanes(rollout: View) -> Html:
    processes = rollout["processes"]
    scale = _scale(processes)
    most = max(10, MAX_BARS // len(processes))
    longest = max(process["away"] for process in processes)
    lanes = [_lane(number, process, rollout, scale, most, longest) for number, process in enumerate(processes)]
    skip = tag("a", f"Skip {counted(len(lanes), 'lane')}, to the table", href="#table", class_="skip")
    return joined([skip, tag("ol", *lanes, class_="lanes")], "\n")


Scale = tuple[float, float]


def _lane(number: int, process: View, rollout: View, scale: Scale, most: int, longest: float) -> Html:
    """A process: a row of the picture and, when it is opened, each stage below."""
    is_bad = process["failed"] or process["stage"] == "failed"
    text = words(process, rollout["status"])
    side, style = _beside(process["spans"], rollout["span"], len(text))
    sign = tag("span", "✕ ", class_="sign", aria_hidden="true") if is_bad else ""
    row = [
        tag("span", sign, name_tag(process["name"]), class_="name"),
        tag("span", *(_bar(span, 0, rollout["span"]) for span in process["spans"]), class_="track"),
        tag("span", text, class_=f"words {side}".rstrip(), style=style),
        _away(process["away"], longest),
        tag("span", _spark(process["latencies_ms"], scale, most), requests_text(process), class_="warm"),
    ]
    details = tag("details", tag("summary", joined(row, " "), class_="row"), _more(process, rollout, most))
    return tag("li", details, id=f"p{number}", class_="bad" if is_bad else "")


def _away(seconds: float, longest: float) -> Html:
    if not seconds:
        return tag("span", class_="away")
    share = f"--share:{_percent(seconds, longest)}"
    return tag(
        "span", tag("span", "not available ", class_="unseen"), duration_text(seconds), class_="away", style=share
    )


def _beside(spans: Sequence[Span], total: float, letters: int) -> tuple[str, str]:
    """Where so many letters have room in a lane: behind its bars, before them, or below. A class and a style."""
    moved = [span for span in spans if span.stage != "open"]
    if not moved:
        return "", ""
    before, behind = moved[0].begin / total, 1 - moved[-1].end / total
    if max(before, behind) * LANE_LETTERS < letters:
        return "below", ""
    if behind >= before:
        return "", f"padding-left:calc({_percent(1 - behind, 1)} + 8px)"
    return "before", f"padding-right:calc({_percent(1 - before, 1)} + 8px)"


def _bar(span: Span, begin: float, total: float) -> Html:
    left, width = _percent(span.begin - begin, total), _percent(span.seconds, total)
    return tag("i", class_=_kind(span), style=f"left:{left};width:{width}")


def _more(process: View, rollout: View, most: int) -> Html:
    """What an opened lane shows: its stages, on a scale that ends with the last one that has ended."""
    moved = [span for span in process["spans"] if span.stage != "open"]
    begin = moved[0].begin if moved else 0.0
    ends = max(
        [span.end for span in moved if span.stage != "failed"] + [span.begin for span in moved[-1:]], default=0.0
    )
    total = ends - begin or 1.0
    rows = []
    for span in moved:
        at = utc(rollout["began"] + span.begin) if rollout["began"] > 0 else None
        drawn = Span(span.stage, span.begin, min(span.end, begin + total), span.is_new)
        when = f"from {duration_text(span.begin)}{f', {clock(at)}' if at else ''}"
        cells = [
            tag("b", span.stage),
            _bar(drawn, begin, total),
            tag("span", duration_text(span.seconds)),
            tag("span", when),
        ]
        rows.append(joined(cells, " "))
    stages = items("ol", rows, class_="stages") if rows else tag("p", "It was never closed.")
    return tag("div", stages, pairs(_about(process, most), "meta"), class_="more")


def _about(process: View, most: int) -> list[tuple[str, object]]:
    known = process["latencies_ms"][:most]
    cut = f" and {process['requests'] - len(known):.0f} more" if process["requests"] > len(known) else ""
    return [
        ("Port", ports_text(process) or None),
        ("Pid", pids_text(process) or None),
        ("Why", process["why"] or None),
        ("Connections left", process["lingering_connections"] or None),
        ("Deaths", process["deaths"] or None),
        ("Killed", "yes, it did not stop in time" if process["killed"] else None),
        ("Warm-up requests, ms", " ".join(map(ms, known)) + cut if known else None),
    ]


def ports_text(process: View) -> str:
    """The ports or unix sockets of a process."""
    return ", ".join([*(f"{port:.0f}" for port in process["ports"]), *process["sockets"]])


def pids_text(process: View) -> str:
    """Its old and its new pid."""
    return " →\xa0".join(dict.fromkeys(f"{pid:.0f}" for pid in (process["old_pid"], process["pid"]) if pid))


# --- latencies


def _scale(processes: Sequence[View]) -> Scale:
    """The powers of ten between which all latencies are."""
    known = [value for process in processes for value in process["latencies_ms"] if value > 0]
    low = math.floor(math.log10(max(0.01, min(known, default=1))))
    return low, max(math.ceil(math.log10(max(known, default=1))), low + 1)


def _scale_text(processes: Sequence[View]) -> str:
    if not any(process["latencies_ms"] for process in processes):
        return "warm-up"
    low, high = (f"{10**power:g} ms" if power < 3 else f"{10 ** (power - 3):g} s" for power in _scale(processes))
    return f"warm-up, {low} to {high}"


def _spark(latencies: Sequence[float], scale: Scale, most: int) -> Html:
    """A bar for each request, on a logarithmic scale; of too many, the slowest of several."""
    if not latencies:
        return Html("")
    several = math.ceil(len(latencies) / min(most, SPARK_BARS))
    drawn = [max(latencies[n : n + several]) for n in range(0, len(latencies), several)]
    pitch = min(7.0, SPARK_WIDTH / len(drawn))
    low, high = scale

    def y(value: float) -> str:
        share = (math.log10(max(value, 0.01)) - low) / (high - low)
        return f"{SPARK_HEIGHT - max(1.0, SPARK_HEIGHT * share):.0f}"

    path = "".join(f"M{(n + 0.5) * pitch:.3g} {SPARK_HEIGHT}V{y(value)}" for n, value in enumerate(drawn))
    thin = f"stroke-width:{0.7 * pitch:.2g}" if pitch < 7 else ""
    return tag("svg", tag("path", d=path, style=thin), aria_hidden="true")
