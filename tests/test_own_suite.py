"""Supervisor's own tests, as it ships them, beside the plugin: they find nothing that they don't find without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.own_suite import Outcome
from tests.lab.stack import ROOT

WITHIN = 120.0
"""Seconds for the suite; it takes ten, most of which it sleeps. Two at the same time would write into the same files of
/tmp."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(tmp_path_factory.mktemp("beside"), "--beside")


def run(folder: Path, *arguments: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.own_suite", *arguments],
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


def test_beside_the_plugin_as_many_tests_run_and_none_more_fails(alone: Outcome, beside: Outcome):
    assert (beside.ran, beside.failed) == (alone.ran, alone.failed)
    assert beside.ran > 1000


def test_alone_they_find_at_most_one_fault_of_supervisor_itself(alone: Outcome):
    """4.2.5 on Python 3.13 takes what Python puts into every class for the names of states."""
    known = "supervisor.tests.test_process.SubprocessTests.test_getProcessStateDescription"
    assert set(alone.failed) <= {known}


def test_the_plugin_was_in_every_supervisord_and_supervisorctl_that_they_made(alone: Outcome, beside: Outcome):
    assert alone.made == {}
    assert beside.made["Supervisor"] > 40
    assert beside.made["DummySupervisor"] > 70
    assert beside.made["PopulatedDummySupervisor"] > 70
    assert beside.made["Controller"] > 30
