"""Where a gate writes down what it has closed, and that whoever comes next finds it there."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from supervisor_rolling.core.errors import GateError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.draining import DIRECTORY, DIRECTORY_VARIABLE
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.gates.state_file import StateFile
from tests.support.unprivileged import error_as_nobody, let_in

PLACE = ("unix:///s.sock", "/run/haproxy/admin.sock", "app")
USER = 1000


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that the operator has named."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "named"))
    return tmp_path / "named"


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)


def directory_for(user: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    return str(StateFile(PLACE).path.parent)


@pytest.mark.parametrize("user", [0, USER])
def test_it_lies_where_the_operator_says(directory: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directory_for(user, monkeypatch) == str(directory)


@pytest.mark.usefixtures("unnamed")
def test_where_he_says_nothing_it_lies_in_run_for_root_and_with_the_temporary_files_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert directory_for(0, monkeypatch) == DIRECTORY
    assert directory_for(USER, monkeypatch) == f"{tempfile.gettempdir()}/supervisor_rolling-{USER}"


def test_a_container_that_is_made_anew_finds_it_by_the_url(directory: Path) -> None:
    StateFile(PLACE).write({"a": "drain"})
    written = list(directory.iterdir())
    policy = GatePolicy("haproxy", socket=PLACE[1], backend_name=PLACE[2], bypass="none")
    for host in ("0a1b2c", "3d4e5f"):
        gate = make_gate(policy, f"{host} {PLACE[0]}", time.monotonic)
        assert vars(gate)["_file"].path == written[0]


@pytest.mark.usefixtures("unnamed")
def test_where_there_is_nowhere_to_write_it_is_said_how_to_name_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    with pytest.raises(GateError, match=rf"No usable temporary directory .*{DIRECTORY_VARIABLE} in the env"):
        StateFile(PLACE)


def test_a_directory_that_is_root_s_alone_is_said_before_anything_is_closed(directory: Path) -> None:
    directory.mkdir()
    let_in(directory)
    said = error_as_nobody(StateFile(PLACE).prepare)
    assert said.startswith(
        f"GateError: No directory for the gate's state file: the listener's user may not write to {directory}"
    )
    assert DIRECTORY_VARIABLE in said


def test_a_directory_of_the_operator_s_is_left_to_him_alone(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    StateFile(PLACE).write({"a": "drain"})
    assert StateFile(PLACE).states == {"a": "drain"}
    assert directory.stat().st_mode & 0o777 == 0o700
