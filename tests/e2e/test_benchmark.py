"""The benchmark on a real stack, for a moment; its calculations are in tests/unit/test_benchmark.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import results
from tests.support.stack import ROOT


@pytest.mark.soak
def test_a_short_run_measures_ours_and_a_peer(tmp_path: Path):
    command = [sys.executable, "-m", "tests.benchmarks.rollouts", "--quick", "--sizes", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--ways", "gunicorn,ours-iptables"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    gunicorn, ours = results.load(tmp_path / "rollouts.json")
    assert (gunicorn.way, ours.way) == ("gunicorn", "ours-iptables")
    assert (ours.failed, ours.cold, ours.least) == (0, 0, 1)
    assert gunicorn.least == 0, "HUP tells all old workers to go before a new one has booted"
    for result in (gunicorn, ours):
        assert result.seconds > 0
        assert result.megabytes > 50
        assert sum(result.cpu.values()) > 0
    found = json.loads((tmp_path / "rollouts.json").read_text(encoding="utf-8"))["results"][1]["rollout"]
    assert sum(found["parts"].values()) + sum(found["over"].values()) == pytest.approx(found["seconds"], abs=0.01)
    ElementTree.parse(tmp_path / "rollouts.svg")
