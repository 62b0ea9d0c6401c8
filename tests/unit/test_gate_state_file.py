"""The file in which a gate records what it has closed, for the next listener."""

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
def test_named_directory_is_used(directory: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directory_for(user, monkeypatch) == str(directory)


@pytest.mark.usefixtures("unnamed")
def test_default_directory_is_run_or_a_temporary_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert directory_for(0, monkeypatch) == DIRECTORY
    assert directory_for(USER, monkeypatch) == f"{tempfile.gettempdir()}/supervisor_rolling-{USER}"


def test_new_container_finds_the_file_by_the_url(directory: Path) -> None:
    StateFile(PLACE).write({"a": "drain"})
    written = list(directory.iterdir())
    policy = GatePolicy("haproxy", socket=PLACE[1], backend_name=PLACE[2], bypass="none")
    for host in ("0a1b2c", "3d4e5f"):
        gate = make_gate(policy, f"{host} {PLACE[0]}", time.monotonic)
        assert vars(gate)["_file"].path == written[0]


@pytest.mark.usefixtures("unnamed")
def test_without_a_directory_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    with pytest.raises(GateError, match=rf"No usable temporary directory .*{DIRECTORY_VARIABLE} in the env"):
        StateFile(PLACE)


def test_unwritable_directory_is_an_error_before_closing(directory: Path) -> None:
    directory.mkdir()
    let_in(directory)
    said = error_as_nobody(StateFile(PLACE).prepare)
    assert said.startswith(
        f"GateError: No directory for the gate's state file: the listener's user may not write to {directory}"
    )
    assert DIRECTORY_VARIABLE in said


def test_mode_of_an_existing_directory_is_kept(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    StateFile(PLACE).write({"a": "drain"})
    assert StateFile(PLACE).states == {"a": "drain"}
    assert directory.stat().st_mode & 0o777 == 0o700
