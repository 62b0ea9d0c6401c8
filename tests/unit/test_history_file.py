"""The history file: no kill loses a rollout, and no content of the file does harm."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.codec import dump, load, struct_of
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.forecast import Cycles
from supervisor_rolling.core.policy import GatePolicy, HistoryPolicy, Policy, PortRule
from supervisor_rolling.core.public_view import Detail, RolloutView, rollout_view
from supervisor_rolling.core.rollout import Level, Member, Rollout, Stage, Status, Step, Timing
from supervisor_rolling.listener import history_file as module
from supervisor_rolling.listener.history_file import FILES, MAX_PENDING, FileHistory

BEGAN = 1790000000.125
NOW = 1100.0
WAY = (Step(Stage.DRAINING, 1000.0), Step(Stage.WARMING, 1001.0), Step(Stage.OPEN, 1002.0))
MEMBER = Member(
    "app-1",
    (tcp(8001),),
    replaced=True,
    steps=WAY,
    latencies=(700.0, 3.0),
    statuses=(200, 301),
    timing=Timing(drained=0.5),
)


def a_rollout(number: int = 1, status: Status = Status.RUNNING, group: str = "app", **changes: Any) -> Rollout:
    ended = 0.0 if status is Status.RUNNING else 1010.0
    rollout = Rollout(number, group, Policy(group, PortRule()), (MEMBER,), 1, GatePolicy(), status=status)
    rollout = replace(rollout, started_at=1000.0, ended_at=ended, began=BEGAN + number, by="root@web1", user="root")
    return replace(rollout, levels=(Level(1000.0, 1),), **changes)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "rollouts.jsonl"


def a_history(file: Path, clock: Clock | None = None, enabled: bool = True) -> FileHistory:
    """A new listener's."""
    return FileHistory("unix:///run/s.sock", lambda: HistoryPolicy(enabled, str(file)), clock or Clock())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def test_rollout_is_written_at_begin_and_end(file: Path) -> None:
    history = a_history(file)
    for _ in range(3):
        history.keep([a_rollout()])
    for _ in range(3):
        history.keep([a_rollout(status=Status.DONE)])
    begun, ended = lines(file)
    assert (begun["status"], begun["began"], begun["processes"]) == ("running", BEGAN + 1, [])
    assert ended == json.loads(dump(rollout_view(a_rollout(status=Status.DONE), NOW, Detail.COURSE)))
    assert (ended["seconds"], ended["processes"][0]["stages"][1]) == (10.0, ["warming", 1.0])


def test_second_listener_writes_nothing_twice(file: Path) -> None:
    a_history(file).keep([a_rollout(1, Status.FAILED), a_rollout(2, group="web")])
    a_history(file).keep([a_rollout(1, Status.FAILED), a_rollout(2, group="web")])
    assert [(line["id"], line["status"]) for line in lines(file)] == [(1, "failed"), (2, "running")]


def test_resumed_rollout_ends_again(file: Path) -> None:
    history = a_history(file)
    for status, ended in ((Status.FAILED, 1010.0), (Status.RUNNING, 0.0), (Status.FAILED, 1012.0)):
        history.keep([a_rollout(1, status, ended_at=ended)])
    assert [line["status"] for line in lines(file)] == ["failed", "running", "failed"]
    assert [(one.status, one.seconds) for one in history.summaries("", 9)] == [("failed", 12.0)]


def test_rollout_running_when_supervisord_died_is_kept(file: Path) -> None:
    history = a_history(file)
    history.keep([a_rollout(1, Status.DONE), a_rollout(2)])
    history.close([a_rollout(1, Status.DONE), a_rollout(2)], NOW, are_lost=True)
    last = lines(file)[-1]
    assert (last["id"], last["status"], last["replaced"], last["seconds"]) == (2, Status.LOST, 1, 100.0)
    assert "supervisord ended" in last["why"]
    a_history(file).keep([a_rollout(3)])
    assert [line["id"] for line in lines(file)] == [1, 2, 2, 3]


def test_next_listener_marks_unfinished_rollout_lost(file: Path) -> None:
    a_history(file).keep([a_rollout(2)])
    later = a_history(file)
    later.summaries("", 9)
    later.keep([])
    assert [(one.id, one.status) for one in later.summaries("", 9)] == [(2, Status.LOST)]
    assert [line["status"] for line in lines(file)] == ["running", Status.LOST]


def test_lost_rollout_hides_no_newer_one(file: Path) -> None:
    a_history(file).keep([a_rollout(2)])
    with file.open("a") as stream:  # by a listener that knew nothing of it
        stream.write(dump(rollout_view(a_rollout(3), NOW, Detail.SUMMARY)) + "\n")
    for _ in range(2):
        a_history(file).keep([a_rollout(3)])
    assert [(line["id"], line["status"]) for line in lines(file)] == [(2, "running"), (3, "running"), (2, Status.LOST)]


def test_old_rollout_of_idle_group_is_written_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOADED", 3)
    history = a_history(file)
    history.keep([a_rollout(1, Status.FAILED, "idle")])
    for number in range(2, 9):
        history.keep([a_rollout(number, Status.DONE)])
    a_history(file).keep([a_rollout(1, Status.FAILED, "idle"), a_rollout(8, Status.DONE)])
    assert [line["id"] for line in lines(file)] == list(range(1, 9))


def test_running_rollout_survives_a_killed_listener(file: Path) -> None:
    a_history(file).keep([a_rollout(2)])
    later = a_history(file)
    later.keep([a_rollout(2)])
    assert [one.status for one in later.summaries("", 9)] == ["running"]


def stopped_listener(file: Path) -> None:
    """A listener that ends by SIGTERM in the middle of rollout 2, 90 s after its beginning."""
    history = a_history(file)
    history.keep([replace(a_rollout(2), members=(replace(MEMBER, replaced=False),))])
    history.close([a_rollout(1, Status.DONE), a_rollout(2)], NOW - 10.0, are_lost=False)


def test_stopped_listener_writes_the_progress(file: Path) -> None:
    stopped_listener(file)
    assert [(line["status"], line["replaced"]) for line in lines(file)] == [("running", 0), ("running", 1)]
    later = a_history(file)
    later.keep([a_rollout(2)])
    later.keep([a_rollout(2, Status.DONE)])
    assert [line["status"] for line in lines(file)] == ["running", "running", "done"]


def test_lost_rollout_keeps_its_progress(file: Path) -> None:
    stopped_listener(file)
    later = a_history(file)
    later.keep([])
    (one,) = later.summaries("", 9)
    assert (one.status, one.replaced, one.seconds) == (Status.LOST, 1, 90.0)
    assert lines(file)[-1]["processes"] == json.loads(dump(rollout_view(a_rollout(2), NOW, Detail.COURSE)))["processes"]


def test_ids_continue_after_an_earlier_supervisord(file: Path) -> None:
    a_history(file).keep([a_rollout(41, Status.DONE)])
    assert a_history(file).last_id() == 41
    assert a_history(file.with_name("none")).last_id() == 0


def test_rollouts_are_found_by_group_and_id(file: Path) -> None:
    history = a_history(file)
    for one in (a_rollout(1, Status.DONE), a_rollout(2, Status.FAILED, "web"), a_rollout(3, Status.ABORTED)):
        history.keep([one])
    assert [one.id for one in history.summaries("", 2)] == [2, 3]
    assert [one.id for one in history.summaries("app", 9)] == [1, 3]
    for group, rollout, expected in (("", "", 3), ("web", "", 2), ("", "1", 1)):
        found = history.find(group, rollout)
        assert found
        assert (found.id, len(found.processes)) == (expected, 1)
    assert history.find("", "9") is None
    assert history.find("other", "") is None


def test_next_listener_knows_durations_of_rollouts(file: Path) -> None:
    history = a_history(file)
    for number in range(1, 9):
        history.keep([a_rollout(number, Status.DONE)])
    history.keep([a_rollout(9, Status.FAILED)])
    assert history.cycles("app") == a_history(file).cycles("app") == [Cycles(1, {"app-1": 2.0})] * 8


# --- when it cannot be written


def test_unwritable_lines_are_kept_and_written_later(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.chmod(0o777)
    clock = Clock()
    history = a_history(file, clock)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 4):
            clock.now += 10
            history.keep([a_rollout(number, Status.DONE)])
    assert [one.id for one in history.summaries("", 9)] == [1, 2, 3]
    assert [str(file) in message for message in caplog.messages] == [True]
    assert "history: {file: …}" in caplog.text
    file.parent.chmod(0o755)
    history.keep([a_rollout(3, Status.DONE)])  # too soon
    assert not file.exists()
    clock.now += 10
    history.keep([a_rollout(3, Status.DONE)])
    assert [line["id"] for line in lines(file)] == [1, 2, 3]


def test_full_disk_keeps_a_bounded_number_pending(file: Path) -> None:
    file.mkdir()
    clock = Clock()
    history = a_history(file, clock)
    for number in range(1, 3 * MAX_PENDING):
        history.keep([a_rollout(number, Status.DONE)])
    assert len(history._pending) == MAX_PENDING
    assert len(history.summaries("", 9999)) == MAX_PENDING


def test_half_a_line_spoils_no_other(file: Path) -> None:
    a_history(file).keep([a_rollout(1, Status.DONE)])
    with file.open("a") as stream:
        stream.write('{"id": 2, "group": "ap')
    later = a_history(file)
    later.keep([a_rollout(3, Status.DONE)])
    assert [one.id for one in later.summaries("", 9)] == [1, 3]
    assert [one.id for one in a_history(file).summaries("", 9)] == [1, 3]


def test_of_a_large_file_the_newest_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = a_history(file)
    for number in range(1, 12):
        history.keep([a_rollout(number, Status.DONE)])
    monkeypatch.setattr(module, "MAX_READ", file.stat().st_size // 2)
    kept = [one.id for one in a_history(file).summaries("", 99)]
    assert 3 <= len(kept) <= 6
    assert kept == list(range(12 - len(kept), 12))


def test_symbolic_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    aim = tmp_path / "passwd"
    aim.write_text("root", encoding="ascii")
    file.symlink_to(aim)
    a_history(file).keep([a_rollout(1, Status.DONE)])
    assert aim.read_text(encoding="ascii") == "root"


def test_file_is_not_readable_by_others(file: Path) -> None:
    before = os.umask(0)
    try:
        a_history(file).keep([a_rollout(1, Status.DONE)])
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o137 == 0


def test_history_false_keeps_only_forecast_data(file: Path) -> None:
    history = a_history(file, enabled=False)
    history.keep([a_rollout(1, Status.DONE)])
    assert not file.exists()
    assert history.summaries("", 9) == []
    assert history.cycles("app") == [Cycles(1, {"app-1": 2.0})]


def test_changed_file_is_read_and_written(file: Path) -> None:
    other = file.with_name("other.jsonl")
    a_history(other).keep([a_rollout(7, Status.DONE)])
    paths = [str(file)]
    history = FileHistory("unix:///run/s.sock", lambda: HistoryPolicy(True, paths[0]), Clock())
    history.keep([a_rollout(8, Status.DONE)])
    paths[0] = str(other)
    history.keep([a_rollout(9, Status.DONE)])
    assert [one.id for one in history.summaries("", 9)] == [7, 9]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("unix:///run/supervisor.sock", "run-supervisor.sock"),
        ("http://127.0.0.1:9001", "127.0.0.1-9001"),
        ("", "supervisord"),
        ("unix:///../../etc/x", "etc-x"),
    ],
)
def test_each_supervisord_has_its_own_file(
    url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DIRECTORY", str(tmp_path / "made"))
    FileHistory(url, HistoryPolicy, Clock()).keep([a_rollout(1, Status.DONE)])
    assert [path.name for path in (tmp_path / "made").iterdir()] == [f"{name}.jsonl"]


# --- rotation


def test_rotated_file_is_still_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROTATE_AT", 2000)
    history = a_history(file)
    for number in range(1, 12):
        history.keep([a_rollout(number, Status.DONE)])
    assert file.with_name("rollouts.jsonl.1").exists()
    assert [one.id for one in a_history(file).summaries("", 99)] == list(range(1, 12))
    found = a_history(file).find("", "1")
    assert found
    assert found.processes


def test_oldest_rotated_file_is_dropped(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROTATE_AT", 1)
    history = a_history(file)
    for number in range(1, 31):
        history.keep([a_rollout(number, Status.DONE)])
    assert len(list(file.parent.glob("rollouts.jsonl*"))) == FILES
    assert [one.id for one in a_history(file).summaries("", 99)] == list(range(31 - FILES, 31))


def test_rollout_across_rotation_is_one_rollout(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROTATE_AT", 1)
    history = a_history(file)
    history.keep([a_rollout(1)])
    history.keep([a_rollout(1, Status.DONE)])
    assert [one.status for one in a_history(file).summaries("", 9)] == ["done"]


# --- what others may have written there

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["id", "group", "status", "began", "seconds", "why", "processes", "force", "limit"])
WRONG = st.dictionaries(KEYS, ANYTHING, max_size=9).map(
    lambda found: json.dumps({**struct_of(rollout_view(a_rollout(5), NOW)), **found})
)


@given(st.lists(WRONG | st.text(max_size=30), max_size=5))
@settings(max_examples=60, deadline=None)
def test_history_shows_only_valid_lines(tmp_path_factory: pytest.TempPathFactory, found: list[str]) -> None:
    file = tmp_path_factory.mktemp("h") / "rollouts.jsonl"
    file.write_text("\n".join(found) + "\n", encoding="utf-8", errors="replace")
    history = a_history(file)
    history.keep([a_rollout(1, Status.DONE)])
    for one in history.summaries("", 99):
        assert load(RolloutView, json.loads(dump(one))) == one
    assert 1 in [one.id for one in history.summaries("app", 99)]
