"""How ``supervisor_rolling setup`` reads supervisord's configuration and process, and how it writes files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor_rolling.core.setup_facts import FileChange
from supervisor_rolling.core.setup_plan import signed
from supervisor_rolling.ctl import program
from supervisor_rolling.ctl.exit_status import NO_PERMISSION, CommandError
from supervisor_rolling.ctl.setup import files
from supervisor_rolling.ctl.setup.configuration import read_configuration
from supervisor_rolling.ctl.setup.host import ctl_problem
from supervisor_rolling.ctl.setup.reload import checked, not_again
from supervisor_rolling.ctl.setup.supervisord import ProgramError, Supervisord, find_supervisord

NOBODY = 65534


def configured(tmp_path: Path, main: str, **included: str) -> Path:
    (tmp_path / "conf.d").mkdir()
    for name, text in included.items():
        (tmp_path / "conf.d" / f"{name}.conf").write_text(text, encoding="utf-8")
    path = tmp_path / "supervisord.conf"
    path.write_text(main, encoding="utf-8")
    return path


def test_include_is_read_relative_to_the_file(tmp_path: Path) -> None:
    main = configured(
        tmp_path,
        "[supervisord]\n[include]\nfiles = conf.d/*.conf  %(here)s/more/*.ini %(ENV_SITE)s/x ; those\n",
        rolling="[eventlistener:rolling]\ncommand = x --config %(here)s/y ; comment\n",
        other="[eventlistener:memmon]\ncommand = memmon\n",
    )
    found = read_configuration(str(main), {"SITE": "/srv"}, "/")
    assert found.includes == (f"{tmp_path}/conf.d/*.conf", f"{tmp_path}/more/*.ini", "/srv/x")
    assert found.sections["eventlistener:rolling"].file == f"{tmp_path}/conf.d/rolling.conf"
    assert found.sections["eventlistener:rolling"].policy == f"{tmp_path}/y"
    assert found.pools == {"rolling", "memmon"}


def test_file_without_include_has_none(tmp_path: Path) -> None:
    assert read_configuration(str(configured(tmp_path, "[supervisord]\n")), {}, "/").includes is None


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("x", "/etc/supervisor/rolling.yaml"),
        ("x --config r.yaml", "/run/r.yaml"),
        ("x --config=/a%%b/r.yaml", "/a%b/r.yaml"),
        ("x --config '/a b/%(program_name)s.yaml'", "/a b/rolling.yaml"),
        ("x --config %(ENV_SITE)s/r.yaml --other", "/srv/r.yaml"),
    ],
)
def test_policy_is_what_the_command_names(tmp_path: Path, command: str, path: str) -> None:
    main = configured(tmp_path, f"[eventlistener:rolling]\ncommand = {command}\n")
    found = read_configuration(str(main), {"SITE": "/srv"}, "/run")
    assert found.sections["eventlistener:rolling"].policy == path


@pytest.mark.parametrize("line", ["[include]\nfiles = %(ENV_NO)s/x", "[eventlistener:rolling]\ncommand = x 'y"])
def test_value_that_cannot_be_read_is_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(CommandError, match=r"\[eventlistener:rolling\]|\[include\]"):
        read_configuration(str(configured(tmp_path, f"{line}\n")), {}, "/")


def test_missing_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        read_configuration(str(tmp_path / "nowhere"), {}, "/")


# --- the process


def test_process_that_is_no_supervisord_is_refused() -> None:
    with pytest.raises(CommandError, match="run setup where it runs"):
        find_supervisord(os.getpid())


def test_supervisord_is_found_by_its_command_line(tmp_path: Path) -> None:
    script = tmp_path / "supervisord"
    script.write_text("import time\nprint(flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    command = [sys.executable, "-B", "-W", "ignore", "supervisord", "-n", "-c", "etc/x.conf"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env={"A": "b"}) as process:
        assert process.stdout
        process.stdout.readline()
        found = find_supervisord(process.pid)
        process.kill()
    assert (found.python, found.flags) == (sys.executable, ("-B", "-W", "ignore"))
    assert (found.first_path, found.configuration) == (str(tmp_path), f"{tmp_path}/etc/x.conf")
    assert (found.uid, found.environment) == (os.geteuid(), {"A": "b"})
    assert found.groups == (os.getegid(), *os.getgroups())


def test_python_that_an_upgrade_replaced_is_found(tmp_path: Path) -> None:
    python = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    (tmp_path / "supervisord").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    environment = {"PYTHONHOME": sys.base_prefix}
    with subprocess.Popen([python, tmp_path / "supervisord"], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        process.stdout.readline()
        python.unlink()
        shutil.copy(os.path.realpath(sys.executable), python)
        found = find_supervisord(process.pid)
        process.kill()
    assert found.python == str(python)


def test_program_has_the_rights_of_supervisord() -> None:
    process = replace(supervisord("/"), uid=NOBODY, groups=(NOBODY, 33, 44))
    script = "import os; print(os.getuid(), os.geteuid(), os.getgid(), sorted(os.getgroups()))"
    assert process.run(["/usr/bin/python3", "-c", script]) == f"{NOBODY} {NOBODY} {NOBODY} [33, 44]\n"


def supervisord(first_path: str, **environment: str) -> Supervisord:
    uid = os.geteuid()
    return Supervisord(1, uid, "root", (0,), sys.executable, ("-S",), first_path, "", environment, "/")


def test_import_is_tried_as_supervisord_would(tmp_path: Path) -> None:
    package = tmp_path / "supervisor_rolling"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "7"\n', encoding="utf-8")
    assert "No module named 'supervisor_rolling.rpcinterface'" in supervisord(str(tmp_path)).import_plugin()["problem"]
    (package / "rpcinterface.py").write_text("", encoding="utf-8")
    assert supervisord(str(tmp_path)).import_plugin()["version"] == "7"
    assert supervisord("/", PYTHONPATH=str(tmp_path)).import_plugin()["version"] == "7"
    assert "No module named 'supervisor_rolling'" in supervisord("/").import_plugin()["problem"]


def test_failed_program_is_told_by_its_last_line() -> None:
    with pytest.raises(ProgramError, match=r"^no way$"):
        supervisord("/").run([sys.executable, "-c", "import sys; sys.exit('hm\\nno way')"])


@pytest.mark.parametrize(
    ("output", "is_broken"),
    [
        ("Error: x:make cannot be resolved within [ctlplugin:rolling]", True),
        ("Error: x:make cannot be resolved within [ctlplugin:other]", False),
        ("4.2.5", False),
    ],
)
def test_supervisorctl_of_another_python_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, is_broken: bool
) -> None:
    script = tmp_path / "supervisorctl"
    script.write_text(f"#!/bin/sh\necho '{output}'\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = ctl_problem("/etc/supervisord.conf", {})
    assert bool(found) == is_broken
    assert not found or f"{script} cannot import the plugin, so that every one of its commands fails" in found


# --- the reload


@pytest.mark.parametrize(
    ("state", "pid", "start", "is_waited_for"),
    [
        ("RUNNING", 7, 1, True),  # the old one
        ("RUNNING", 8, 1, False),
        ("STARTING", 8, 1, True),
        ("STOPPED", 0, 1, True),  # the old one, stopped by the reload
        ("STOPPED", 0, 0, False),  # autostart = false
    ],
)
def test_reload_waits_for_new_processes(state: str, pid: int, start: int, is_waited_for: bool) -> None:
    now = [{"group": "app", "name": "web", "statename": state, "pid": pid, "start": start}]
    assert not_again({("app", "web"): 7}, now) == (["app:web"] if is_waited_for else [])
    assert not_again({("app", "web"): 0}, now) == []


def test_check_waits_until_processes_listen() -> None:
    reports = [{"findings": [{"code": code}]} for code in ("config.ports", "config.ports", "nginx.lone")]
    session: Any = SimpleNamespace(ask=lambda *_: reports.pop(0))
    assert checked(session, "app") == {"findings": [{"code": "nginx.lone"}]}


# --- the files


def test_file_is_written_whole_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "rolling.conf"
    previous = os.umask(0o077)
    try:
        files.write(FileChange(str(path), "a\n", None))
        files.write(FileChange(str(path), "b\n", "a\n"))
    finally:
        os.umask(previous)
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("b\n", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_link_stays_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    files.write(FileChange(str(link), "a\n", None))
    assert (link.is_symlink(), target.read_text(encoding="utf-8")) == (True, "a\n")


def test_owner_and_mode_of_an_existing_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "rolling.yaml"
    path.write_bytes(b"# mine\r\n")
    path.chmod(0o640)
    os.chown(path, 0, 33)
    files.write(FileChange(str(path), f"{files.read(str(path))}more\n", files.read(str(path))))
    there = path.stat()
    assert (path.read_bytes(), there.st_mode & 0o777, there.st_gid) == (b"# mine\r\nmore\n", 0o640, 33)


@pytest.mark.parametrize("text", ["plan\n", ""])
@pytest.mark.parametrize("before", [None, "before\n"])
def test_file_that_changed_meanwhile_is_kept(tmp_path: Path, text: str, before: str | None) -> None:
    path = tmp_path / "x"
    path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(CommandError, match="has changed meanwhile, and is kept"):
        files.write(FileChange(str(path), text, before))
    assert path.read_text(encoding="utf-8") == "mine\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file in a directory, both of which are root's alone."""
    (tmp_path / "conf.d").mkdir(mode=0o755)
    return tmp_path / "conf.d" / "x.conf"


def test_place_of_root_is_read_and_written_as_root(place: Path) -> None:
    files.require_root_alone(str(place), "web")
    place.symlink_to("/etc/passwd")
    files.require_root_alone(str(place), "web")


@pytest.mark.parametrize("what", ["directory", "file", "link", "dangling link"])
def test_place_of_another_user_is_left(place: Path, what: str) -> None:
    if what == "file":
        place.touch()
    elif what != "directory":
        place.symlink_to("/etc/passwd" if what == "link" else "/etc/nothing")
    os.chown(place.parent if what == "directory" else place, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(CommandError, match=r"because supervisord runs as web.*Fix: run setup as web") as error:
        files.require_root_alone(str(place), "web")
    assert error.value.status == NO_PERMISSION


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot be written: No such file or directory"):
        files.write(FileChange(str(tmp_path / "no" / "x"), "a\n", None))


def test_remove_names_a_ctlplugin_that_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "[supervisord]\n[supervisorctl]\nserverurl = unix://%(here)s/no.sock\n"
    main = configured(tmp_path, f"{nowhere}[ctlplugin:rolling]\nsupervisor.ctl_factory = a:b\n")
    assert program.main(["-c", str(main), "setup", "--remove"]) == 0
    assert f"{main} has [ctlplugin:rolling], which setup did not write. Fix: remove it" in capsys.readouterr().out


def test_files_are_removed_where_supervisord_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = configured(
        tmp_path,
        "[supervisord]\n[supervisorctl]\nserverurl = unix://%(here)s/no.sock\n[include]\nfiles = conf.d/*.conf\n",
        other="[program:x]\ncommand = x\n",
        rolling=signed("[rpcinterface:rolling]\n", ";"),
    )
    (tmp_path / "rolling.yaml").write_text("# mine\n" + signed("groups: {}\n", "#"), encoding="utf-8")
    monkeypatch.setattr(program.ProgramOptions, "stdout", sys.stdout)
    assert program.main(["-c", str(main), "setup", "--remove", "--yes"]) == 0, capsys.readouterr().out
    assert [path.name for path in (tmp_path / "conf.d").iterdir()] == ["other.conf"]
    assert (tmp_path / "rolling.yaml").read_text(encoding="utf-8") == "# mine\n"
    assert program.main(["-c", str(main), "setup", "--yes"]) == 7
