"""What an operator sees of a rollout: every line, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.codec import struct_of
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.policy import GatePolicy, Hook, HooksPolicy, Policy, PortRule
from supervisor_rolling.core.public_view import rollout_view
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status, Timing
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.progress import PlainScreen, TerminalScreen, screen_for
from supervisor_rolling.ctl.rollout_lines import (
    ASCII,
    UNICODE,
    bar_line,
    first_lines,
    last_lines,
    left_lines,
    plan_lines,
    process_line,
)

BEGAN, NOW = 1000.0, 1012.0

PLAIN = {"TERM": "xterm", "NO_COLOR": "1"}
MAX_SHOWN = Policy("app", PortRule(), min_ready_auto=False)
HOOKED = Policy("app", PortRule(), min_ready_auto=False, hooks=HooksPolicy(before_rollout=Hook(("/bin/true",))))

View = dict[str, Any]

UNDER_WAY = [Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY]
TOOK = Timing(drained=1.24, stopped=1.11, started=1.02, warmed=0.73, ready=10.0)
NEW = Member(
    "app-1", (tcp(8001),), replaced=True, attempted=True, since=BEGAN + 5, timing=TOOK, requests=11, first_ms=730.4
)
NEW = replace(NEW, last_ms=3.2)


class Terminal(io.StringIO):
    """A terminal of so many columns that shows what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines that stand there now: ESC[nF goes n lines up, ESC[J clears what is below."""
        lines: list[str] = [""]
        for up, text in re.findall(r"\x1b\[(\d+)F\x1b\[J|([^\x1b]+)", self.getvalue()):
            if up:
                assert lines[-1] == ""
                assert int(up) < len(lines), "it goes up to lines that are not its own"
                del lines[len(lines) - 1 - int(up) :]
                lines.append("")
            else:
                first, *others = text.split("\n")
                lines[-1] += first
                lines += others
        assert lines.pop() == ""
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((60, 24)))
    return Terminal()


def a_view(*members: Member, now: float = NOW, status: Status = Status.RUNNING, **changes: Any) -> View:
    ended = 0.0 if status is Status.RUNNING else now
    rollout = Rollout(7, "app", MAX_SHOWN, members, 1, GatePolicy(), status=status, started_at=BEGAN)
    return struct_of(rollout_view(replace(rollout, ended_at=ended, min_available=3, **changes), now))


def waiting(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name, (tcp(8000 + int(name.rpartition("-")[2])),)) for name in names)


def moving(stage: Stage, name: str = "app-2", **changes: Any) -> Member:
    return Member(name, (tcp(8002),), stage=stage, attempted=True, **{"since": NOW - 3.0, **changes})


def last_text(view: View, processes_after: Sequence[View] = ()) -> str:
    return "\n".join(last_lines(view, processes_after))


def line_of(member: Member, width: int = 5, signs: Any = UNICODE) -> str:
    (view,) = a_view(member)["processes"]
    return process_line(view, width, signs)


# --- the line of a process


def test_line_of_replaced_process_has_every_stage() -> None:
    assert line_of(NEW) == (
        "app-1  drained 1.2 s · stopped 1.1 s · started 1.0 s · "
        "warmed 0.7 s (11 requests 730 → 3 ms) · ready 10 s · open"
    )


def test_short_start_is_left_out() -> None:
    assert line_of(replace(NEW, timing=Timing(started=0.05, warmed=1.02))) == (
        "app-1  warmed 1.0 s (11 requests 730 → 3 ms) · open"
    )


@pytest.mark.parametrize(
    ("statuses", "told"),
    [((200,) * 11, ""), ((200, 301, 200, 404, 404), ", statuses 200 x 2, 301 x 1, 404 x 2"), ((), "")],
)
def test_line_has_statuses_unless_all_are_200(statuses: tuple[int, ...], told: str) -> None:
    warm = replace(NEW, timing=Timing(warmed=1.02), statuses=statuses)
    assert line_of(warm) == f"app-1  warmed 1.0 s (11 requests 730 → 3 ms{told}) · open"


def test_line_is_ascii_for_other_encodings() -> None:
    line = line_of(NEW, signs=ASCII)
    assert line == (
        "app-1  drained 1.2 s, stopped 1.1 s, started 1.0 s, warmed 0.7 s (11 requests 730 -> 3 ms), ready 10 s, open"
    )
    assert line.isascii()


def test_warm_up_without_requests_is_ready() -> None:
    member = replace(NEW, requests=0, timing=Timing(warmed=0.73, ready=0.04))
    assert line_of(member) == "app-1  ready 0.7 s · open"


def test_timed_out_drain_has_number_of_connections() -> None:
    member = replace(NEW, timing=Timing(drained=30.0), lingering_connections=4)
    assert line_of(member) == "app-1  drained 30.0 s (4 connections left) · open"


def test_killed_process_is_marked() -> None:
    assert line_of(replace(NEW, killed=True, requests=0, timing=Timing(stopped=10.04))) == (
        "app-1  stopped 10.0 s (killed) · open"
    )


UPLOAD = Connection("10.0.0.7:51322", age=61.0, idle=0.6, last="received")
GONE = Connection("[fe80::1]:4711", age=30.004, idle=30.0, last="sent", state="stuck")


def test_connections_left_are_listed_below_the_process() -> None:
    quick = replace(NEW, timing=Timing(drained=30.0))
    member = replace(quick, lingering_connections=9, oldest_lingering=(UPLOAD, GONE))
    assert plain(a_view(member, *waiting("app-20"))) == [
        "app-1   drained 30.0 s (9 connections left), open",
        "        10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago",
        "        [fe80::1]:4711 open at least 30 s, last byte sent 30 s ago, the client does not read its answer",
        "        and 7 more",
    ]


def test_complete_list_of_connections_has_no_rest() -> None:
    assert left_lines(a_view(replace(NEW, lingering_connections=1, oldest_lingering=(UPLOAD,)))["processes"][0], 5) == [
        "       10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago"
    ]


def test_failed_drain_lists_no_connections() -> None:
    member = Member(
        "app-1", (), failed=True, why="still had 1 connection …", lingering_connections=1, oldest_lingering=(UPLOAD,)
    )
    assert plain(a_view(member)) == ["app-1  FAILED: still had 1 connection …"]


def test_connections_are_listed_when_new_process_failed() -> None:
    member = Member("app-1", (), stage=Stage.FAILED, attempted=True, failed=True, why="is not warm: GET / answered 500")
    member = replace(member, timing=Timing(drained=30.0), lingering_connections=1, oldest_lingering=(UPLOAD,))
    assert plain(a_view(member)) == [
        "app-1  drained 30.0 s (1 connection left), FAILED: is not warm: GET / answered 500",
        "       10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago",
    ]


def test_connection_lines_stay_on_a_terminal(terminal: Terminal) -> None:
    screen = screen_for(Output(terminal, PLAIN))
    screen.show(a_view(moving(Stage.RESTARTING, lingering_connections=1, oldest_lingering=(UPLOAD,))))
    assert len(terminal.shown()) == 2
    screen.close(a_view(replace(NEW, requests=0, timing=Timing(), lingering_connections=1, oldest_lingering=(UPLOAD,))))
    assert terminal.shown() == [
        "app-1  open",
        "       10.0.0.7:51322 open at least 61 s, last byte received",
        "         0.6 s ago",
    ]


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.OPEN])
def test_failed_process_has_its_reason(stage: Stage) -> None:
    member = Member("app-1", (tcp(8001),), stage=stage, failed=True, why="is not warm: GET / answered 500")
    assert line_of(member) == "app-1  FAILED: is not warm: GET / answered 500"


def test_process_left_alone_has_its_reason() -> None:
    assert line_of(Member("app-1", (), selected=False, why="is STOPPED, and is left as it is")) == (
        "app-1  is STOPPED, and is left as it is"
    )


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (moving(Stage.DRAINING, lingering_connections=7), "app-2  draining 3 s, 7 connections left"),
        (moving(Stage.RESTARTING, timing=Timing(drained=1.2)), "app-2  drained 1.2 s · restarting 3 s"),
        (
            moving(Stage.WARMING, timing=Timing(drained=1.2, stopped=1.1)),
            "app-2  drained 1.2 s · stopped 1.1 s · warming 3 s",
        ),
        (moving(Stage.READY), "app-2  ready 3 s"),
        (moving(Stage.WARMING, failed=True, why="did not stop"), "app-2  warming 3 s"),
    ],
)
def test_process_under_way_has_stage_and_time(member: Member, line: str) -> None:
    assert line_of(member) == line


def test_names_are_a_column() -> None:
    assert line_of(NEW, width=9).startswith("app-1      drained")


# --- the bar


def bar(done: int, total: int, **changes: Any) -> str:
    new = tuple(replace(NEW, name=f"app-{n}") for n in range(done))
    return bar_line(a_view(*new, *waiting(*(f"app-{n}" for n in range(done, total))), **changes), ASCII)


def test_bar_has_progress_and_time_left() -> None:
    assert bar(2, 8) == "######.................. 2/8  12 s, about 36 s left"
    assert bar(4, 8) == "############............ 4/8  12 s, about 12 s left"


def test_bar_without_replaced_process_has_no_time_left() -> None:
    assert bar(0, 8) == "........................ 0/8  12 s"


def test_bar_is_full_at_end_or_without_work() -> None:
    assert bar(8, 8) == "######################## 8/8  12 s, about 0 s left"
    assert bar(0, 0) == "######################## 0/0  12 s"


def test_bar_has_pause_and_abort() -> None:
    assert bar(0, 8, paused=True).endswith("0/8  12 s, paused")
    assert bar(0, 8, paused=True, aborting=True).endswith("0/8  12 s, aborting")


def test_bar_has_blocks_in_unicode() -> None:
    assert bar_line(a_view(*waiting("app-1", "app-2")), UNICODE).startswith("░" * 24 + " 0/2")


def test_redrawn_lines_fit_the_rows_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((60, 4)))
    terminal = Terminal()
    screen = screen_for(Output(terminal, PLAIN))
    rollout = a_view(
        *(Member(f"app-{n}", (tcp(8000 + n),), stage=Stage.WARMING, attempted=True, since=BEGAN) for n in range(9))
    )
    for _ in range(3):
        screen.show(rollout)
    assert len(terminal.shown()) == 3
    assert "0/9" in terminal.shown()[-1]


# --- the first line, the last line, the plan


def test_first_line_of_new_rollout() -> None:
    assert first_lines(a_view(*waiting("app-1", "app-2")))[0] == "app: replacing 2 processes, 1 at a time (rollout 7)"


def test_first_line_of_resumed_rollout() -> None:
    assert (
        first_lines(a_view(NEW, *waiting("app-2")), resumed=True)[0]
        == "app: resuming, 1 of 2 replaced, 1 at a time (rollout 7)"
    )


def test_last_line_of_done_rollout() -> None:
    view = a_view(NEW, Member("app-2", (), selected=False, why="is stopped"), status=Status.DONE)
    assert last_text(view) == "app: 1 of 1 replaced in 12.0 s, never fewer than 3 of 2 available"


def test_last_line_of_aborted_rollout() -> None:
    view = a_view(NEW, *waiting("app-2"), status=Status.ABORTED)
    assert last_text(view) == "app: ABORTED: 1 of 2 replaced in 12.0 s, never fewer than 3 of 2 available"


def test_operators_abort_has_resume_command() -> None:
    view = a_view(NEW, *waiting("app-2"), status=Status.ABORTED, aborting=True)
    assert last_text(view).splitlines()[1:] == ["To continue with the others: supervisorctl rolling_resume app"]
    assert last_text(a_view(NEW, status=Status.ABORTED, aborting=True)).count("\n") == 0, "there are no others"


def test_other_abort_has_its_reason() -> None:
    view = a_view(NEW, *waiting("app-2"), status=Status.ABORTED, why="the group is gone")
    assert last_text(view).splitlines()[1:] == ["the group is gone"]


def test_failed_rollout_has_gate_log_and_next_command() -> None:
    kept = Member("app-2", (tcp(8002),), stage=Stage.FAILED, failed=True, why="is not warm")
    serving = Member("app-3", (tcp(8003),), failed=True, why="still had 3 connections")
    view = a_view(NEW, kept, serving, status=Status.FAILED, why="app:app-2 is not warm; app:app-3 still had")
    assert last_text(view, [standing("app-2", "closed"), standing("app-3")]).splitlines() == [
        "app: FAILED: 1 of 3 replaced in 12.0 s, never fewer than 3 of 3 available",
        "Closed, so it receives no traffic: app-2 (port 8002)",
        "See why: supervisorctl tail app:app-2 stderr",
        "Fix the problem, then resume: supervisorctl rolling_resume app",
    ]


def standing(name: str, gate: str = "open", statename: str = "RUNNING", warm: bool = False) -> View:
    """What ``rolling.getProcesses`` has of a process."""
    return {"name": name, "gate": gate, "statename": statename, "warm": warm}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([standing("app-1", "closed"), standing("app-2")], "Closed, so it receives no traffic"),
        ([standing("app-1", "closed"), standing("app-2", statename="FATAL")], "Closed, and no other process serves"),
        ([standing("app-1", statename="FATAL")], "Not warm, but accepting traffic"),
        ([standing("app-1", "open"), standing("app-2")], "Not warm, but accepting traffic"),
        ([standing("app-1", warm=True), standing("app-2")], "Not warm when the rollout ended"),
        ([standing("app-1", "unknown"), standing("app-2")], "Not warm when the rollout ended"),
        ([], "Not warm when the rollout ended"),
    ],
)
def test_failed_process_has_its_present_gate(found: list[View], text: str) -> None:
    kept = Member("app-1", (tcp(8001),), stage=Stage.FAILED, failed=True, why="is FATAL")
    lines = last_text(a_view(kept, *waiting("app-2"), status=Status.FAILED), found).splitlines()
    assert lines[1] == f"{text}: app-1 (port 8001)"
    is_known = lines[2] == "See why: supervisorctl tail app:app-1 stderr"
    assert is_known == text.startswith("Closed")
    assert is_known or lines[2] == "See the state now: supervisorctl rolling_status app"


@pytest.mark.parametrize(
    ("member", "is_told"),
    [
        (Member("app-1", (tcp(8001),), stage=Stage.FAILED, failed=True, why="did not start: FATAL"), True),
        (Member("app-1", (tcp(8001),), failed=True, replaced=True, pid=7, why="died after it was replaced"), True),
        (Member("app-1", (tcp(8001),), failed=True, replaced=True, pid=7, killed=True, why="did not stop"), False),
        (Member("app-1", (tcp(8001),), stage=Stage.FAILED, failed=True, killed=True, why="not warm"), True),
        (Member("app-1", (tcp(8001),), failed=True, why="still had 3 connections; it keeps serving traffic"), False),
    ],
    ids=["never came up", "died", "was killed", "was killed and is not warm", "serves on"],
)
def test_log_is_named_only_if_it_has_the_cause(member: Member, is_told: bool) -> None:
    lines = last_text(a_view(member, *waiting("app-2"), status=Status.FAILED)).splitlines()
    assert ("See why: supervisorctl tail app:app-1 stderr" in lines) is is_told
    assert lines[-1] == "Fix the problem, then resume: supervisorctl rolling_resume app"


def test_complete_rollout_has_nothing_to_resume() -> None:
    died = Member(
        "app-1", (tcp(8001),), failed=True, replaced=True, pid=7, why="exited 0.5 s after its port was opened"
    )
    assert last_text(a_view(NEW, died, status=Status.FAILED)).splitlines()[-1] == (
        "Every process was replaced. To see their state: supervisorctl rolling_status app"
    )


def test_process_left_by_earlier_rollout_has_restart_command() -> None:
    kept = Member("app-3", (tcp(8003),), selected=False, stage=Stage.FAILED, why="is not warm")
    assert last_text(a_view(NEW, kept, status=Status.DONE)).splitlines()[-1] == (
        "To replace what an earlier rollout left closed: supervisorctl rolling_restart app:app-3"
    )


def test_limit_above_group_size_is_group_size() -> None:
    assert first_lines({**a_view(*waiting("app-1", "app-2")), "limit": 100})[0].startswith(
        "app: replacing 2 processes, 2 at a time"
    )
    assert plan_lines({**a_view(*waiting("app-1"), status=Status.PLANNED), "limit": 3})[0].startswith(
        "app: would replace 1 process, 1 at a time"
    )


def test_failure_without_failed_process_has_its_reason() -> None:
    view = a_view(*waiting("app-1"), status=Status.FAILED, why="no process could be restarted for 60 s")
    assert last_text(view).splitlines()[1:] == [
        "no process could be restarted for 60 s",
        "Fix the problem, then resume: supervisorctl rolling_resume app",
    ]


NGINX = Policy(
    "app", PortRule(), min_ready_seconds=11.0, min_ready_why="max_fails=1, fail_timeout=10s, which are the defaults"
)
MIN_READY = (
    "Each process waits 11 s after it opens (min_ready_seconds: auto), because nginx sends nothing to a "
    "port for so long after it refused a connection (max_fails=1, fail_timeout=10s, which are the defaults). Fix: set "
    "max_fails=0 at each server of the upstream: saves 11 s for each process, {seconds} s for the whole rollout"
)


def test_min_ready_seconds_from_nginx_has_reason_and_fix() -> None:
    rollout = a_view(*waiting(*(f"app-{n}" for n in range(8))), policy=NGINX)
    assert first_lines(rollout)[1:] == [MIN_READY.format(seconds=88)]
    assert first_lines({**rollout, "limit": 4})[1:] == [MIN_READY.format(seconds=33)], (
        "the canary alone, then 4 at a time"
    )
    assert first_lines({**rollout, "replaced": 6}, resumed=True)[1:] == [MIN_READY.format(seconds=22)]
    assert plan_lines({**rollout, "status": "planned"})[-1] == MIN_READY.format(seconds=88)


def test_min_ready_seconds_without_configuration_has_fix() -> None:
    (line,) = first_lines(a_view(*waiting("app-1", "app-2"), policy=Policy("app", PortRule())))[1:]
    assert "waits 10 s after it opens" in line
    assert "because the load balancer's configuration cannot be read. Fix: name it in rolling.yaml with" in line
    assert line.endswith(
        "or set min_ready_seconds: 0 if the load balancer sends requests at once to a port that is open again: saves "
        "up to 10 s for each process, 20 s for the whole rollout"
    )


@pytest.mark.parametrize(
    "policy", [Policy("app", PortRule(), min_ready_seconds=0.0), replace(NGINX, min_ready_auto=False)]
)
def test_given_min_ready_seconds_are_not_explained(policy: Policy) -> None:
    assert len(first_lines(a_view(*waiting("app-1", "app-2"), policy=policy))) == 1


def test_plan_has_order_ports_and_processes_left_alone() -> None:
    members = (
        Member("app-10", (tcp(8010), tcp(9010))),
        Member("app-2", (tcp(8002),)),
        Member("app-3", (), selected=False, why="is STOPPED, and is left as it is"),
        Member("app-4", (tcp(8004),), selected=False),
    )
    assert plan_lines(a_view(*members, status=Status.PLANNED)) == [
        "app: would replace 2 processes, 1 at a time, in this order:",
        "app-10  port 8010, 9010",
        "app-2   port 8002",
        "app-3   is STOPPED, and is left as it is",
        "app-4   not selected",
    ]


# --- plain lines


def plain(*views: View) -> list[str]:
    stream = io.StringIO()
    screen = PlainScreen(Output(stream), ASCII)
    for view in views[:-1]:
        screen.show(view)
    screen.close(views[-1])
    return stream.getvalue().splitlines()


def test_done_process_is_printed_once() -> None:
    one, two = NEW, replace(NEW, name="app-2", since=BEGAN + 9)
    lines = plain(
        a_view(*waiting("app-1", "app-2")), a_view(one, *waiting("app-2")), a_view(one, two), a_view(one, two)
    )
    assert [line.split()[0] for line in lines] == ["app-1", "app-2"]


def test_processes_done_together_are_in_order_of_time() -> None:
    late, early = replace(NEW, name="app-1", since=BEGAN + 9), replace(NEW, name="app-2", since=BEGAN + 5)
    assert [line.split()[0] for line in plain(a_view(late, early))] == ["app-2", "app-1"]


@pytest.mark.parametrize("stage", UNDER_WAY)
def test_failed_process_under_way_is_not_printed_yet(stage: Stage) -> None:
    assert plain(a_view(moving(stage, failed=True, why="died after it was replaced"))) == []


def test_process_closed_earlier_is_printed_when_replaced() -> None:
    shut = Member("app-1", (tcp(8001),), stage=Stage.FAILED, why="is not warm")
    assert plain(a_view(shut)) == []
    assert plain(a_view(shut), a_view(moving(Stage.WARMING, "app-1")), a_view(NEW)) == [line_of(NEW, signs=ASCII)]


def test_failed_and_unselected_processes_are_printed() -> None:
    failed = Member("app-1", (), stage=Stage.FAILED, failed=True, since=BEGAN + 5, why="is not warm")
    alone = Member("app-20", (), selected=False, why="is STOPPED, and is left as it is")
    assert plain(a_view(failed, alone, *waiting("app-3"))) == [
        "app-1   FAILED: is not warm",
        "app-20  is STOPPED, and is left as it is",
    ]


# --- which screen


def stream_of(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("encoding", "ascii_only"), [("utf-8", False), ("UTF8", False), ("latin-1", True), ("ascii", True)]
)
def test_screen_has_characters_of_the_encoding(encoding: str, ascii_only: bool) -> None:
    stream = stream_of(encoding)
    screen_for(Output(stream, PLAIN)).close(a_view(NEW))
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # BytesIO
    assert text.startswith("app-1  drained 1.2 s")
    assert text.isascii() is not encoding.lower().startswith("utf")


def test_unknown_encoding_gets_ascii() -> None:
    stream = io.StringIO()  # its encoding is None
    screen_for(Output(stream, PLAIN)).show(a_view(NEW))
    assert stream.getvalue().isascii()


@pytest.mark.parametrize(("term", "kind"), [("xterm", TerminalScreen), ("dumb", PlainScreen), ("", PlainScreen)])
def test_only_capable_terminal_is_redrawn(terminal: Terminal, term: str, kind: type) -> None:
    assert type(screen_for(Output(terminal, {"TERM": term}))) is kind
    assert type(screen_for(Output(io.StringIO(), {"TERM": term}))) is PlainScreen


# --- the terminal


def test_processes_under_way_are_redrawn_above_the_bar(terminal: Terminal) -> None:
    screen = screen_for(Output(terminal, PLAIN))
    screen.show(a_view(moving(Stage.DRAINING, "app-1", lingering_connections=2), *waiting("app-2")))
    assert terminal.shown()[:1] == ["app-1  draining 3 s, 2 connections left"]
    screen.show(a_view(moving(Stage.WARMING, "app-1"), moving(Stage.DRAINING)))
    assert terminal.shown() == [
        "app-1  warming 3 s",
        "app-2  draining 3 s, 0 connections left",
        "░" * 24 + " 0/2  12 s",
    ]


def test_done_processes_stay_and_the_bar_goes(terminal: Terminal) -> None:
    screen = screen_for(Output(terminal, PLAIN))
    quick = replace(NEW, timing=Timing(drained=1.0), requests=0)
    screen.show(a_view(moving(Stage.READY, "app-1"), *waiting("app-2")))
    screen.show(a_view(quick, moving(Stage.READY)))
    assert terminal.shown() == [
        "app-1  drained 1.0 s · open",
        "app-2  ready 3 s",
        "█" * 12 + "░" * 12 + " 1/2  12 s, about 12 s left",
    ]
    screen.close(a_view(quick, replace(quick, name="app-2")))
    assert terminal.shown() == ["app-1  drained 1.0 s · open", "app-2  drained 1.0 s · open"]


def test_untouched_terminal_is_not_cleared(terminal: Terminal) -> None:
    screen_for(Output(terminal, PLAIN)).close(a_view(*waiting("app-1")))
    assert terminal.getvalue() == ""


members = st.builds(
    lambda n, stage, took, left: moving(stage, f"app-{n}", timing=took, lingering_connections=left, requests=n),
    st.integers(1, 10**6),
    st.sampled_from(list(Stage)),
    st.builds(Timing, *[st.sampled_from([0.0, 0.5, 12345.678])] * 5),
    st.integers(0, 10**6),
)


@given(st.lists(st.lists(members, max_size=4, unique_by=lambda m: m.name), min_size=1, max_size=4), st.integers(2, 90))
@settings(deadline=None, max_examples=50)
def test_redrawn_lines_fit_the_columns_of_the_terminal(looks: list[list[Member]], columns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))
        terminal = Terminal()
        screen = screen_for(Output(terminal, PLAIN))
        for look in looks:
            before = len(terminal.getvalue())
            screen.show(a_view(*look))
            drawn = terminal.getvalue()[before:].rpartition("\x1b[J")[2].splitlines()
            passing = sum(member.stage in UNDER_WAY for member in look) + 1
            assert all(len(line) < columns for line in drawn[-passing:])
        screen.close(a_view())
        assert terminal.shown() == []


def test_bar_has_what_the_rollout_waits_for() -> None:
    assert bar(1, 8, waits_for="the crash guard to finish app-2 (warming)").endswith(
        " s left, waiting for the crash guard to finish app-2 (warming)"
    )
    assert a_view(NEW, status=Status.DONE, waits_for="x", waits_long=True)["waits_for"] == ""


def test_long_wait_is_one_plain_line() -> None:
    screen = PlainScreen(Output(io.StringIO()), UNICODE)
    waits: dict[str, Any] = {"waits_for": "the crash guard to finish app-2 (warming)"}
    assert screen.news(a_view(*waiting("app-1"), **waits)) == []
    long = a_view(*waiting("app-1"), **waits, waits_long=True)
    assert screen.news(long) == ["waiting for the crash guard to finish app-2 (warming)"]
    assert screen.news(long) == []


def test_same_wait_is_printed_again_after_a_process_line() -> None:
    screen = PlainScreen(Output(io.StringIO()), UNICODE)
    long = a_view(*waiting("app-1"), waits_for="app-1 to be warm: Connection refused", waits_long=True)
    line = "waiting for app-1 to be warm: Connection refused"
    assert screen.news(long) == [line]
    assert screen.news(a_view(*waiting("app-1"))) == []
    assert screen.news(long) == [], "a process that crashes again and again is not a line each time"
    assert len(screen.news(a_view(NEW))) == 1
    assert screen.news(long) == [line]


def test_unknown_min_ready_seconds_count_open_processes():
    view = a_view(Member("app-1", (tcp(8001),), replaced=True), status=Status.DONE, policy=Policy("app", PortRule()))
    assert last_text(view).endswith("never fewer than 3 of 1 open")


def test_spare_is_named_first_and_has_a_line_when_it_serves() -> None:
    screen = PlainScreen(Output(io.StringIO()), UNICODE)
    (app,) = waiting("app-1")
    spare = replace(app, spare=True, selected=False, why="is the spare (surge)")
    assert screen.news(a_view(spare)) == ["app-1  is the spare (surge)"]
    assert screen.news(a_view(replace(app, replaced=True, pid=7))) == ["app-1  open"]
