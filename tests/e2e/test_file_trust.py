"""What root executes, with real owners and modes: a file that another user can change or replace is not run."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor_rolling import file_trust
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    Hook,
    HooksPolicy,
    Policy,
    PortRule,
    Ready,
    WarmupPolicy,
)
from supervisor_rolling.listener import balancer_config
from supervisor_rolling.listener.balancer_config import UnreadableError, read_nginx
from supervisor_rolling.listener.gate_probe import RealGateProbes
from supervisor_rolling.listener.system.command import run
from tests.support.look import pids
from tests.support.stack import Stack

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that every user may read; its files are root's."""
    found = tmp_path / "opt"
    found.mkdir()
    found.chmod(0o755)
    return found


@pytest.fixture
def script(folder: Path) -> Path:
    """It leaves a file beside itself when it is executed."""
    return a_script(folder / "hook.sh", f"#!/bin/sh\ntouch {folder}/executed\n")


def a_script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def ran(*command: str | Path) -> str:
    return run(Hook(tuple(map(str, command)), 10.0), {}, threading.Event())


def is_executed(folder: Path) -> bool:
    return (folder / "executed").exists()


def test_hook_of_root_is_run(script: Path, folder: Path) -> None:
    assert ran(script) == ""
    assert is_executed(folder)


def writable(path: Path) -> None:
    path.chmod(0o777)


def of_another_user(path: Path) -> None:
    os.chown(path, NOBODY, 0)


@pytest.mark.parametrize("spoil", [writable, of_another_user])
@pytest.mark.parametrize("what", ["hook.sh", "."])
def test_hook_writable_by_another_user_is_refused(
    script: Path, folder: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(folder / what)
    why = ran(script)
    assert why.startswith(f"{script} was not run. {folder / what}: ")
    assert not is_executed(folder)
    subprocess.run(["sh", "-c", why.rpartition("Fix: ")[2]], check=True)
    assert ran(script) == ""


def test_script_given_to_an_interpreter_is_checked(script: Path, folder: Path) -> None:
    assert ran("sh", script) == ""
    (folder / "executed").unlink()
    writable(script)
    assert f"{script}: other users may write it (mode 0777)" in ran("sh", "-e", script)
    assert not is_executed(folder)


def test_target_of_a_link_is_checked(script: Path, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(script)
    assert ran(link) == ""
    writable(folder)
    assert f"{folder}: other users may write it" in ran(link)


@pytest.mark.parametrize("first", ["#!{0}/python -u", "#!/usr/bin/env python"])
def test_interpreter_of_a_script_is_checked(folder: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    python = folder / "python"
    python.write_bytes(Path("/bin/true").read_bytes())
    python.chmod(0o755)
    hook = a_script(folder / "hook.py", f"{first.format(folder)}\n")
    assert ran(hook) == ""
    writable(python)
    assert f"{python}: other users may write it" in ran(hook)


def test_program_of_another_user_in_path_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = a_script(tmp_path / "sh", f"#!/bin/sh\ntouch {folder}/executed\n")
    of_another_user(planted)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ran("sh", "-c", "true").startswith(f"sh was not run. {planted}: belongs to the user {NOBODY}")
    assert not is_executed(folder)


def test_listener_of_another_user_runs_it(script: Path, folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:2]):
        assert path != Path("/")
    writable(script)
    os.seteuid(NOBODY)
    try:
        assert file_trust.of_command([str(script)]) == []
    finally:
        os.seteuid(0)
    assert file_trust.of_command([str(script)]) != []


def test_nginx_writable_by_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nginx = a_script(folder / "nginx", f"#!/bin/sh\ntouch {folder}/executed\n")
    writable(nginx)
    monkeypatch.setattr(balancer_config, "nginx_program", lambda: str(nginx))
    with pytest.raises(UnreadableError, match=rf"{nginx}: other users may write it"):
        read_nginx("")
    assert not is_executed(folder)


def test_configuration_writable_by_another_user_is_refused(folder: Path) -> None:
    file = folder / "nginx.conf"
    file.write_text("http { upstream app { server 127.0.0.1:8000; } }", encoding="utf-8")
    assert read_nginx(str(file)).upstreams
    of_another_user(file)
    with pytest.raises(UnreadableError, match=rf"{file}: belongs to the user {NOBODY}"):
        read_nginx(str(file))


def test_check_names_every_path_with_its_fix(script: Path, folder: Path) -> None:
    file = folder / "nginx.conf"
    file.touch()
    of_another_user(file)
    writable(script)
    hooks = HooksPolicy(after_rollout=Hook(("sh", str(script))))
    warmup = WarmupPolicy(ready=Ready(hook=Hook((str(script),))))
    policy = Policy("app", PortRule(), hooks=hooks, warmup=warmup, balancer=BalancerPolicy(str(file)))
    found = {one.where: (one.is_error, one.fix) for one in RealGateProbes().untrusted_files(policy)}
    assert found == {
        "groups.app.hooks.after_rollout": (True, f"chmod go-w {script}"),
        "groups.app.warmup.ready": (True, f"chmod go-w {script}"),
        "groups.app.balancer.nginx": (True, f"chown root {file}"),
    }


def test_rollout_is_refused_before_a_process_stops(light: Callable[..., Stack], script: Path, folder: Path) -> None:
    writable(script)
    stack = light(2, hooks={"before_rollout": [str(script)]})
    before = pids(stack)
    for words in (("rolling_check", "app"), ("rolling_restart", "app")):
        done = stack.ctl(*words)
        assert (done.returncode, f"chmod go-w {script}" in done.stdout) == (1, True), done.stdout
    forced = stack.ctl("rolling_restart", "app", "--force")
    assert (forced.returncode, "was not run" in forced.stdout) == (1, True), forced.stdout
    assert (pids(stack), is_executed(folder)) == (before, False)
