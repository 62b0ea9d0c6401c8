"""Rollouts of every kind, one after another, leave nothing in supervisord and nothing in the listener.

``make endurance`` does a thousand rollouts. Here fewer are enough, because every byte that Python allocates is counted.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.soak.endurance import FIRST, KINDS, LINE_SLACK, SLACK, Row, complaints, endure, growing_lines, running
from tests.support import footprint
from tests.support.footprint import Footprint

HELD = Footprint(
    30000, 20000, 18000, 16000, {"file": 10, "socket": 2}, 1, {"objects": 900, "blocks": 5000, "traced": 70000}
)


class Endured(NamedTuple):
    """A run of so many rollouts, with its traces in the directory."""

    rollouts: int
    directory: Path
    rows: Sequence[Row]


@pytest.fixture(scope="module", params=[pytest.param(100, marks=pytest.mark.soak)])
def endured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Endured:
    directory = tmp_path_factory.mktemp("e")
    with running(directory, trace=True) as stack:
        return Endured(request.param, directory, list(endure(stack, [FIRST, request.param])))


def test_rollouts_leak_nothing(endured: Endured):
    assert complaints(endured.rows, trace=True) == []
    assert all(row.requests > 50 for row in endured.rows)


@pytest.mark.parametrize("name", ["supervisord", "listener"])
def test_no_line_of_code_allocates_per_rollout(endured: Endured, name: str):
    assert growing_lines(endured.directory, name, FIRST, endured.rollouts, LINE_SLACK) == []
    assert growing_lines(endured.directory, name, FIRST, endured.rollouts, -1_000_000) != []  # it sees something


def test_every_kind_of_resource_is_counted(endured: Endured):
    supervisord, listener = endured.rows[-1].held["supervisord"], endured.rows[-1].held["listener"]
    assert supervisord.threads == listener.threads == 1
    assert listener.files["pidfd"] == 2  # one for each process
    assert supervisord.files["socket"] == 2  # one that listens, and that of the listener
    assert min(supervisord.python["traced"], listener.python["traced"]) > 10_000


def test_first_row_covers_every_kind_of_rollout():
    assert len(KINDS) <= FIRST


# --- that it would be seen


def row(held: Footprint = HELD, **changes: Any) -> Row:
    whole = Row(10, 10.0, 200, 0, 0, 0, {"supervisord": held})
    return replace(whole, **changes)


def test_unchanged_or_smaller_footprint_is_no_finding():
    less = replace(HELD, anonymous=15000, python={**HELD.python, "objects": 800})
    assert complaints([row(), row(less)], trace=False) == []


def test_failed_requests_are_reported_for_each_row():
    assert complaints([row(failed=1), row(), row(cold=2)], trace=False) == [
        "1 of 200 requests failed, 0 met a cold process before rollout 10",
        "0 of 200 requests failed, 2 met a cold process before rollout 10",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (replace(HELD, files={"file": 11, "socket": 2}), "other open files"),
        (replace(HELD, files={"file": 10, "socket": 1}), "other open files"),
        (replace(HELD, threads=2), "other threads: 1, then 2"),
        (replace(HELD, anonymous=16513), "513 more kB of memory of its own (16000, then 16513); 512 are allowed"),
        *(
            (replace(HELD, python={**HELD.python, what: HELD.python[what] + most + 1}), f"{most + 1} more {what}")
            for what, most in SLACK.python.items()
        ),
    ],
    ids=["a file", "a socket less", "a thread", "memory", *SLACK.python],
)
def test_growth_is_reported_with_its_size(more: Footprint, said: str):
    (complaint,) = complaints([row(), row(more)], trace=False)
    assert said in complaint
    assert complaint.startswith("supervisord: after 10 rollouts ")


def test_files_are_counted_by_kind_and_threads_too():
    before = footprint.take(os.getpid(), {})
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(30,))
    with socket.socket(), open(os.devnull, "rb"):
        thread.start()
        now = footprint.take(os.getpid(), {})
        done.set()
        thread.join()
    assert now.files["socket"] == before.files.get("socket", 0) + 1
    assert now.files["file"] == before.files["file"] + 1
    assert now.threads == before.threads + 1


def test_wait_for_a_busy_process_has_a_deadline():
    restless = "import os, time\nwhile True: fd = os.dup(0); time.sleep(0.1); os.close(fd); time.sleep(0.1)"
    with subprocess.Popen([sys.executable, "-c", restless], stdin=subprocess.DEVNULL) as child:
        try:
            with pytest.raises(TimeoutError, match="goes on"):
                footprint.take(child.pid, {}, within=1.0)
        finally:
            child.kill()


def test_memory_is_in_kilobytes_and_grows_with_use():
    before = footprint.take(os.getpid(), {})
    with mmap.mmap(-1, 8_000_000, flags=mmap.MAP_PRIVATE) as taken:  # never memory that was freed before
        taken.write(b"x" * 8_000_000)
        now = footprint.take(os.getpid(), {})
    assert 0 < now.uss <= now.pss <= now.rss
    assert now.anonymous - before.anonymous > 7000
