"""The listener's own loop: when the next reconcile may begin; and a listener that cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor_rolling.listener import main as listener
from supervisor_rolling.listener.main import LONG_RECONCILE
from tests.support.stack import ROOT


class Busy:
    """Stands in for the reconciler: a reconcile takes this many seconds of CPU, and asks for the next one at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def reconcile(self) -> float:
        until = time.thread_time() + self._seconds
        while time.thread_time() < until:
            pass
        return 0.0


@pytest.mark.parametrize(("takes", "pauses"), [(2 * LONG_RECONCILE, True), (0.0, False)])
def test_long_reconcile_pauses_before_the_next(takes: float, pauses: bool) -> None:
    reconciler: Any = Busy(takes)
    due, earliest = listener._reconciled(reconciler)
    assert due <= time.monotonic()
    assert (earliest - due >= takes * 0.99) if pauses else earliest - due < 0.001


@pytest.mark.parametrize(
    ("module", "library"), [("yaml", "PyYAML"), ("requests", "requests"), ("supervisor", "supervisor")]
)
def test_missing_library_is_named_in_one_line(tmp_path: Path, module: str, library: str) -> None:
    raises = f'raise ModuleNotFoundError("No module named {module!r}", name={module!r})\n'
    (tmp_path / f"{module}.py").write_text(raises, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SUPERVISOR_SERVER_URL": "unix:///nowhere"}
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_rolling.listener"],
        cwd=ROOT,
        env=environment,
        input="",  # its end, at which the program does not wait
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert f"the listener cannot start: No module named {module!r}. Fix: install {library} (Debian: " in last
    assert "Traceback" not in done.stderr


class Resting:
    """Stands in for a reconciler with nothing to do and one port closed. ``log``: what it was asked to do."""

    def __init__(self, checks: int, end: Callable[[], None]) -> None:
        self.log: list[str] = []
        self._checks = checks
        self._end = end

    def reconcile(self) -> float:
        self.log.append("reconcile")
        return 3600.0

    def gate_interval(self) -> float:
        return 0.01

    def check_gate(self) -> None:
        self.log.append("check the gate")
        if self.log.count("check the gate") == self._checks:
            self._end()


def test_gate_is_checked_between_two_reconciles() -> None:
    never, _ = os.pipe()
    nothing: Any = SimpleNamespace(fileno=lambda: never, overdue=list)
    with listener._alarm_clock() as alarm:
        reconciler: Any = Resting(3, alarm.end)
        assert listener._loop(nothing, reconciler, alarm, nothing) is False
    assert reconciler.log == ["reconcile", *["check the gate"] * 3]
