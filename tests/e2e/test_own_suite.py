"""Supervisor's own tests, as it ships them, beside the plugin: they find nothing that they don't find without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.own_suite import Outcome
from tests.support.stack import ROOT

WITHIN = 120.0
"""Seconds for the suite; it takes ten, most of which it sleeps."""


def run(folder: Path, *arguments: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.own_suite", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Outcome(**json.loads(done.stdout))


def test_supervisor_tests_pass_beside_the_plugin(tmp_path: Path):
    alone, beside = run(tmp_path), run(tmp_path, "--beside")
    assert (beside.ran, set(beside.failed) - set(alone.failed)) == (alone.ran, set())
    assert beside.ran > 1000
    assert len(alone.failed) < alone.ran / 100, "a test that fails in both runs shows nothing"
    assert alone.made == {}
    assert beside.made["Supervisor"] > 40, "the plugin was not loaded"
    assert beside.made["DummySupervisor"] > 70
    assert beside.made["PopulatedDummySupervisor"] > 70
    assert beside.made["Controller"] > 30


HIDDEN_TMP = """
import os, sys
from pathlib import Path
from tests.support.netns import enter_private_network, hide_tmp
enter_private_network()
hide_tmp([Path(sys.argv[1])])
print(os.path.exists(sys.argv[2]), os.path.exists(sys.argv[1] + "/kept"))
"""


def test_files_left_in_tmp_are_hidden_from_them(tmp_path: Path) -> None:
    """Supervisor's own tests append to /tmp/log, for example, and compare all of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as kept, tempfile.NamedTemporaryFile(dir="/tmp") as left:
        Path(kept, "kept").touch()
        command = [sys.executable, "-c", HIDDEN_TMP, kept, left.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
