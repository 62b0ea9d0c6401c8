"""What the commands do when what they write to goes away."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor_rolling.core.rollout import Status
from supervisor_rolling.ctl.output import Output
from tests.unit.test_controllerplugin import Controller, a_view

FULL = Path("/dev/full")

PROGRAM = """
import sys
from supervisor_rolling.ctl.output import Output
output = Output(sys.stdout)
for n in range(20000):
    output.write(f"line {n}\\n")
sys.exit(5 if output.is_lost else 0)
"""


def written(command: str) -> subprocess.CompletedProcess[str]:
    """A shell's command, ``program`` in which writes 20000 lines."""
    program = f"{sys.executable} -c '{PROGRAM}'"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("program", program)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_line_is_written():
    assert written("program").stdout.count("line") == 20000


@pytest.mark.parametrize(
    ("command", "reason"), [("program | head -n 1", "Broken pipe"), ("program > /dev/full", "No space left on device")]
)
def test_write_error_is_reported_once_and_the_rest_dropped(command: str, reason: str):
    done = written(command)
    assert (done.returncode, done.stderr) == (5, f"rolling: cannot write the output: {reason}\n")


@pytest.mark.parametrize("errors", ["2> /dev/full", "2>&-", "2>&1 | true"])
def test_full_standard_error_does_not_end_the_command(errors: str):
    assert written(f"program > /dev/full {errors}").returncode == 5


def test_closed_output_does_not_end_the_command():
    assert written("program >&-").returncode == 5


def test_write_error_of_a_stream_without_file_is_handled():
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    output = Output(Gone())
    output.write("x")
    output.write("y")
    assert (output.is_lost, output.is_terminal, output.encoding) == (True, False, "ascii")


@pytest.mark.parametrize(
    ("command", "last", "status"),
    [
        ("rolling_restart app", Status.DONE, 0),
        ("rolling_restart app", Status.FAILED, 1),
        ("rolling_resume app --json", Status.DONE, 0),
        ("rolling_status app", Status.DONE, 1),
        ("rolling_pause app", Status.DONE, 1),
    ],
)
def test_full_disk_keeps_the_exit_status_of_a_rollout(command: str, last: Status, status: int):
    controller = Controller()
    controller.server.rollouts = [json.loads(json.dumps(a_view(word))) for word in (Status.RUNNING, last)]
    with FULL.open("w", encoding="utf-8") as full:
        controller.stdout = full  # type: ignore[assignment]
        controller.run(command)
    assert controller.exitstatus == status
