"""A rollout as one page of HTML, made from its record.

What failed and what to do, a lane for every process on one axis of time, and all of it once more as a table. The page
runs no script and loads nothing, and its Content-Security-Policy says so. Names and reasons come from other programs:
whatever is put into a tag is escaped there.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from statistics import median
from typing import Any

from supervisor_rolling.core.lingering import count_text
from supervisor_rolling.core.log_messages import standing_word
from supervisor_rolling.ctl.quantities import clock, counted, duration_text, from_to, ms, utc
from supervisor_rolling.ctl.report_html import Html, items, joined, name_tag, pairs, tag
from supervisor_rolling.ctl.report_lanes import picture, pids_text, ports_text
from supervisor_rolling.ctl.report_record import read
from supervisor_rolling.ctl.report_words import forecast_text, outcome
from supervisor_rolling.ctl.rollout_lines import UNDER_WAY, continue_line, is_reached, next_steps

View = Mapping[str, Any]

STATUSES = {
    "done": ("✓", "done", ""),
    "failed": ("✕", "failed", "FAILED: "),
    "aborted": ("■", "aborted", "ABORTED: "),
    "running": ("▶", "running", ""),
    "lost": ("?", "end not known", "LOST: "),
}
"""A sign, a word, and how the heading begins."""

MAX_CHANGES = 1000
"""Changes of availability in the table."""

MAX_LISTED = 20
"""Failures that are shown before the rest is folded away."""


def page(record: Mapping[str, Any]) -> str:
    """The whole document. Raises ValueError for a record of another shape."""
    rollout = read(record)
    short = f"{rollout['replaced']} of {rollout['total']} replaced" if rollout["is_known"] else STATUSES["lost"][1]
    title = f"{rollout['group']}: rollout {rollout['id']}, {short}"
    head = joined([HEAD, tag("title", title), Html(f"<style>{_style()}</style>")])
    parts = (_top(rollout), _trouble(rollout), _facts(rollout), picture(rollout), _tables(rollout))
    body = joined([tag("main", *parts), FOOT])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


# --- the top


def _top(rollout: View) -> Html:
    sign, word, _ = STATUSES[rollout["status"]]
    badge = tag("span", tag("span", sign, aria_hidden="true"), f" {word}", class_=f"badge {rollout['status']}")
    kicker = tag("p", badge, f" rollout {rollout['id']} of ", name_tag(rollout["group"]), class_="kicker")
    title = tag("h1", name_tag(rollout["group"]), f": {_headline(rollout)}")
    return tag("header", kicker, title, pairs(_meta(rollout), "meta"))


def _headline(rollout: View) -> str:
    status, took = rollout["status"], duration_text(rollout["seconds"]).replace(" ", "\xa0")
    if not rollout["is_known"]:
        return f"LOST: started for {counted(rollout['total'], 'process', 'es')}; the rest is not known"
    when = {"running": f" so far, after {took}", "lost": f" in the first {took}; the rest is not known"}
    text = f"{STATUSES[status][2]}{rollout['replaced']} of {rollout['total']} replaced{when.get(status, f' in {took}')}"
    least = f"never fewer than {rollout['min_available']} of {rollout['size']}"
    return f"{text}, {least} {standing_word(rollout['min_ready_known'])}"


def _meta(rollout: View) -> list[tuple[str, object]]:
    began = utc(rollout["began"])
    is_known = began and rollout["status"] != "lost"
    ended = utc(rollout["began"] + rollout["seconds"] + rollout["interrupted"]) if is_known else None
    connection = ", ".join(filter(None, [rollout["client"], f"user {rollout['user']}" if rollout["user"] else ""]))
    return [
        ("Started", _moment(began)),
        ("Recorded" if rollout["status"] == "running" else "Ended", _moment(ended, began)),
        ("By", joined([name_tag(rollout["by"]), " (as the client says)"]) if rollout["by"] else None),
        ("Connection", name_tag(connection) if connection else None),
        ("At a time", rollout["limit"]),
        ("Forced", "yes, with --force" if rollout["force"] else None),
        *(("Interrupted", _rest_text(rest, rollout)) for rest in rollout["interruptions"]),
    ]


def _moment(when: datetime | None, before: datetime | None = None) -> Html | None:
    """A point in time: the day, unless it is the one before, and the time."""
    if when is None:
        return None
    day = "" if before and before.date() == when.date() else f"{when:%A} {when.day} {when:%B %Y}, "
    return tag("time", f"{day}{clock(when)}", datetime=f"{when:%Y-%m-%dT%H:%M:%S}Z")


def _rest_text(rest: Sequence[Any], rollout: View) -> str:
    """How long the rollout had ended before it was resumed, and why."""
    begin, end, why = rest
    at = utc(rollout["began"] + begin) if rollout["began"] > 0 else None
    text = f"{duration_text(end - begin)}{f' from {clock(at)}' if at else ''}, then resumed"
    return f"{text}; it had ended: {why}" if why else text


# --- what went wrong


def _trouble(rollout: View) -> Html:
    """What failed, why the rollout ended, and what to do; nothing if all is well."""
    bad = [(n, p) for n, p in enumerate(rollout["processes"]) if p["failed"] or p["stage"] == "failed"]
    todo = _todo(rollout, bool(bad))
    if not (bad or todo or rollout["why"]):
        return Html("")
    is_bad = bool(bad) or rollout["status"] == "failed"
    heads = {"aborted": "Why it ended", "lost": "Its end is not known"}
    head = "What failed" if is_bad else heads.get(rollout["status"], "Note")
    failures = [_failure(number, process) for number, process in bad]
    more = tag("summary", f"{len(failures) - MAX_LISTED} more")
    return tag(
        "section",
        tag("h2", head, id="trouble"),
        tag("p", rollout["why"]) if rollout["why"] else "",
        items("ul", failures[:MAX_LISTED]) if failures else "",
        tag("details", more, items("ul", failures[MAX_LISTED:])) if failures[MAX_LISTED:] else "",
        joined([tag("h3", "What to do"), items("ul", map(_command, todo))]) if todo else "",
        class_="trouble bad" if is_bad else "trouble",
        aria_labelledby="trouble",
    )


def _failure(number: int, process: View) -> Html:
    kind = "port" if process["ports"] else "socket"
    ports = f" ({kind} {ports_text(process)})" if is_reached(process) else ""
    killed = ", after it was killed" if process["killed"] and not process["why"] else ""
    link = tag("a", name_tag(process["name"]), href=f"#p{number}")
    return joined([link, f"{ports}: {process['why'] or 'no reason given'}{killed}"])


def _todo(rollout: View, is_bad: bool) -> list[str]:
    group, status = shlex.quote(rollout["group"]), rollout["status"]
    if status == "lost" or (status == "running" and is_bad):
        return [f"See the state now: supervisorctl rolling_status {group}"]
    if status == "failed" or is_bad:
        quoted = [{**process, "name": shlex.quote(process["name"])} for process in rollout["processes"]]
        return next_steps({**rollout, "group": group, "processes": quoted, "why": ""})
    return [continue_line(group)] if status == "aborted" and rollout["replaced"] < rollout["total"] else []


def _command(line: str) -> Html:
    """A line with its command set as one."""
    text, between, command = line.partition(": supervisorctl ")
    return joined([f"{text}: ", tag("code", f"supervisorctl {command}")]) if between else joined([line])


# --- the numbers


def _facts(rollout: View) -> Html:
    if not rollout["is_known"]:
        return Html("")
    took = "So far" if rollout["status"] == "running" else "Took"
    word = standing_word(rollout["min_ready_known"]).capitalize()
    least = f"{rollout['min_available']} of {rollout['size']}"
    facts = [
        (took, duration_text(rollout["seconds"]), forecast_text(rollout)),
        (f"{word}, at the least", least, f"{rollout['limit']} at a time"),
        *_process_facts(rollout["processes"]),
    ]
    return pairs([(name, joined([tag("b", value), tag("span", note)])) for name, value, note in facts], "facts")


def _process_facts(processes: Sequence[View]) -> list[tuple[str, str, str]]:
    """Names, values and notes."""
    facts = []
    away = [(process["away"], process["name"]) for process in processes if process["away"]]
    if away:
        longest, name = max(away, key=lambda one: one[0])
        typical = duration_text(median(seconds for seconds, _ in away))
        facts.append(("Not available, median", typical, f"longest {duration_text(longest)}: {name}"))
    known = [process["latencies_ms"] for process in processes if process["latencies_ms"]]
    if known:
        first_to_last = from_to(median(each[0] for each in known), median(each[-1] for each in known))
        number = counted(sum(process["requests"] for process in processes), "request")
        facts.append(("Warm-up, first → last", first_to_last, f"{number}, medians of {len(known)}"))
    cut = [cut_off(process) for process in processes if cut_off(process)]
    if cut:
        again = "; a client that reconnects counts at each restart" if len(cut) > 1 else ""
        facts.append(("Cut off by a restart", count_text(sum(cut)), f"of {counted(len(cut), 'process', 'es')}{again}"))
    return facts


def cut_off(process: View) -> int:
    """The connections that the restart of a process ended. None if no restart followed its last drain: that failed, was
    aborted, or has begun again."""
    last = [span.stage for span in process["spans"] if span.stage in ("draining", "restarting")][-1:]
    return int(process["lingering_connections"]) if last == ["restarting"] else 0


# --- the tables

Cell = Callable[[View, View], str]
"""From a process and its rollout to a cell."""


def _took(stage: str) -> Cell:
    return lambda process, rollout: f"{process['times'][stage]:.1f}" if stage in process["times"] else ""


def _number(key: str) -> Cell:
    return lambda process, rollout: f"{process[key]:.0f}" if process[key] else ""


def _last_ms(process: View, rollout: View) -> str:
    known = process["latencies_ms"]
    return ms(known[-1]) if known and len(known) == process["requests"] else ""


COLUMNS: Sequence[tuple[str, Cell]] = (
    ("process", lambda process, rollout: name_tag(process["name"])),
    ("port", lambda process, rollout: ports_text(process)),
    ("outcome", lambda process, rollout: outcome(process, rollout["status"])),
    ("closed at", lambda process, rollout: f"{process['spans'][0].begin:.1f}" if process["spans"] else ""),
    *((stage, _took(stage)) for stage in UNDER_WAY),
    ("not available", lambda process, rollout: f"{process['away']:.1f}" if process["spans"] else ""),
    ("requests", _number("requests")),
    ("first", lambda process, rollout: ms(process["latencies_ms"][0]) if process["latencies_ms"] else ""),
    ("last", _last_ms),
    ("cut off", lambda process, rollout: str(cut_off(process) or "")),
    ("deaths", _number("deaths")),
    ("pid", lambda process, rollout: pids_text(process)),
)
"""The heads of the table, and what stands below each."""

COLUMNS_TEXT = (
    "In the order in which they were closed. In seconds: when a process was closed, and how long it was in each stage "
    "and not available. In milliseconds: the first and the last request of its warm-up. Cut off: connections that its "
    "restart ended."
)


def _style() -> str:
    """report.css; and, for a narrow window, the name of its column before each cell of the table."""
    names = "".join(
        f'.wide td:nth-child({number})::before{{content:"{name} "}}' for number, (name, _) in enumerate(COLUMNS, 1)
    )
    style = (files(__package__) / "report.css").read_text(encoding="utf-8")
    return f"{style}@media screen and (max-width: 74rem) {{{names}}}"


def _tables(rollout: View) -> Html:
    parts = [tag("h2", "As a table", id="table", tabindex="-1"), _process_table(rollout), _change_table(rollout)]
    height = f"--tall:{33 * len(rollout['processes']) + 250}px"
    return tag("section", *parts, class_="tables", style=height, aria_label="As a table")


def _process_table(rollout: View) -> Html:
    rows = [[cell(process, rollout) for _, cell in COLUMNS] for process in rollout["processes"]]
    table = _table(COLUMNS_TEXT, [name for name, _ in COLUMNS], map(_row, rows))
    return tag("div", table, class_="wide", role="region", aria_label="The processes, a table", tabindex="0")


def _row(cells: Sequence[str]) -> Html:
    return tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))


def _change_table(rollout: View) -> Html:
    changes = rollout["availability"]
    if not changes:
        return Html("")
    cut = f", the first {MAX_CHANGES} of {len(changes)} changes" if len(changes) > MAX_CHANGES else ""
    rows = [tag("tr", tag("td", f"{at:.2f}"), tag("td", f"{n:.0f}")) for at, n in changes[:MAX_CHANGES]]
    table = _table(f"How many were available{cut}", ("from, s", "available"), rows, class_="changes")
    return tag("details", tag("summary", f"How many were available, {counted(len(changes), 'line')}"), table)


def _table(caption: str, heads: Sequence[str], rows: Iterable[Html], **attributes: object) -> Html:
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    body = tag("tbody", joined(rows, "\n"))
    return tag("table", tag("caption", caption), tag("thead", head), body, **attributes)


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
        "Seconds are counted from the start of the rollout. Open a lane to see each stage on its own scale. "
        "This page is complete: it runs no script and loads nothing.",
    ),
)
