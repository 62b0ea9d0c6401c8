"""The benchmark's arithmetic: what counts as served, late, failed; its goals, table and picture."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import bound, goals, picture, publish, results
from tests.benchmarks.measuring import before
from tests.benchmarks.results import Latencies, Result
from tests.benchmarks.watching import ProcessTime, busy, heaviest, least, lives
from tests.support.load import Answer
from tests.support.site.life import LEAVING, UP, Note
from tests.support.stack import ROOT

STARTSECS = 1.0
BEGAN = 1000.0
SVG = "{http://www.w3.org/2000/svg}"

RESULT = Result(
    size=8,
    way="ours",
    about="rolling & restarting",
    side="ours",
    seconds=10.0,
    requests=1000,
    gets_failed=0,
    posts_failed=0,
    cold=0,
    failures={},
    before=Latencies(0.004, 0.010, 0.030),
    during=Latencies(0.005, 0.011, 0.040),
    least=7,
    megabytes=500.0,
    cpu={"listener": 0.5, "commands": 0.4},
    late=0.001,
    busy=(0.4, 0.8),
    rate=100.0,
    machine={"processors": "2"},
    when="2026-01-01T00:00:00Z",
    rollout={"seconds": 9.9, "bound": 9.8, "ratio": 1.01, "packed_ratio": 1.01},
)


# --- which process serves


def test_process_serves_from_its_report_until_its_end():
    notes = [Note(UP, 1, 0.0, 1.0), Note(UP, 2, 0.0, 1.5), Note(LEAVING, 1, 0.0, 5.0), Note(UP, 3, 5.0, 8.0)]
    first, second, third = lives(notes, {1: 6.0, 2: 7.0})
    assert (first.up, first.left, first.gone) == (1.0, 5.0, 6.0)
    assert (second.left, second.gone) == (7.0, 7.0)
    assert (third.up, third.left) == (8.0, math.inf)


def test_fewest_are_counted_at_the_worst_moment():
    known = [
        ProcessTime(1, 0.0, 0.0, 5.0),
        ProcessTime(2, 0.0, 0.0, 5.2),
        ProcessTime(3, 4.0, 5.1),
        ProcessTime(4, 4.0, 5.3),
    ]
    assert least(known, 1.0, 9.0) == 1
    assert least(known, 6.0, 9.0) == 2
    assert least([*known, ProcessTime(5, 0.0, 0.0)], 1.0, 9.0) == 2


def test_restart_between_measurements_has_the_earlier_weight() -> None:
    weights = [(1.0, 70.0), (2.0, 50.0), (3.0, 60.0), (4.0, 90.0)]
    assert heaviest(weights, 2.2, 2.8) == 50.0
    assert heaviest(weights, 2.2, 3.5) == 60.0
    assert heaviest(weights, 0.5, 1.5) == 70.0
    assert heaviest([], 1.0, 2.0) == 0.0


def test_requests_in_flight_at_start_count():
    answered, in_flight = (Answer(at, "POST", 200, "", latency=1.5, late=0.0) for at in (8.0, 9.0))
    assert before([answered, in_flight, replace(in_flight, scheduled=11.0)], began=10.0) == [answered]


def test_a_machine_that_does_nothing_is_not_busy():
    assert busy([10, 0, 10, 100, 0], [10, 0, 10, 200, 100]) == 0.0
    assert busy([10, 0, 10, 100, 0], [85, 0, 10, 115, 10]) == 0.75


# --- the bound


def record(courses: list[dict[str, float]], limit: int, seconds: float) -> tuple[Mapping[str, Any], list[ProcessTime]]:
    """A rollout of processes that each leave ``at``, drain, stop, are gone for so long, boot and warm up; each thing is
    seen ``late``."""
    processes, known = [], []
    for number, one in enumerate(courses):
        restarting = one["at"] + one["drain"]
        gone = restarting + one["stop"]
        started = gone + one.get("down", 0.0)
        up = started + one["boot"]
        ready = started + max(STARTSECS, one["boot"] + one["warm"]) + one.get("late", 0.0)
        stages = [["draining", one["at"]], ["restarting", restarting], ["warming", started], ["ready", ready]]
        old, new = 10 + number, 100 + number
        processes.append(
            {
                "name": f"app-{number}",
                "selected": True,
                "old_pid": old,
                "pid": new,
                "latencies_ms": [1000 * one["warm"]],
                "stages": [*stages, ["open", ready]],
            }
        )
        known.append(ProcessTime(old, 0.0, 0.0, BEGAN + gone, BEGAN + gone))
        known.append(ProcessTime(new, BEGAN + started, BEGAN + up))
    return {"limit": limit, "seconds": seconds, "processes": processes}, known


def explained(courses: list[dict[str, float]], limit: int, seconds: float) -> bound.Explained:
    return bound.explained(*record(courses, limit, seconds), STARTSECS, BEGAN)


QUICK = {"drain": 0.5, "stop": 0.1, "boot": 0.2, "warm": 0.3}  # startsecs are longer than its boot and warm-up
SLOW = {"drain": 0.5, "stop": 0.1, "boot": 0.9, "warm": 0.8}


def test_rollout_without_delay_takes_its_bound():
    found = explained([{**QUICK, "at": 0.0}, {**SLOW, "at": 1.6}], 1, 3.9)
    assert found.bound == pytest.approx(0.5 + 0.1 + 1.0 + 0.5 + 0.1 + 1.7)
    assert found.ratio == pytest.approx(found.packed_ratio) == pytest.approx(1.0)
    assert found.parts == pytest.approx({"drain": 1.0, "stop": 0.2, "startsecs": 1.0, "boot and warm-up": 1.7})
    assert found.over == pytest.approx(dict.fromkeys(found.over, 0.0), abs=1e-9)


def test_delay_is_reported_by_its_part():
    quick = explained([{**QUICK, "at": 0.2, "down": 0.3, "late": 0.4}, {**QUICK, "at": 3.0}], 1, 5.0)
    assert quick.over == pytest.approx(
        {
            bound.BEGIN: 0.2,
            bound.START: 0.3,
            bound.RUNNING: 0.4,
            bound.OPENING: 0.0,
            bound.NEXT: 0.5,
            bound.EMPTY: 0.0,
            bound.END: 0.4,
        },
        abs=1e-9,
    )
    slow = explained([{**SLOW, "at": 0.0, "late": 0.4}], 1, 2.7)
    assert slow.over[bound.WARM] == pytest.approx(0.4)


def test_empty_places_at_the_end_are_no_delay():
    found = explained([{**QUICK, "at": at} for at in (0.0, 1.6, 1.6, 3.2)], 2, 4.8)
    assert found.bound == pytest.approx(1.6 + 3 * 1.6 / 2)
    assert found.over[bound.EMPTY] == pytest.approx(0.8)
    assert found.packed == pytest.approx(4.8)


def test_bound_and_delays_add_up_to_the_duration():
    chance = random.Random(3)
    for _ in range(200):
        limit, free, courses = chance.randint(1, 4), [0.0], []
        for number in range(chance.randint(2, 12)):
            place = free.index(min(free))
            one = {key: chance.uniform(0, 2) for key in ("drain", "stop", "down", "boot", "warm", "late")}
            one["at"] = free[place] + chance.uniform(0, 0.5)
            ready = max(STARTSECS, one["boot"] + one["warm"])
            free[place] = one["at"] + one["drain"] + one["stop"] + one["down"] + ready + one["late"]
            courses.append(one)
            free = free * limit if number == 0 else free
        seconds = max(free) + chance.uniform(0, 1)
        found = explained(courses, limit, seconds)
        assert sum(found.parts.values()) + sum(found.over.values()) == pytest.approx(seconds)


def test_unobserved_restart_has_no_bound():
    found, known = record([{**QUICK, "at": 0.0}], 1, 1.6)
    with pytest.raises(ValueError, match="app-0 was not seen to be restarted"):
        bound.explained(found, known[1:], STARTSECS, BEGAN)


# --- the goals


def test_peer_is_better_only_at_equal_safety():
    peer = replace(RESULT, way="peer", side="peer", seconds=9.0)
    assert goals.is_better(peer, RESULT)
    assert not goals.is_better(replace(peer, seconds=11.0), RESULT)
    assert not goals.is_better(replace(peer, posts_failed=1), RESULT)
    assert not goals.is_better(replace(peer, least=6), RESULT)
    assert not goals.is_better(replace(peer, size=40), RESULT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"posts_failed": 1}, "1 requests failed"),
        ({"cold": 2}, "2 GETs were cold"),
        ({"during": Latencies(0.005, 0.012, 0.040)}, "p99 12 ms, 1.20 times the 10 ms before"),
        ({"rollout": {**RESULT.rollout, "packed_ratio": 1.06}}, "1.060 of the bound"),
    ],
)
def test_each_missed_goal_is_reported(change: dict[str, Any], words: str):
    assert goals.missed([RESULT]) == []
    (found,) = goals.missed([replace(RESULT, **change)])
    assert words in found


# --- the file, the table, the picture


def test_results_are_read_as_they_were_written(tmp_path: Path):
    results.save(tmp_path / "there" / "rollouts.json", [RESULT])
    assert results.load(tmp_path / "there" / "rollouts.json") == [RESULT]
    assert results.load(tmp_path / "none.json") == []


def test_new_measurement_replaces_the_old_one():
    other, larger = replace(RESULT, way="other"), replace(RESULT, size=40)
    again = replace(RESULT, seconds=9.0)
    assert results.merged([RESULT, other, larger], again, ["other", "ours"]) == [other, again, larger]


def test_table_names_each_machine_once():
    row = next(line for line in results.table([RESULT]).splitlines() if "rolling" in line)
    assert row.split()[-12:] == ["0", "0", "5", "11", "40", "4", "10", "30", "10.0", "7", "500", "0.9"]
    assert results.table([RESULT, replace(RESULT, way="b")]).endswith("\n\nprocessors 2\n")
    mixed = results.table([RESULT, replace(RESULT, way="b", machine={"processors": "4"})])
    assert mixed.endswith("\n\nprocessors 2: 8 ours\n\nprocessors 4: 8 b\n")


def test_picture_has_a_bar_for_each_restart():
    slow = replace(RESULT, about="slow", seconds=20.0, posts_failed=3)
    steady, extra = (replace(RESULT, about=side, side=side) for side in ("none", "extra"))
    cold, waiting = replace(RESULT, cold=2), replace(RESULT, during=Latencies(0.1, 1.0, 2.0))
    drawing = ElementTree.fromstring(picture.drawn([steady, RESULT, slow, cold, waiting, extra]))
    bars = [bar for bar in drawing.iter(f"{SVG}rect") if bar.get("x") == str(picture.LABEL)]
    assert [float(bar.attrib["width"]) for bar in bars] == [picture.LONGEST / part for part in (2, 1, 2, 2)]
    assert [bar.get("fill") for bar in bars] == [picture.GOOD, picture.FAILED, picture.COLD, picture.SLOW]
    words = [text.text for text in drawing.iter(f"{SVG}text")]
    assert "rolling & restarting" in words
    assert "3 failed · 0 cold · p99 10 → 11 ms · 7 of 8" in words


# --- what is published


def test_readme_and_site_show_the_published_results() -> None:
    assert "docs/benchmark/rollouts.svg" in (ROOT / "README.rst").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "benchmarks.rst").read_text(encoding="utf-8")
    assert all(f":: benchmark/rollouts{ending}" in page for ending in (".svg", ".txt"))
    stored = publish.FOLDER / "rollouts.json"
    assert results.table(results.load(stored)) == stored.with_suffix(".txt").read_text(encoding="utf-8")
