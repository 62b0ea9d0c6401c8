"""A rollout as a picture: one page of HTML that stands by itself, made from the record of a rollout.

A lane for every process, on one axis of time with the number that was available; what failed, and what to do about it;
and all of it once more as a table. The page runs no script and loads nothing, and its own Content-Security-Policy says
so. Names and reasons come from others: whatever is put into a tag is escaped there, unless a tag made it. A record may
be of an older version, or of a newer one: what it does not tell is left out.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from statistics import median
from typing import Any

from supervisor_rolling.core.lingering import count_text
from supervisor_rolling.core.log_messages import standing_word
from supervisor_rolling.ctl.quantities import clock, counted, from_to, lasting, ms, utc
from supervisor_rolling.ctl.report_record import Span, read
from supervisor_rolling.ctl.report_style import STYLE
from supervisor_rolling.ctl.report_words import (
    PAST,
    forecast_text,
    requests_text,
    standing,
    words,
)
from supervisor_rolling.ctl.rollout_lines import what_now

View = Mapping[str, Any]

STAGES = {
    "draining": "closed, until no connection is left",
    "restarting": "closed, until the old one is gone and a new one is there",
    "warming": "closed, until the new one is warm and its startsecs are over",
    "ready": "open, not yet counted as available",
    "failed": "closed, so that no user meets it",
    "down": "does not run",
}
"""A stage, and what it is. Otherwise a process is open."""

OPEN = {"old": ("open, old", "serves, on the old code"), "new": ("open, new", "serves, on the new code")}

STATUSES = {
    "done": ("✓", "done", ""),
    "failed": ("✕", "failed", "FAILED: "),
    "aborted": ("■", "aborted", "ABORTED: "),
    "running": ("▶", "under way", ""),
    "lost": ("?", "its end was not seen", "LOST: "),
}
"""A sign, a word, and how the heading begins."""

HEADINGS = {
    "done": "What is to be said",
    "failed": "What failed",
    "aborted": "Why it ended",
    "running": "What is to be said",
    "lost": "Nobody saw how it ended",
}
"""Above what went wrong, where no process failed."""

MANY = 60
"""In a group of more, lanes are narrow and tell their words when they have the focus, below an overview."""

MAX_BARS = 20000
"""So many latencies are drawn and told at most, in all lanes together: a page is to stay quick to open."""

MAX_CHANGES = 1000
"""So many changes of availability stand in the table at most."""

SPARK_WIDTH, SPARK_HEIGHT, SPARK_BARS = 84, 20, 42
"""Of the small picture of a warm-up, in pixels; and how many bars are the most that can be told apart there."""

LANE_LETTERS = 85
"""So many letters have room in a lane, in the narrowest window in which words stand beside bars."""

LISTED = 20
"""So many failures are told before the rest is folded away."""

_UNITS = (1.0, 60.0, 3600.0, 86400.0)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def page(record: Mapping[str, Any]) -> str:
    """The whole document, for a browser. Never raises, whatever stands in the record or is missing."""
    rollout = read(record)
    told = f"{rollout['replaced']} of {rollout['total']} replaced" if rollout["is_known"] else STATUSES["lost"][1]
    title = f"{rollout['group']}: rollout {rollout['id']}, {told}"
    head = joined([HEAD, tag("title", title), Html(f"<style>{STYLE}{NARROW_TABLE}</style>")])
    parts = (_top(rollout), _trouble(rollout), _facts(rollout), _picture(rollout), _tables(rollout))
    body = joined([tag("main", *parts), FOOT])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


# --- tags


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element. What is inside is escaped unless it is an element; attributes that are None or "" are left out.

    ``class_`` and ``aria_label`` are written as in HTML.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    return Html(f"<{name}{told}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Elements and text, one after the other."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def name_tag(name: str) -> Html:
    """A name that turns nothing around beside it, whichever way it is written."""
    return tag("bdi", name or "(no name)")


# --- the top


def headline(rollout: View) -> Html:
    """The story in a sentence."""
    if not rollout["is_known"]:
        what = f"it began to replace {counted(rollout['total'], 'process', 'es')}" if rollout["total"] else "it began"
        return joined([name_tag(rollout["group"]), f": LOST: {what}, and nobody saw how far it came"])
    took = lasting(rollout["seconds"]).replace(" ", "\xa0")
    when = {"running": f" so far, after {took}", "lost": f" in the {took} that are known"}
    done = f"{STATUSES[rollout['status']][2]}{rollout['replaced']} of {rollout['total']} replaced"
    text = done + when.get(rollout["status"], f" in {took}")
    word = standing_word(rollout["min_ready_known"])
    least = f", never fewer than {rollout['least_available']} of {rollout['size']} {word}"
    return joined([name_tag(rollout["group"]), f": {text}{least if rollout['least_available'] >= 0 else ''}"])


def moment(when: datetime | None, before: datetime | None = None) -> Html | None:
    """A point in time, in words: the day, unless it is the one before, and the time."""
    if when is None:
        return None
    day = f"{_DAYS[when.weekday()]} {when.day} {_MONTHS[when.month - 1]} {when.year}, "
    is_same = before is not None and before.date() == when.date()
    return tag("time", f"{'' if is_same else day}{clock(when)}", datetime=f"{when:%Y-%m-%dT%H:%M:%S}Z")


def _top(rollout: View) -> Html:
    sign, word, _ = STATUSES[rollout["status"]]
    badge = tag("span", tag("span", sign, aria_hidden="true"), f" {word}", class_=f"badge {rollout['status']}")
    kicker = tag("p", badge, f" rollout {rollout['id']} of ", name_tag(rollout["group"]), class_="kicker")
    return tag("header", kicker, tag("h1", headline(rollout)), _pairs(_meta(rollout), "meta"))


def _meta(rollout: View) -> list[tuple[str, object]]:
    began = utc(rollout["began"])
    ended = utc(rollout["began"] + rollout["seconds"] + rollout["rested"]) if began else None
    is_over = rollout["status"] != "running"
    connection = ", ".join(filter(None, [rollout["client"], f"user {rollout['user']}" if rollout["user"] else ""]))
    return [
        ("Began", moment(began)),
        ("Ended" if is_over else "Recorded", moment(ended, began) if rollout["status"] != "lost" else None),
        ("By", joined([name_tag(rollout["by"]), ", as it says itself"]) if rollout["by"] else None),
        ("Connection", name_tag(connection) if connection else None),
        ("At a time", rollout["limit"] or None),
        ("Forced", "yes, with --force" if rollout["force"] else None),
        *(("Lay still", _rest_text(rest, rollout)) for rest in rollout["rests"]),
        ("Paused for", lasting(rollout["paused_seconds"]) if rollout["paused_seconds"] > 0 else None),
    ]


def _rest_text(rest: Sequence[Any], rollout: View) -> str:
    """For how long the rollout lay still until it was resumed, since when, and why it had ended."""
    begin, end, why = rest
    at = utc(rollout["began"] + begin) if rollout["began"] > 0 else None
    text = f"{lasting(end - begin)}{f' from {clock(at)}' if at else ''}, then resumed"
    return f"{text}; it had ended: {why}" if why else text


def _pairs(pairs: Iterable[tuple[str, object]], kind: str) -> Html:
    told = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value is not None]
    return tag("dl", *told, class_=kind) if told else Html("")


def _facts(rollout: View) -> Html:
    if not rollout["is_known"]:
        return Html("")
    tiles = [
        ("So far" if rollout["status"] == "running" else "Took", lasting(rollout["seconds"]), forecast_text(rollout)),
        _least_fact(rollout),
        _away_fact(rollout["processes"]),
        _warm_fact(rollout["processes"]),
        _left_fact(rollout["processes"]),
    ]
    told = [tag("div", tag("dt", t[0]), tag("dd", tag("b", t[1]), tag("span", t[2]))) for t in tiles if t]
    return tag("dl", *told, class_="facts")


Fact = tuple[str, str, str]


def _least_fact(rollout: View) -> Fact | None:
    if rollout["least_available"] < 0:
        return None
    limit = f"{rollout['limit']} at a time" if rollout["limit"] else "at the least"
    return (
        f"{standing_word(rollout['min_ready_known']).capitalize()}, at the least",
        f"{rollout['least_available']} of {rollout['size']}",
        limit,
    )


def _away_fact(processes: Sequence[View]) -> Fact | None:
    away = [process for process in processes if process["away"]]
    if not away:
        return None
    longest = max(away, key=lambda process: process["away"])
    text = f"longest {lasting(longest['away'])}: {longest['name']}"
    return ("Not available, median", lasting(median(process["away"] for process in away)), text)


def _warm_fact(processes: Sequence[View]) -> Fact | None:
    known = [process["latencies_ms"] for process in processes if process["latencies_ms"]]
    if not known:
        return None
    first, last = median(each[0] for each in known), median(each[-1] for each in known)
    number = counted(sum(process["requests"] for process in processes), "request")
    return ("Warm-up, first → last", from_to(first, last), f"{number}, medians of {len(known)}")


def _left_fact(processes: Sequence[View]) -> Fact | None:
    left = [cut_off(process) for process in processes if cut_off(process)]
    if not left:
        return None
    again = "; a client that reconnects counts at each restart" if len(left) > 1 else ""
    return ("Cut off by a restart", count_text(sum(left)), f"of {counted(len(left), 'process', 'es')}{again}")


def cut_off(process: View) -> int:
    """The connections that the restart of a process ended. Where no restart followed the last drain it ended none: the
    drain failed, was aborted, or has begun again."""
    last = [span.stage for span in process["spans"] if span.stage in ("draining", "restarting")][-1:]
    return int(process["lingering_connections"]) if last == ["restarting"] else 0


# --- what went wrong


def _trouble(rollout: View) -> Html:
    """What failed, why the rollout ended, and what to do now; nothing where all is well."""
    bad = [(n, p) for n, p in enumerate(rollout["processes"]) if p["failed"] or p["stage"] == "failed"]
    todo = _todo(rollout, bool(bad))
    if not (bad or todo or rollout["why"]):
        return Html("")
    items = [tag("li", _failure(number, process)) for number, process in bad]
    is_bad = bool(bad) or rollout["status"] == "failed"
    parts = [
        tag("h2", "What failed" if is_bad else HEADINGS[rollout["status"]], id="trouble"),
        tag("p", rollout["why"]) if rollout["why"] else "",
        tag("ul", *items[:LISTED]) if items else "",
        tag("details", tag("summary", f"{len(items) - LISTED} more"), tag("ul", *items[LISTED:]))
        if items[LISTED:]
        else "",
        tag("h3", "What now") if todo else "",
        tag("ul", *(tag("li", _command(line)) for line in todo)) if todo else "",
    ]
    return tag("section", *parts, class_="trouble bad" if is_bad else "trouble", aria_labelledby="trouble")


def _failure(number: int, process: View) -> Html:
    ports = f" (port {_ports(process)})" if process["ports"] else ""
    killed = ", after it was killed" if process["killed"] and not process["why"] else ""
    link = tag("a", name_tag(process["name"]), href=f"#p{number}")
    return joined([link, f"{ports}: {process['why'] or 'no reason is told'}{killed}"])


def _todo(rollout: View, is_bad: bool) -> list[str]:
    group = shlex.quote(rollout["group"])
    if rollout["status"] == "lost" or (rollout["status"] == "running" and is_bad):
        return [f"To see how it stands: supervisorctl rolling_status {group}"]
    if rollout["status"] == "failed" or is_bad:
        quoted = [{**process, "name": shlex.quote(process["name"])} for process in rollout["processes"]]
        return what_now({**rollout, "group": group, "processes": quoted, "why": ""})
    is_cut = rollout["status"] == "aborted" and rollout["replaced"] < rollout["total"]
    return [f"To go on with the others: supervisorctl rolling_resume {group}"] if is_cut else []


def _command(line: str) -> Html:
    """A line whose command is set as one."""
    text, between, command = line.partition(": supervisorctl ")
    return joined([f"{text}: ", tag("code", f"supervisorctl {command}")]) if between else joined([line])


def _ports(process: View) -> str:
    return ", ".join(f"{port:.0f}" for port in process["ports"])


# --- the picture


def _picture(rollout: View) -> Html:
    processes = rollout["processes"]
    if not processes:
        return tag("section", tag("h2", "The processes"), tag("p", "The record names no process."))
    if not rollout["is_known"]:
        text = "Only the beginning was recorded: what became of the processes nobody saw."
        return tag("section", tag("h2", "The processes"), tag("p", text), class_="picture")
    is_many = len(processes) > MANY
    width = min(14, max(8, *(0.66 * len(process["name"]) + 2.5 for process in processes)))
    step = next((step for step in _STEPS if rollout["span"] / step <= 10), math.ceil(rollout["span"] / 864000) * 86400)
    style = f"--name:{width:.3g}rem;--step:{_percent(step, rollout['span'])}"
    parts = (_legend(rollout), _overview(rollout) if is_many else "", _axis(rollout, step), _lanes(rollout))
    return tag(
        "section",
        tag("h2", "Process by process", id="processes"),
        *parts,
        class_="picture many" if is_many else "picture",
        style=style,
        aria_labelledby="processes",
    )


def _legend(rollout: View) -> Html:
    used = {_kind(span) for process in rollout["processes"] for span in process["spans"]} | {"old"}
    kinds = {**{stage: (stage, text) for stage, text in STAGES.items()}, **OPEN}
    items = [
        tag("li", tag("i", class_=kind), tag("b", name), f" {text}")
        for kind, (name, text) in kinds.items()
        if kind in used
    ]
    return tag("ul", *items, class_="legend", aria_label="What the bars mean")


def _axis(rollout: View, step: float) -> Html:
    """Above the lanes, and in sight while they are scrolled: how many are available, and the time."""
    ticks = [n * step for n in range(int(rollout["span"] / step + 1e-6) + 1)]
    marks = [tag("span", _tick(at, rollout["span"]), style=f"left:{_percent(at, rollout['span'])}") for at in ticks]
    began = utc(rollout["began"])
    since = f"since {clock(began)}" if began else "since it began"
    available = _available(rollout)
    times = [
        tag("span", since, class_="name"),
        tag("span", *marks, class_="ticks", aria_hidden="true"),
        tag("span", "not available", class_="away"),
        tag("span", _scale_text(rollout), class_="warm"),
    ]
    return tag("div", available, tag("div", *times, class_="row times"), class_="axis")


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
    """How many were available, as a line."""
    if not rollout["availability"]:
        return Html("")
    top = max(rollout["size"], *(number for _, number in rollout["availability"]))
    low = min(number for _, number in rollout["availability"])
    base = 0 if top <= 20 else max(0, math.floor(low - (top - low) - 1))
    line = _steps(rollout, base, top)
    label = f"Available processes: {top:.0f} at the most, {low:.0f} at the least. The scale begins at {base}."
    least = (top - low) / (top - base) if top > base else 0
    svg = tag(
        "svg",
        tag("path", d=f"{line}V100H0z", class_="area"),
        tag("path", d=line, class_="line", vector_effect="non-scaling-stroke"),
        viewBox="0 -4 1000 108",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    marks = tag("span", tag("b", f"{top:.0f}"), tag("b", base), class_="scale", aria_hidden="true")
    return tag(
        "div",
        tag("span", tag("span", "available"), marks, class_="name"),
        tag("span", svg, class_="steps"),
        tag("span", f"{low:.0f} at the least", class_="away", style=f"--least:{least:.2f}"),
        class_="row available",
    )


def _steps(rollout: View, base: float, top: float) -> str:
    """The path of a line of steps, in a box of 1000 by 100: of the changes that fall together the lowest is drawn, and
    the last."""
    columns: dict[float, list[float]] = {}
    for at, number in rollout["availability"]:
        columns.setdefault(round(1000 * at / rollout["span"] * 2) / 2, []).append(number)
    columns.setdefault(0.0, [top])

    def y(number: float) -> str:
        return f"{100 * (top - number) / max(1, top - base):.4g}"

    first, *others = sorted(columns.items())
    path = [f"M0 {y(first[1][-1])}"]
    for x, numbers in others:
        lowest = f"V{y(min(numbers))}" if min(numbers) < numbers[-1] else ""
        path.append(f"H{x:g}{lowest}V{y(numbers[-1])}")
    return "".join([*path, "H1000"])


def _overview(rollout: View) -> Html:
    """Every process as a thin line, so that a large group is seen at once; and ways into the lanes."""
    processes, span = rollout["processes"], rollout["span"]
    paths: dict[str, list[str]] = {}
    for row, process in enumerate(processes):
        for one in process["spans"]:
            x, width = 1000 * one.begin / span, max(1.5, 1000 * one.seconds / span)
            paths.setdefault(_kind(one), []).append(f"M{x:.4g} {row}.5h{width:.4g}")
    number = len(processes)
    action = ["new", *STAGES, "other"]
    drawn = [tag("path", d="".join(paths[kind]), class_=kind) for kind in action if kind in paths]
    label = f"All {number} at once, from top to bottom in the order in which they left"
    svg = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 1000 {number}",
        style=f"--bold:{max(1.15, number / 120):.3g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    every = math.ceil(number / 16)
    ways = [(n, processes[n]["name"]) for n in range(0, number, every)]
    links = tag("ul", *(tag("li", tag("a", name_tag(name), href=f"#p{n}")) for n, name in ways))
    nav = tag("nav", tag("span", "Go to"), links, aria_label="Into the lanes")
    figure = tag("figure", tag("figcaption", label), svg, class_="overview")
    return tag("div", figure, nav, class_="whole")


def _lanes(rollout: View) -> Html:
    processes = rollout["processes"]
    scale = _scale(processes)
    most = max(10, MAX_BARS // len(processes))
    longest = max((process["away"] for process in processes), default=0.0)
    lanes = [_lane(number, process, rollout, scale, most, longest) for number, process in enumerate(processes)]
    skip = tag("a", f"Skip {counted(len(lanes), 'lane')}, to the table", href="#table", class_="skip")
    return joined([skip, tag("ol", *lanes, class_="lanes")], "\n")


Scale = tuple[float, float]


def _lane(number: int, process: View, rollout: View, scale: Scale, most: int, longest: float) -> Html:
    """A process: a summary that is a row of the picture, and below it, when it is opened, each stage on its own."""
    is_bad = process["failed"] or process["stage"] == "failed"
    told = words(process, rollout["status"])
    side, style = _beside(process["spans"], rollout["span"], len(told))
    sign = tag("span", "✕ ", class_="sign", aria_hidden="true") if is_bad else ""
    row = [
        tag("span", sign, name_tag(process["name"]), class_="name"),
        tag("span", *(_bar(span, 0, rollout["span"]) for span in process["spans"]), class_="track"),
        tag("span", told, class_=f"words {side}".rstrip(), style=style),
        _away(process["away"], longest),
        tag("span", _spark(process["latencies_ms"], scale, most), requests_text(process), class_="warm"),
    ]
    summary = tag("summary", joined(row, " "), class_="row")
    return tag(
        "li", tag("details", summary, _more(process, rollout, most)), id=f"p{number}", class_="bad" if is_bad else ""
    )


def _away(seconds: float, longest: float) -> Html:
    if not seconds:
        return tag("span", class_="away")
    share = f"--share:{_percent(seconds, longest)}"
    return tag("span", tag("span", "not available ", class_="unseen"), lasting(seconds), class_="away", style=share)


def _beside(spans: Sequence[Span], total: float, letters: int) -> tuple[str, str]:
    """Where so many letters have room in a lane: behind its bars, before them, or below."""
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


def _kind(span: Span) -> str:
    if span.stage == "open":
        return "new" if span.is_new else "old"
    return span.stage if span.stage in STAGES else "other"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}".rstrip("0").rstrip(".") + "%" if whole else "0%"


def _more(process: View, rollout: View, most: int) -> Html:
    """What is told of a process when its lane is opened."""
    moved = [span for span in process["spans"] if span.stage != "open"]
    ends = max((span.end for span in moved if span.stage != "failed"), default=0.0)
    begin = moved[0].begin if moved else 0.0
    total = max(ends, moved[-1].begin if moved else 0.0) - begin or 1.0
    rows = [
        _stage_row(Span(s.stage, s.begin, min(s.end, begin + total), s.is_new), s, begin, total, rollout) for s in moved
    ]
    stages = tag("ol", *rows, class_="stages") if rows else tag("p", "It never left.")
    return tag("div", stages, _pairs(_about(process, most), "meta"), class_="more")


def _stage_row(drawn: Span, told: Span, begin: float, total: float, rollout: View) -> Html:
    at = utc(rollout["began"] + told.begin) if rollout["began"] > 0 else None
    when = f"from {lasting(told.begin)}{f', {clock(at)}' if at else ''}"
    bar = _bar(drawn, begin, total)
    return tag("li", joined([tag("b", told.stage), bar, tag("span", lasting(told.seconds)), tag("span", when)], " "))


def _about(process: View, most: int) -> list[tuple[str, object]]:
    known = process["latencies_ms"][:most]
    cut = f" and {process['requests'] - len(known):.0f} more" if process["requests"] > len(known) else ""
    return [
        ("Port", _ports(process) or None),
        ("Pid", _pids(process) or None),
        ("Why", process["why"] or None),
        ("Connections left", process["lingering_connections"] or None),
        ("Deaths", process["deaths"] or None),
        ("Killed", "yes, it did not stop in time" if process["killed"] else None),
        ("Warm-up requests, ms", " ".join(map(ms, known)) + cut if known else None),
    ]


def _pids(process: View) -> str:
    pids = [f"{pid:.0f}" for pid in (process["old_pid"], process["pid"]) if pid]
    return " →\xa0".join(dict.fromkeys(pids))


# --- latencies


def _scale(processes: Sequence[View]) -> Scale:
    """The powers of ten between which all latencies are."""
    known = [ms for process in processes for ms in process["latencies_ms"] if ms > 0]
    low = math.floor(math.log10(max(0.01, min(known, default=1))))
    high = math.ceil(math.log10(max(known, default=1)))
    return low, max(high, low + 1)


def _scale_text(rollout: View) -> str:
    if not any(process["latencies_ms"] for process in rollout["processes"]):
        return "warm-up"
    low, high = (
        f"{10**power:g} ms" if power < 3 else f"{10 ** (power - 3):g} s" for power in _scale(rollout["processes"])
    )
    return f"warm-up, {low} to {high}"


def _spark(latencies: Sequence[float], scale: Scale, most: int) -> Html:
    """A bar for each request, on a logarithmic scale; of so many that they would not fit, the slowest of several."""
    if not latencies:
        return Html("")
    several = math.ceil(len(latencies) / min(most, SPARK_BARS))
    drawn = [max(latencies[n : n + several]) for n in range(0, len(latencies), several)]
    pitch = min(7.0, SPARK_WIDTH / len(drawn))
    low, high = scale

    def y(ms: float) -> str:
        share = (math.log10(max(ms, 0.01)) - low) / (high - low)
        return f"{SPARK_HEIGHT - max(1.0, SPARK_HEIGHT * share):.0f}"

    path = "".join(f"M{(n + 0.5) * pitch:.3g} {SPARK_HEIGHT}V{y(ms)}" for n, ms in enumerate(drawn))
    thin = f"stroke-width:{0.7 * pitch:.2g}" if pitch < 7 else ""
    return tag("svg", tag("path", d=path, style=thin), aria_hidden="true")


# --- the tables


def _at_first(process: View, rollout: View) -> str:
    return f"{process['spans'][0].begin:.1f}" if process["spans"] else ""


def _took(stage: str) -> Callable[[View, View], str]:
    return lambda process, rollout: f"{process['times'][stage]:.1f}" if stage in process["times"] else ""


def _first_ms(process: View, rollout: View) -> str:
    return ms(process["latencies_ms"][0]) if process["latencies_ms"] else ""


def _last_ms(process: View, rollout: View) -> str:
    known = process["latencies_ms"]
    return ms(known[-1]) if known and len(known) == process["requests"] else ""


def _number(key: str) -> Callable[[View, View], str]:
    return lambda process, rollout: f"{process[key]:.0f}" if process[key] else ""


COLUMNS: Sequence[tuple[str, Callable[[View, View], str]]] = (
    ("process", lambda process, rollout: name_tag(process["name"])),
    ("port", lambda process, rollout: _ports(process)),
    ("outcome", lambda process, rollout: standing(process, rollout["status"])),
    ("left at", _at_first),
    *((stage, _took(stage)) for stage in PAST),
    ("not available", lambda process, rollout: f"{process['away']:.1f}" if process["spans"] else ""),
    ("requests", _number("requests")),
    ("first", _first_ms),
    ("last", _last_ms),
    ("cut off", lambda process, rollout: str(cut_off(process) or "")),
    ("deaths", _number("deaths")),
    ("pid", lambda process, rollout: _pids(process)),
)
"""Of the table: a name, and what stands below it. What there is nothing of is left empty."""

COLUMNS_TEXT = (
    "Who left first comes first. In seconds: when it left, and how long it was in each stage and not available. In "
    "milliseconds: the first and the last request of its warm-up. Cut off: connections that its restart ended."
)

NARROW_TABLE = "@media screen and (max-width: 74rem) {%s}" % "".join(
    f'.wide td:nth-child({number})::before{{content:"{name} "}}' for number, (name, _) in enumerate(COLUMNS, 1)
)
"""In a window in which columns have no room each cell has the name of its column before it."""


def _tables(rollout: View) -> Html:
    parts = [tag("h2", "As a table", id="table", tabindex="-1"), _process_table(rollout), _change_table(rollout)]
    height = f"--tall:{33 * len(rollout['processes']) + 250}px"
    return tag("section", *parts, class_="tables", style=height, aria_label="As a table")


def _process_table(rollout: View) -> Html:
    heads = tag("tr", *(tag("th", name, scope="col") for name, _ in COLUMNS))
    rows = [_row([tell(process, rollout) for _, tell in COLUMNS]) for process in rollout["processes"]]
    table = tag("table", tag("caption", COLUMNS_TEXT), tag("thead", heads), tag("tbody", joined(rows, "\n")))
    return tag("div", table, class_="wide", role="region", aria_label="The processes, a table", tabindex="0")


def _row(cells: Sequence[str]) -> Html:
    return tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))


def _change_table(rollout: View) -> Html:
    changes = rollout["availability"]
    if not changes:
        return Html("")
    cut = f", the first {MAX_CHANGES} of {len(changes)} changes" if len(changes) > MAX_CHANGES else ""
    rows = [tag("tr", tag("td", f"{at:.2f}"), tag("td", f"{n:.0f}")) for at, n in changes[:MAX_CHANGES]]
    heads = tag("tr", tag("th", "from, s", scope="col"), tag("th", "available", scope="col"))
    caption = tag("caption", f"How many were available{cut}")
    table = tag("table", caption, tag("thead", heads), tag("tbody", *rows), class_="changes")
    return tag("details", tag("summary", f"How many were available, {counted(len(changes), 'line')}"), table)


# --- what every page has

HEAD = Html(
    '<meta charset="utf-8">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
    " base-uri 'none'; form-action 'none'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
)

FOOT = tag(
    "footer",
    tag(
        "p",
        "Seconds are counted from the beginning of the rollout. Open a lane to see each stage on its own scale. "
        "This page is complete: it runs no script and loads nothing.",
    ),
)
