"""The demo shows what it promises, is not content with less, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support import demo, proc
from tests.support.load import Report
from tests.support.netns import NoNamespaceError
from tests.support.stack import ROOT
from tests.support.variants import first

SMALL = [sys.executable, "-u", "-m", "tests.support.demo", "--processes=2", "--seconds=1", "--rate=40"]

GOOD = demo.Outcome(
    periods={name: Report(100, 0, 0, 0, 0.003, 0.01, 0.02, 0.0) for name in ("before", "during", "after")},
    new={"before": 0, "during": 40, "after": 100},
    rollout={"status": "done", "total": 2, "min_available": 1, "processes": [{}, {}], "seconds": 3.21},
    kept=[],
)


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A demo with files and processes of its own; none of either may be left."""
    with tempfile.TemporaryDirectory(prefix="d-") as directory:  # a short name: there will be a unix socket in it
        yield {**os.environ, "TMPDIR": directory}
        assert os.listdir(directory) == []
        assert [proc.command(process) for process in proc.carrying(f"TMPDIR={directory}")] == []


def test_demo_shows_a_rollout_and_its_load_report(environment: dict[str, str]) -> None:
    done = subprocess.run(SMALL, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    command, *rest = done.stdout.partition("$ supervisorctl ")[2].splitlines()
    assert command == "rolling_restart app"
    assert [line.split()[0] for line in rest[:4]] == ["app:", "app-8000", "app-8001", "app:"]
    assert rest[-1].startswith("2 processes replaced. Of ")


@pytest.mark.parametrize(
    ("moment", "number"),
    first(
        1,
        [
            ("app: replacing", signal.SIGINT),
            ("Warming", signal.SIGTERM),
            ("Load", signal.SIGINT),
            ("Load", signal.SIGHUP),
        ],
    ),
)
def test_interrupted_demo_prints_no_traceback(environment: dict[str, str], moment: str, number: signal.Signals) -> None:
    shown = subprocess.PIPE
    with subprocess.Popen(SMALL, cwd=ROOT, env=environment, stdout=shown, stderr=shown, text=True) as running:
        assert running.stdout is not None
        assert any(line.startswith(moment) for line in running.stdout)
        running.send_signal(number)
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
    assert (running.returncode, said) == (130, "\nInterrupted: everything that the demo started is stopped.\n")


def test_demo_without_namespace_names_the_missing_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise NoNamespaceError("cannot make a network namespace: Operation not permitted. This needs root (sudo).")

    monkeypatch.setattr(demo, "enter_private_network", refuse)
    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert demo.main() == 3
    said = capsys.readouterr().err
    assert said.startswith("The demo needs a network namespace of its own: cannot make")
    assert said.count("\n") == 1


def test_the_table_has_a_column_for_each_period() -> None:
    lines = demo.table(GOOD)
    assert lines[0].split() == ["before", "during", "the", "rollout", "after"]
    assert [line.split()[-3:] for line in lines[1:3]] == [["100", "100", "100"], ["0", "40", "100"]]
    assert lines[-2].endswith("1 of 2")
    assert lines[-1].split() == ["the", "rollout", "took", "3.2", "s"]


def test_demo_fails_on_any_failed_request() -> None:
    assert demo.shortfalls(GOOD) == []
    failures = {"GET 502": 1, "POST no answer": 1}
    during = replace(GOOD.periods["during"], gets_failed=1, posts_failed=1, cold=3, failures=failures)
    failed = {**GOOD.rollout, "status": "failed"}
    bad = demo.Outcome({**GOOD.periods, "during": during}, GOOD.new, failed, kept=["app:app-8001"])
    assert demo.shortfalls(bad) == [
        "2 of 100 requests failed during the rollout: 1 × GET 502, 1 × POST no answer",
        "3 GETs met a cold process during the rollout",
        "the rollout is failed",
        "still of the old release: app:app-8001",
    ]
