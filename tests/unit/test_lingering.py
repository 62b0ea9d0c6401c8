"""How connections that outlast a drain are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.lingering import MAX_SHOWN, aged, count_text, left_texts, oldest, span, text
from supervisor_rolling.core.log_messages import changes
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Timing

UPLOAD = Connection("10.0.0.7:51322", age=61.4, idle=0.66, last="received")
ages = st.floats(0, 1e7, allow_nan=False)
connections = st.lists(st.builds(Connection, st.text(max_size=3), ages, ages, st.just("sent")), max_size=9)


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        (UPLOAD, "10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago"),
        (replace(UPLOAD, last="sent", idle=61.4), "10.0.0.7:51322 open at least 61 s, last byte sent 61 s ago"),
        (replace(UPLOAD, idle=0.04), "10.0.0.7:51322 open at least 61 s, last byte received just now"),
        (replace(UPLOAD, last="", idle=61.4), "10.0.0.7:51322 open at least 61 s, no byte in or out"),
        (
            replace(UPLOAD, state="half-closed"),
            "10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago, half-closed by the client",
        ),
        (
            replace(UPLOAD, state="stuck"),
            "10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago, the client does not read its answer",
        ),
        (
            Connection("[::1]:9", 2.0, state="not accepted"),
            "[::1]:9 open at least 2 s, no byte in or out, not accepted yet",
        ),
        (replace(UPLOAD, state="of a later version"), text(UPLOAD)),
    ],
)
def test_connection_text_has_age_and_last_byte(connection: Connection, words: str) -> None:
    assert text(connection) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.99, "0.9 s"),
        (9.99, "9.9 s"),
        (10.0, "10 s"),
        (119.9, "119 s"),
        (120.0, "2 min"),
        (7199.0, "119 min"),
        (7200.0, "2 h"),
        (172799.0, "47 h"),
        (172800.0, "2 days"),
    ],
)
def test_duration_has_a_fitting_unit(seconds: float, words: str) -> None:
    assert span(seconds) == words


@given(ages)
def test_duration_is_rounded_down(seconds: float) -> None:
    number, unit = span(seconds).split()
    shown = float(number) * {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert shown <= seconds
    assert seconds - shown < max(1.0, seconds / 2)


def test_rest_of_connections_is_counted() -> None:
    assert left_texts(1, [UPLOAD]) == [text(UPLOAD)]
    assert left_texts(12, [UPLOAD]) == [text(UPLOAD), "and 11 more"]
    assert left_texts(12, []) == []
    assert (count_text(1), count_text(2)) == ("1 connection", "2 connections")


@given(connections)
def test_oldest_connections_come_first(found: list[Connection]) -> None:
    shown = oldest(found)
    assert [one.age for one in shown] == sorted((one.age for one in found), reverse=True)[:MAX_SHOWN]
    assert set(shown) <= set(found)


@given(connections, ages)
def test_aged_makes_none_younger(found: list[Connection], seconds: float) -> None:
    for before, after in zip(found, aged(found, seconds)):
        assert after == replace(before, age=max(before.age, seconds))


def test_log_names_lingering_connections() -> None:
    draining = Member("app-1", (tcp(8001),), stage=Stage.DRAINING)
    after = replace(draining, stage=Stage.RESTARTING, timing=Timing(drained=30.0))
    rollout = Rollout(7, "app", Policy("app", PortRule()), (draining,), 1, GatePolicy())

    def said(member: Member) -> list[str]:
        return list(changes(rollout, replace(rollout, members=(member,))))

    assert said(after) == ["app:app-1 restarting (drained 30.00 s)"]
    assert said(replace(after, lingering_connections=4)) == [
        "app:app-1 restarting (drained 30.00 s, 4 connections left)"
    ]
    assert said(replace(after, lingering_connections=2, oldest_lingering=(UPLOAD,))) == [
        f"app:app-1 restarting (drained 30.00 s, 2 connections left; {text(UPLOAD)}; and 1 more)"
    ]
