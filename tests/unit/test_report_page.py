"""The page of a rollout, as a browser shows it: without a script, without a request, in light and dark, by keyboard and
by screen reader, from one process to a thousand, and whatever stands in the record."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver.common.keys import Keys

from supervisor_rolling.ctl.quantities import duration_text
from supervisor_rolling.ctl.report_html import Html, tag
from supervisor_rolling.ctl.report_page import cut_off, page
from supervisor_rolling.ctl.report_record import read
from supervisor_rolling.ctl.report_words import forecast_text, requests_text, words
from tests.support import chromium
from tests.support.chromium import Browser
from tests.support.report_records import (
    NOT_WARM,
    a_failed_rollout,
    a_lost_rollout,
    a_rollout,
    a_running_rollout,
    an_aborted_rollout,
)
from tests.support.variants import first

pytestmark = pytest.mark.needs("browser")

THEMES = ("light", "dark")

OPENED_WITHIN = 15.0
"""Seconds for a thousand processes; it takes one or two."""

MAX_BYTES = 2_200_000

VOID = {"meta", "br", "hr", "img", "input", "link"}

NAMES = "return [...document.querySelectorAll('.lanes .name bdi')].map(one => one.textContent)"
FOCUS = "return document.activeElement.closest('.lanes > li')?.id || ''"

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=http://127.0.0.1:9/x onerror='window.hacked = 1'>",
    "\"'><svg onload=window.hacked=1>",
    "</style></title><script>window.hacked = 1</script>",
    "&lt;script&gt;",
    "abc\u202edef\u2066\u200f",
    "שלום עולם",
    "\ud800\x00\x1b[31m",
    "x" * 300,
    "a b;$(reboot)`id`'",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


class Parsed(HTMLParser):
    """A document read strictly: each element ends where it has to. ``ids``, ``refers`` to ids, and ``tags``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.refers: set[str] = set()
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), "an attribute twice"
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.refers |= {given["href"][1:]} if given.get("href", "").startswith("#") else set()
        self.refers |= set(given.get("aria-labelledby", "").split())
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def parsed(text: str) -> Parsed:
    """The document, which has no id twice, and nothing refers to one that is not there."""
    found = Parsed(text)
    assert len(set(found.ids)) == len(found.ids)
    assert found.refers <= set(found.ids)
    return found


def text_of(browser: Browser, selector: str) -> str:
    """What stands there, spaces made one; empty where there is no such element."""
    text = browser.run("return document.querySelector(arguments[0])?.innerText || ''", selector)
    return re.sub(r"\s+", " ", text).strip()


def lanes_with(browser: Browser, selector: str) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector))


# --- nothing is loaded, nothing runs


def test_page_loads_nothing_and_logs_nothing(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    assert browser.asked_for() == []
    assert browser.complaints() == []


def test_page_forbids_loading_and_scripts(browser: Browser) -> None:
    browser.show(page(a_rollout()))
    forbidden = browser.run_until(
        """
        const done = arguments[arguments.length - 1], found = [];
        document.addEventListener('securitypolicyviolation', event => {
            found.push(event.effectiveDirective);
            if (found.length === 3) done(found.sort());
        });
        for (const [name, key, value] of [['img', 'src', 'http://127.0.0.1:9/'], ['script', 'src', 'data:,1'],
                                          ['link', 'href', 'http://127.0.0.1:9/']]) {
            const one = document.createElement(name);
            one[key] = value;
            if (name === 'link') one.rel = 'stylesheet';
            document.head.append(one);
        }"""
    )
    assert forbidden == ["img-src", "script-src-elem", "style-src-elem"]


def test_page_depends_on_the_record_only() -> None:
    assert page(a_rollout(40)) == page(json.loads(json.dumps(a_rollout(40))))


@pytest.mark.parametrize(
    "record",
    [a_rollout(), a_failed_rollout(), a_rollout(61, 3), a_rollout(0, min_available=0)],
    ids=["8", "failed", "61", "none"],
)
def test_document_is_well_formed_with_valid_references(record: dict[str, Any]) -> None:
    found = parsed(page(record))
    assert not {"script", "img", "link", "iframe", "form"} & set(found.tags)
    assert found.tags.count("h1") == found.tags.count("main") == 1


# --- the story


def test_heading_is_the_result(browser: Browser) -> None:
    browser.show(page(a_rollout(8, seconds=14.3, forecast=13.9)))
    assert text_of(browser, "h1") == "app: 8 of 8 replaced in 14.3 s, never fewer than 7 of 8 available"
    assert "forecast 13.9 s: 0.4 s more (3%)" in text_of(browser, ".facts")


def test_header_has_user_and_machine_readable_time(browser: Browser) -> None:
    browser.show(page(a_rollout()))
    told = text_of(browser, "header .meta")
    assert told.startswith("Started Tuesday 24 November 2026, 19:25:07 UTC Ended 19:25:2")
    assert "By root@web1 (as the client says) Connection unix socket, user root At a time 1" in told
    assert browser.run("return document.querySelector('time').dateTime") == "2026-11-24T19:25:07Z"


def test_failure_is_at_the_top_with_commands(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    assert text_of(browser, "h1").startswith("app: FAILED: 2 of 8 replaced in 6.4 s")
    assert text_of(browser, ".trouble") == (
        f"What failed app-8002 (port 8002): {NOT_WARM} What to do Not warm when the rollout ended: "
        "app-8002 (port 8002) See the state now: supervisorctl rolling_status app "
        "See why: supervisorctl tail app:app-8002 stderr "
        "Fix the problem, then resume: supervisorctl rolling_resume app"
    )
    assert lanes_with(browser, ".bad .name") == ["✕ app-8002"]
    assert f"FAILED: {NOT_WARM}" in text_of(browser, ".bad .words")
    assert "not replaced" in text_of(browser, "#p7 .words")


def test_link_of_a_failure_shows_its_lane(browser: Browser) -> None:
    browser.show(page(a_failed_rollout(60, 50)), height=600)
    browser.run("document.querySelector('.trouble a').click()")
    browser.run_until("setTimeout(arguments[0], 1000)")  # it scrolls, where that is not unwanted
    top, bottom = browser.run(
        "const box = document.querySelector(':target').getBoundingClientRect(); return [box.top, box.bottom]"
    )
    assert browser.run("return document.querySelector('.axis').getBoundingClientRect().bottom") <= top + 1
    assert bottom <= 600


def test_aborted_rollout_has_reason_and_command(browser: Browser) -> None:
    browser.show(page(an_aborted_rollout()))
    assert text_of(browser, ".badge") == "■ aborted"
    assert text_of(browser, ".trouble") == (
        "Why it ended aborted by root@web1 What to do To continue with the others: supervisorctl rolling_resume app"
    )


def test_running_rollout_has_progress(browser: Browser) -> None:
    browser.show(page(a_running_rollout()))
    assert text_of(browser, "h1").startswith("app: 3 of 8 replaced so far, after 8.6 s")
    assert text_of(browser, ".facts").startswith("So far 8.6 s forecast 14.0 s, about 5.4 s left")
    assert text_of(browser, "#p3 .words") == "drained 0.5 s · started 1.0 s · warming for 0.5 s"
    assert text_of(browser, "#p4 .words") == "not yet replaced"
    assert text_of(browser, ".trouble") == ""


def test_lost_rollout_says_that_its_end_is_unknown(browser: Browser) -> None:
    browser.show(page({**an_aborted_rollout(), "status": "lost", "why": ""}))
    assert text_of(browser, "h1").startswith("app: LOST: 3 of 8 replaced in the first 6.6 s; the rest is not known")
    assert text_of(browser, ".trouble").endswith("See the state now: supervisorctl rolling_status app")


def test_rollout_with_known_start_only_has_no_numbers(browser: Browser) -> None:
    browser.show(page(a_lost_rollout()))
    assert text_of(browser, "h1") == "app: LOST: started for 8 processes; the rest is not known"
    assert browser.run("return document.title") == "app: rollout 12, end not known"
    whole = text_of(browser, "main")
    assert "Only the start was recorded: what happened to the processes is not known." in whole
    assert "0 of 8" not in whole
    assert "0.0 s" not in whole
    assert "8 of 8" not in whole
    outcomes = browser.run("return [...document.querySelectorAll('.wide td:nth-child(3)')].map(one => one.textContent)")
    assert set(outcomes) == {"not known to be replaced"}


def test_more_than_twenty_failures_are_folded(browser: Browser) -> None:
    record = a_rollout(30, status="failed")
    for process in record["processes"]:
        process.update(failed=True, why=NOT_WARM)
    browser.show(page(record))
    assert browser.run("return document.querySelectorAll('.trouble > ul:first-of-type > li').length") == 20
    assert text_of(browser, ".trouble summary") == "10 more"


# --- words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (14.3, "14.3 s"), (119.94, "119.9 s"), (125, "2 min 5 s"), (180, "3 min"), (7380, "2 h 3 min")],
)
def test_durations_have_readable_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_warm_up_has_other_statuses_than_200() -> None:
    process = {"requests": 3, "latencies_ms": [894.0, 5.0, 4.0], "statuses": [302, 200, 302]}
    assert requests_text(process) == "3 requests, 894 → 4 ms, statuses 200 x 1, 302 x 2"


@pytest.mark.parametrize(
    ("requests", "latencies", "text"),
    [
        (11, [894.0, 12.1] * 5 + [12.4], "11 requests, 894 → 12 ms"),
        (1, [0.4], "1 request, 0.4 ms"),
        (250, [894.0] * 99 + [3.0], "250 requests, the first 100, 894 → 3 ms"),
        (2, [43529.0, 9.0], "2 requests, 43.5 s → 9 ms"),
        (3, [], "3 requests"),
        (0, [], ""),
    ],
)
def test_warm_up_in_numbers(requests: int, latencies: list[float], text: str) -> None:
    assert requests_text({"requests": requests, "latencies_ms": latencies, "statuses": []}) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"forecast": 0}, "no forecast"),
        ({"forecast": 14.3}, "forecast 14.3 s"),
        ({"forecast": 20.0}, "forecast 20.0 s: 5.7 s less (28%)"),
        ({"forecast": 20.0, "status": "failed"}, "forecast 20.0 s"),
        ({"forecast": 10.0, "status": "running"}, "forecast 10.0 s"),
    ],
)
def test_forecast_has_its_error(changes: dict[str, Any], text: str) -> None:
    assert forecast_text(read(a_rollout(seconds=14.3, **changes))) == text


def test_only_connections_ended_by_a_restart_are_cut_off(browser: Browser) -> None:
    record = a_rollout(2)
    ended, kept = record["processes"]
    ended.update(lingering_connections=3)
    kept.update(replaced=False, failed=True, lingering_connections=5, stages=[["draining", 2.5], ["open", 4.0]])
    browser.show(page(record))
    assert "Cut off by a restart 3 connections of 1 process" in text_of(browser, ".facts")
    cells = browser.run("return [...document.querySelectorAll('.wide td:nth-child(13)')].map(one => one.textContent)")
    assert cells == ["3", ""]
    kept.update(replaced=True, failed=False, stages=[["draining", 2.5], ["restarting", 4.0], ["open", 5.0]])
    browser.show(page(record))
    selected = "Cut off by a restart 8 connections of 2 processes; a client that reconnects counts at each restart"
    assert selected in text_of(browser, ".facts")


@pytest.mark.parametrize(
    ("last", "number"), [("draining", 0), ("open", 0), ("restarting", 5)], ids=["drains again", "aborted", "restarted"]
)
def test_repeated_drain_cuts_its_connections_once(last: str, number: int) -> None:
    record = a_rollout(1)
    stages = [["draining", 1.0], ["restarting", 3.0], ["draining", 4.0], [last, 6.0]]
    record["processes"][0].update(lingering_connections=5, stages=stages)
    assert cut_off(read(record)["processes"][0]) == number


def test_lanes_have_stages_and_failures() -> None:
    record = a_failed_rollout()
    left, killed = record["processes"][:2]
    killed.update(killed=True, stopped=0.8, started=0.7)
    left.update(
        replaced=False,
        failed=True,
        why="still had 3 connections",
        lingering_connections=3,
        stages=[["draining", 0.5], ["open", 3.0]],
        **dict.fromkeys(("drained", "started", "warmed"), 0.0),
    )
    told = {process["name"]: words(process, "failed") for process in read(record)["processes"]}
    assert "stopped 0.8 s (killed) · started 0.7 s · warmed 0.6 s" in told["app-8001"]
    assert "started 1.0 s · FAILED: is not warm" in told["app-8002"]
    assert told["app-8000"] == "FAILED: still had 3 connections"


# --- the picture


def test_legend_of_workers_speaks_of_no_port() -> None:
    record = a_failed_rollout()
    assert "closed, receives no traffic" in page(record)
    for process in record["processes"]:
        process["ports"] = []
    assert "closed, " not in page(record).partition('class="legend"')[2].partition("</ul>")[0]
    assert "the old process finishes its job and stops, a new one starts" in page(record)


def test_bars_match_their_stages(browser: Browser) -> None:
    record = a_rollout(8, slow=10)
    browser.show(page(record))
    boxes = browser.run(
        """return [...document.querySelectorAll('.lanes > li')].map(lane => {
            const track = lane.querySelector('.track').getBoundingClientRect();
            return [...lane.querySelectorAll('.track i')].map(bar => {
                const box = bar.getBoundingClientRect();
                return [bar.className, box.left - track.left, box.width, track.width];
            });
        })"""
    )
    for process, bars in zip(record["processes"], boxes):
        ends = [at for _, at in process["stages"][1:]] + [record["seconds"]]
        for (stage, begin), end, (kind, left, width, track) in zip(process["stages"], ends, bars):
            assert kind == ("new" if stage == "open" else stage)
            assert left == pytest.approx(begin / record["seconds"] * track, abs=0.5)
            assert width == pytest.approx(max(3, (end - begin) / record["seconds"] * track), abs=0.5)


def test_legend_has_each_kind_of_bar(browser: Browser) -> None:
    names = "return [...document.querySelectorAll('.legend b')].map(one => one.innerText)"
    done = ["draining", "restarting", "warming", "ready", "open, old", "open, new"]
    browser.show(page(a_rollout()))
    assert browser.run(names) == done
    browser.show(page(a_failed_rollout()))
    assert browser.run(names) == [*done[:4], "failed", *done[4:]]
    browser.show(page(a_failed_rollout(8, 0)))
    assert browser.run(names) == [*done[:3], "failed", "open, old"]


def test_very_short_stage_is_visible(browser: Browser) -> None:
    browser.show(page(a_rollout(40, slow=60)))
    widths = browser.run(
        "return [...document.querySelectorAll('.track i')].map(bar => bar.getBoundingClientRect().width)"
    )
    assert min(widths) >= 3


def test_lanes_axis_and_line_share_the_time_axis(browser: Browser) -> None:
    for width in (1400, 800, 360):
        browser.show(page(a_rollout()), width=width)
        boxes = browser.run(
            """return ['.steps', '.ticks', '#p0 .track', '#p7 .track'].map(one => {
                const box = document.querySelector(one).getBoundingClientRect();
                return [Math.round(box.left), Math.round(box.width)];
            })"""
        )
        assert len({tuple(box) for box in boxes}) == 1, (width, boxes)


@pytest.mark.parametrize("width", first(2, [320, 1249, 400, 800, 961, 1400]))
def test_ticks_do_not_overlap(browser: Browser, width: int) -> None:
    for record in (a_rollout(1000, 20), a_rollout(40, slow=60), a_rollout(8, seconds=7000.0), a_rollout(1)):
        browser.show(page(record), width=width)
        boxes = browser.run(
            """return [...document.querySelectorAll('.ticks span')].map(one => one.getBoundingClientRect())
                .filter(box => box.width).map(box => [box.left, box.right])"""
        )
        assert [one for one, other in zip(boxes, boxes[1:]) if one[1] + 3 > other[0]] == []


def test_axis_stays_visible_while_scrolling(browser: Browser) -> None:
    browser.show(page(a_rollout(40)), height=600)
    browser.run("document.querySelector('#p30').scrollIntoView()")
    browser.run_until("setTimeout(arguments[0], 1000)")
    assert browser.run("return document.querySelector('.axis').getBoundingClientRect().top") == 0


def test_line_steps_at_each_change() -> None:
    text = page(a_rollout(2, seconds=10.0, availability=[[0.0, 2], [1.0, 1], [4.0, 2], [4.0, 1], [5.0, 2]]))
    assert 'd="M0 0H100V50H400V50H500V0H1000" class="line"' in text


def test_scale_of_large_group_starts_below_minimum(browser: Browser) -> None:
    browser.show(page(a_rollout(1000, 20)))
    assert text_of(browser, ".scale").split() == ["1000", "959"]
    label = browser.run("return document.querySelector('.steps svg').getAttribute('aria-label')")
    assert label == "Available processes: at most 1000, at least 980. The scale starts at 959."


def test_each_warm_up_request_has_a_bar() -> None:
    record = a_rollout(1)
    record["processes"][0].update(requests=4, latencies_ms=[1000.0, 100.0, 10.0, 1.0])
    heights = [20 - int(y) for y in re.findall(r"M[\d.]+ 20V(\d+)", page(record))]
    assert heights == [20, 13, 7, 1]


def test_long_warm_up_shows_the_slowest_requests() -> None:
    record = a_rollout(1)
    record["processes"][0].update(requests=1000, latencies_ms=[10.0] * 99 + [1000.0])
    bars = re.findall(r"M[\d.]+ 20V(\d+)", page(record))
    assert len(bars) == 34
    assert bars[-1] == "0"


def test_opened_lane_has_its_own_scale(browser: Browser) -> None:
    record = a_rollout(40, slow=60)
    browser.show(page(record))
    browser.run("document.querySelector('#p5 summary').click()")
    boxes = browser.run(
        """return [...document.querySelectorAll('#p5 .stages i')].map(bar => {
            const box = bar.getBoundingClientRect();
            return [box.left, box.right];
        })"""
    )
    seconds = [at for _, at in record["processes"][5]["stages"]]
    left, right = boxes[0][0], boxes[-1][1]
    for (begin, end), at, until in zip(boxes, seconds, seconds[1:]):
        scale = (right - left) / (seconds[-1] - seconds[0])
        assert begin - left == pytest.approx((at - seconds[0]) * scale, abs=4)
        assert end - left == pytest.approx((until - seconds[0]) * scale, abs=4)
    assert text_of(browser, "#p5 .stages").startswith("draining 1.0 s from 8 min 40 s, 19:33:47 UTC restarting 59.3 s")
    assert "Port 8005 Pid 28005 → 29005 Warm-up requests, ms" in text_of(browser, "#p5 .more")


# --- colours

CONTRASTS = """
const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const shine = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
const over = (top, below) => top.slice(0, 3).map((v, n) => v * (top[3] ?? 1) + below[n] * (1 - (top[3] ?? 1)));
const behind = element => {
    const found = [];
    for (let one = element; one; one = one.parentElement) found.push(parts(getComputedStyle(one).backgroundColor));
    return found.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const contrast = (a, b) => {
    const [x, y] = [shine(a), shine(b)].sort((p, q) => q - p);
    return (x + .05) / (y + .05);
};
const seen = element => element.getClientRects().length && getComputedStyle(element).visibility === 'visible';
"""

TEXTS = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !seen(element)) continue;
    found.push([contrast(parts(getComputedStyle(element).color), behind(element)), node.data, element.className]);
}
return found;
"""

MARKS = """
const found = [];
for (const bar of document.querySelectorAll('.legend i, .track i, .stages i')) {
    const colour = getComputedStyle(bar).getPropertyValue('--c').trim();
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.color = colour;
    const card = behind(bar.closest('.picture'));
    found.push([contrast(parts(getComputedStyle(probe).color), card), bar.className]);
    probe.remove();
}
for (const path of document.querySelectorAll('path.line, .warm path'))
    found.push([contrast(parts(getComputedStyle(path).stroke), behind(path.ownerSVGElement)), path.className.baseVal]);
return found;
"""


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("record", [a_rollout(), a_failed_rollout()], ids=["done", "failed"])
def test_text_has_enough_contrast(browser: Browser, record: dict[str, Any], theme: str) -> None:
    browser.show(page(record), prefers_color_scheme=theme)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    texts = browser.run(CONTRASTS + TEXTS)
    assert len(texts) > 150
    assert [one for one in texts if one[0] < 4.5] == []


@pytest.mark.parametrize("theme", THEMES)
def test_bars_and_lines_have_enough_contrast(browser: Browser, theme: str) -> None:
    browser.show(page(a_failed_rollout()), prefers_color_scheme=theme)
    marks = browser.run(CONTRASTS + MARKS)
    assert {"draining", "restarting", "warming", "ready", "failed", "old", "new", "line"} <= {one[1] for one in marks}
    assert [one for one in marks if one[0] < 3] == []


@pytest.mark.parametrize("theme", THEMES)
def test_theme_follows_the_reader(browser: Browser, theme: str) -> None:
    browser.show(page(a_rollout()), prefers_color_scheme=theme)
    light = browser.run(CONTRASTS + "return shine(behind(document.querySelector('.picture')))")
    assert light > 0.9 if theme == "light" else light < 0.05


SIMULATED = {
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
"""Machado, Oliveira and Fernandes (2009), for linear RGB, at full severity."""


def as_seen(colour: str, kind: str) -> tuple[float, float, float]:
    """A colour as a reader with that kind of colour blindness sees it, in CIE L*a*b*, where distance is difference."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    r, g, b = (min(1.0, max(0.0, sum(m * c for m, c in zip(row, linear)))) for row in SIMULATED[kind])
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("kind", SIMULATED)
@pytest.mark.parametrize("theme", THEMES)
def test_colour_blind_readers_can_distinguish_stages(browser: Browser, theme: str, kind: str) -> None:
    browser.show(page(a_rollout()), prefers_color_scheme=theme)
    names = ("draining", "restarting", "warming", "ready", "failed", "new")
    style = "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0]).trim()"
    colours = {name: as_seen(browser.run(style, name), kind) for name in names}
    distances = {
        (one, other): sum((a - b) ** 2 for a, b in zip(colours[one], colours[other])) ** 0.5
        for one, other in itertools.combinations(names, 2)
    }
    assert {pair: distance for pair, distance in distances.items() if distance < 15} == {}


def test_patterns_distinguish_stages_without_colour(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    looks = browser.run(
        """return [...document.querySelectorAll('.legend i')].map(one => {
            const style = getComputedStyle(one), grey = text => text.replace(/rgba?\\([^)]*\\)/g, 'c');
            return [grey(style.backgroundImage), style.height, style.borderStyle,
                    style.backgroundColor === style.borderColor].join(' ');
        })"""
    )
    assert len(looks) == 7
    assert len(set(looks)) == 7


# --- keyboard


@pytest.mark.parametrize("number", [8, 61])
def test_tab_reaches_every_lane(browser: Browser, number: int) -> None:
    browser.show(page(a_rollout(number)))
    browser.run("document.querySelector('.skip').focus()")
    for lane in range(number):
        browser.press(Keys.TAB)
        assert browser.run(FOCUS) == f"p{lane}"
        left, right, top, bottom = browser.run(
            """const box = document.activeElement.querySelector('.words').getBoundingClientRect();
            return [box.left, box.right, box.top, box.bottom]"""
        )
        assert right - left > 100
        assert bottom - top > 12


def test_focus_is_visible_below_the_axis(browser: Browser) -> None:
    browser.show(page(a_rollout(40)), height=500, prefers_reduced_motion="reduce")
    browser.run("document.querySelector('#p39 summary').focus()")
    for _ in range(30):
        browser.press(Keys.TAB, held=Keys.SHIFT)
        top, axis, outline = browser.run(
            """return [document.activeElement.getBoundingClientRect().top,
                document.querySelector('.axis').getBoundingClientRect().bottom,
                getComputedStyle(document.activeElement).outlineWidth]"""
        )
        assert top >= axis - 1
        assert outline == "3px"


def test_enter_opens_and_closes_a_lane(browser: Browser) -> None:
    browser.show(page(a_rollout()))
    browser.run("document.querySelector('#p3 summary').focus()")
    browser.press(Keys.ENTER)
    assert "warming" in text_of(browser, "#p3 .more")
    browser.press(Keys.ENTER)
    assert text_of(browser, "#p3 .more") == ""


def test_link_skips_the_lanes(browser: Browser) -> None:
    browser.show(page(a_rollout(1000, 20)), prefers_reduced_motion="reduce")
    browser.run("document.querySelector('.skip').focus()")
    assert text_of(browser, ".skip") == "Skip 1000 lanes, to the table"
    browser.press(Keys.ENTER)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "wide"


def test_wide_table_scrolls_by_keyboard(browser: Browser) -> None:
    record = a_rollout()
    record["processes"][0].update(latencies_ms=[10.0**14], requests=2**31 - 1, deaths=2**31 - 1, pid=2**31 - 1)
    browser.show(page(record), width=1190, prefers_reduced_motion="reduce")
    browser.run("document.querySelector('.wide').focus()")
    browser.press(Keys.ARROW_RIGHT)
    browser.run_until("setTimeout(arguments[0], 500)")
    assert browser.run("return document.querySelector('.wide').scrollLeft") > 0


# --- screen readers


def test_focusable_elements_and_pictures_have_names(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    nodes = browser.accessible()
    named = {"link", "image", "table", "heading", "columnheader", "rowheader"}
    assert len([node for node in nodes if node["focusable"]]) > 10
    assert [node for node in nodes if (node["focusable"] or node["role"] in named) and not node["name"]] == []


def test_screen_reader_reads_name_words_and_numbers(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    lanes = [node["name"] for node in browser.accessible() if node["name"].startswith("app-") and "·" in node["name"]]
    assert lanes[0] == (
        "app-8000 drained 0.3 s · started 1.1 s · warmed 0.6 s · open not available 2.2 s 11 requests, 811 → 12 ms"
    )
    assert lanes[2].startswith(f"app-8002 drained 0.4 s · started 1.0 s · FAILED: {NOT_WARM} not available 2.4 s")


def test_headings_structure_the_page(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()))
    levels = browser.run("return [...document.querySelectorAll('h1,h2,h3')].map(one => one.tagName + one.innerText)")
    assert [one[:2] for one in levels] == ["H1", "H2", "H3", "H2", "H2"]


def test_table_has_all_of_the_picture(browser: Browser) -> None:
    browser.show(page(a_rollout(2)))
    rows = browser.run(
        "return [...document.querySelectorAll('.wide tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    told = dict(zip(rows[0], rows[2]))
    assert told["process"] == "app-8001"
    assert told["outcome"] == "open"
    assert told["pid"] == "28001 →\xa029001"
    assert (told["cut off"], told["deaths"]) == ("", "")
    assert {len(row) for row in rows} == {15}
    scopes = browser.run("return [...document.querySelectorAll('th')].map(one => one.scope)")
    assert set(scopes) == {"col", "row"}
    assert browser.run("return document.querySelectorAll('table caption').length") == 2


# --- sizes


def a_wide_rollout() -> dict[str, Any]:
    """One with something to tell in every column, and much of it."""
    record = a_failed_rollout()
    for process in record["processes"]:
        process.update(name=f"application-{process['name']}", deaths=12, lingering_connections=1234, requests=100000)
        process.update(old_pid=4194303, pid=4194304, ports=[8000, 9000], latencies_ms=[123456.0] * 3)
        process["stages"] = [[stage, at * 700] for stage, at in process["stages"]]
    return {**record, "seconds": 4500.0}


@pytest.mark.parametrize("theme", [THEMES[0], pytest.param(THEMES[1], marks=pytest.mark.soak)])
@pytest.mark.parametrize("width", first(3, [320, 1184, 1185, 400, 800, 1200, 1400]))
@pytest.mark.parametrize("record", [a_wide_rollout(), a_rollout(1000, 20)], ids=["wide", "1000"])
def test_table_fits_every_window(browser: Browser, record: dict[str, Any], width: int, theme: str) -> None:
    browser.show(page(record), width=width, prefers_color_scheme=theme)
    browser.run("document.querySelector('.tables').scrollIntoView()")
    assert browser.run("const one = document.querySelector('.wide'); return one.scrollWidth - one.clientWidth") <= 0
    out = """const right = document.querySelector('.wide').getBoundingClientRect().right;
        return [...document.querySelectorAll('.wide tbody tr:nth-child(-n+3) > *')]
            .filter(one => one.getBoundingClientRect().right > right + 1).map(one => one.innerText)"""
    assert browser.run(out) == []


def test_narrow_table_names_each_cell(browser: Browser) -> None:
    browser.show(page(a_failed_rollout()), width=800)
    said = browser.run(
        """return [...document.querySelectorAll('.wide tbody tr:nth-child(3) td')].filter(one => one.clientWidth)
            .map(one => getComputedStyle(one, '::before').content.slice(1, -1) + one.innerText)"""
    )
    assert said == [
        *("port 8002", f"outcome FAILED: {NOT_WARM}", "closed at 4.0", "draining 0.4", "restarting 1.0", "warming 0.7"),
        *("not available 2.4", "requests 1", "first 12", "last 12", "pid 28002 →\xa029002"),
    ]


@pytest.mark.parametrize("width", [320, 360, 640, 800, 1100, 1400, 2400])
@pytest.mark.parametrize(
    "record",
    [a_failed_rollout(), a_rollout(1000, 20), a_rollout(40, slow=60), a_rollout(1)],
    ids=["failed", "1000", "long", "1"],
)
def test_page_fits_every_window(browser: Browser, record: dict[str, Any], width: int) -> None:
    browser.show(page(record), width=width)
    browser.run("[...document.querySelectorAll('.lanes details')].slice(0, 5).forEach(one => one.open = true)")
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_thousand_processes_open_quickly(browser: Browser) -> None:
    text = page(a_rollout(1000, 20))
    assert len(text.encode()) < MAX_BYTES
    began = time.monotonic()
    browser.show(text)
    assert len(browser.run(NAMES)) == 1000
    assert time.monotonic() - began < OPENED_WITHIN
    assert browser.run("return document.querySelector('.overview svg').getBoundingClientRect().height") < 400
    assert 10 <= len(lanes_with(browser, "nav a")) <= 20


def test_thousand_long_warm_ups_stay_small() -> None:
    record = a_rollout(1000, 20)
    for process in record["processes"]:
        process.update(requests=5000, latencies_ms=[894.5, *([12.3] * 99)])
    assert len(page(record).encode()) < MAX_BYTES * 1.15


def test_one_failure_is_visible_among_a_thousand(browser: Browser) -> None:
    browser.show(page(a_failed_rollout(1000, 500)))
    thick = browser.run(
        """const path = document.querySelector('.overview path.failed'), picture = path.ownerSVGElement;
        return parseFloat(getComputedStyle(path).strokeWidth) * picture.getBoundingClientRect().height / 1000"""
    )
    assert thick > 2


def test_long_words_are_whole_below_the_lane(browser: Browser) -> None:
    record = a_failed_rollout()
    record["processes"][2]["why"] = f"{NOT_WARM}; " * 8
    for width in (360, 800, 1249, 1300, 1400):
        browser.show(page(record), width=width)
        cut = browser.run(
            """return [...document.querySelectorAll('.words')].filter(one => one.scrollWidth > one.clientWidth + 1)
                .map(one => one.innerText)"""
        )
        assert cut == [], width


def test_single_process_uses_the_whole_width(browser: Browser) -> None:
    browser.show(page(a_rollout(1, min_available=0)))
    assert text_of(browser, "h1").endswith("never fewer than 0 of 1 available")
    assert len(lanes_with(browser, ".lanes > li")) == 1


def test_axis_has_few_ticks_for_any_duration(browser: Browser) -> None:
    for seconds in (0.05, 1.0, 59.0, 119.0, 700.0, 7000.0, 80000.0, 4e6):
        browser.show(page(a_rollout(1, seconds=seconds)))
        assert 3 <= len(lanes_with(browser, ".ticks span")) <= 12, seconds


# --- whatever stands in the record


def test_text_in_a_tag_is_escaped() -> None:
    assert tag("p", "<&", tag("b", "'"), title='">', class_="") == '<p title="&quot;&gt;">&lt;&amp;<b>&#x27;</b></p>'
    assert tag("p", Html("<br>")) == "<p><br></p>"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_and_reasons_stay_text(browser: Browser, text: str) -> None:
    record = a_failed_rollout(8)
    record.update(group=text, by=text, user=text, client=text, why=text)
    for process in record["processes"]:
        process.update(name=text, why=text, failed=True)
    clean = page(a_failed_rollout(8))
    browser.show(page(record), width=360)
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.scripts.length + document.images.length") == 0
    assert browser.asked_for() == []
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert set(parsed(page(record)).tags) <= set(parsed(clean).tags) | {"details", "ul", "li"}
    if text.isprintable():
        assert set(browser.run(NAMES)) == {text}
    assert "\u202e" not in page(record)
    assert "\x1b" not in page(record)


def test_commands_are_quoted_for_a_shell(browser: Browser) -> None:
    record = a_failed_rollout()
    record["processes"][2]["name"] = "a;reboot"
    browser.show(page({**record, "group": "a b"}))
    assert "supervisorctl tail 'a b':'a;reboot' stderr" in text_of(browser, ".trouble")
    assert "supervisorctl rolling_resume 'a b'" in text_of(browser, ".trouble")


def test_resumed_rollout_has_interruption_and_real_times() -> None:
    record = a_failed_rollout()
    interruptions = [[2.0, 302.0, "app-8001 is not warm"]]
    told = page({**record, "seconds": 10.0, "interrupted": 300.0, "interruptions": interruptions})
    began = datetime.fromtimestamp(record["began"], timezone.utc)
    assert f"5 min from {began + timedelta(seconds=2):%H:%M:%S} UTC, then resumed; it had ended: app-8001" in told
    assert f'datetime="{began + timedelta(seconds=310):%Y-%m-%dT%H:%M:%S}Z"' in told


def test_process_never_closed_has_no_bars(browser: Browser) -> None:
    browser.show(page(an_aborted_rollout()))
    assert browser.run("return document.querySelectorAll('#p7 .track i').length") == 0
    browser.run("document.querySelector('#p7 summary').click()")
    assert text_of(browser, "#p7 .more").startswith("It was never closed.")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["open", "warming"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_valid_record_is_a_well_formed_page(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from([a_rollout(2), a_failed_rollout(3, 1), a_running_rollout(3, 1)]))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = record
        key: Any = data.draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 3)):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = data.draw(VALUES)
    with contextlib.suppress(ValueError):  # it is not a record
        parsed(page(record))


# --- the medium


def test_print_is_light_and_complete(browser: Browser) -> None:
    browser.show(page(a_rollout()), width=1000, media="print", prefers_color_scheme="dark")
    assert browser.run("return getComputedStyle(document.querySelector('.axis')).position") == "static"
    assert browser.run(CONTRASTS + "return shine(behind(document.querySelector('.picture')))") > 0.9
    assert browser.run("return document.documentElement.scrollWidth") <= 1000
    assert len(browser.tell("Page.printToPDF")["data"]) > 10000


def test_reduced_motion_is_respected(browser: Browser) -> None:
    smooth = "return getComputedStyle(document.documentElement).scrollBehavior"
    browser.show(page(a_rollout()), prefers_reduced_motion="reduce")
    assert browser.run(smooth) == "auto"
    browser.show(page(a_rollout()), prefers_reduced_motion="no-preference")
    assert browser.run(smooth) == "smooth"


def test_more_contrast_is_respected(browser: Browser) -> None:
    browser.show(page(a_rollout()), prefers_contrast="more")
    texts = browser.run(CONTRASTS + TEXTS)
    assert [one for one in texts if one[0] < 6] == []


# --- the browser


def test_missing_chromium_names_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    started = chromium.chromium(tmp_path)
    with pytest.raises(chromium.NoChromiumError, match="apt-get install chromium chromium-driver"):
        started.__enter__()
