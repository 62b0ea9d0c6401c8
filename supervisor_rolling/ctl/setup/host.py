"""What ``setup`` sees: the running supervisord, its configuration, its Python, and what the listener would see."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from supervisor_rolling import __version__, skel
from supervisor_rolling.codec import load
from supervisor_rolling.core.setup_facts import CTLPLUGIN, LISTENER, RPCINTERFACE, Host, Inspection
from supervisor_rolling.core.setup_plan import place_of_sections, policy_path
from supervisor_rolling.ctl.exit_status import FAILED, CommandError
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.setup import files
from supervisor_rolling.ctl.setup.configuration import Configuration, read_configuration
from supervisor_rolling.ctl.setup.supervisord import ProgramError, Supervisord, find_supervisord

PROGRAM = "supervisor_rolling_listener"
CTL_TIMEOUT = 20.0


@dataclass(frozen=True)
class Found:
    """A host, and what the listener's program saw of it; None where that could not run."""

    host: Host
    process: Supervisord
    inspection: Inspection | None = None

    def inspected(self, policy_text: str, groups: Mapping[str, Mapping[str, int]]) -> Inspection:
        """What the listener's program sees. ``policy_text``: of rolling.yaml as it would be, empty: as it is;
        ``groups``: the pid of each process. Raises ProgramError."""
        question = {"policy": policy_path(self.host), "policy_text": policy_text, "groups": groups}
        text = self.process.run([*shlex.split(self.host.listener), "--inspect"], json.dumps(question))
        try:
            return load(Inspection, json.loads(text))
        except ValueError as error:
            raise ProgramError(str(error)) from None


def look(session: Session) -> Found:
    """Look at the host. Raises CommandError."""
    process = find_supervisord(int(session.ask_supervisord("getPID")))
    main_file = _main_file(session, process)
    configuration = read_configuration(main_file, process.environment, process.directory)
    infos = session.ask_supervisord("getAllProcessInfo")
    host = _host(session, process, main_file, configuration, infos, _imported(process))
    found = Found(_with_files(host), process)
    if host.plugin_problem:
        return found
    try:
        return replace(found, inspection=found.inspected("", _pids(infos, configuration.pools)))
    except ProgramError as error:
        return replace(found, host=replace(found.host, listener_problem=str(error)))


def look_at_files(session: Session) -> Host:
    """The files that ``setup`` may have written, also where supervisord does not run: it does not start with a plugin
    that it cannot import. Raises CommandError."""
    try:
        process = find_supervisord(int(session.ask_supervisord("getPID")))
    except (FileNotFoundError, ConnectionRefusedError):
        main_file = _main_file(session, None)
        configuration = read_configuration(main_file, os.environ, os.path.dirname(main_file))
        return _with_files(Host(main_file, configuration.includes, sections=configuration.sections))
    main_file = _main_file(session, process)
    configuration = read_configuration(main_file, process.environment, process.directory)
    host = Host(
        main_file,
        configuration.includes,
        process.pid,
        user=process.user,
        is_root=process.uid == 0,
        sections=configuration.sections,
        is_loaded=_is_loaded(session),
    )
    return _with_files(host)


def _main_file(session: Session, process: Supervisord | None) -> str:
    """The configuration of supervisord: what it was started with, or what supervisorctl reads."""
    named = process.configuration if process else ""
    found = next((path for path in (named, session.configuration) if path and os.path.isfile(path)), "")
    if not found:
        raise CommandError("the configuration file of supervisord is not known. Fix: name it: -c FILE", FAILED)
    return os.path.abspath(found)


def _is_loaded(session: Session) -> bool:
    return any(name.startswith("rolling.") for name in session.ask_methods())


def _imported(process: Supervisord) -> Mapping[str, Any]:
    try:
        return process.import_plugin()
    except ProgramError as error:
        return {"version": "", "problem": str(error), "scripts": []}


def _host(
    session: Session,
    process: Supervisord,
    main_file: str,
    configuration: Configuration,
    infos: list[Mapping[str, Any]],
    plugin: Mapping[str, Any],
) -> Host:
    groups = {info["group"] for info in infos}
    return Host(
        pid=process.pid,
        user=process.user,
        is_root=process.uid == 0,
        python=process.python,
        plugin_problem=plugin["problem"],
        plugin_version=plugin["version"],
        version=__version__,
        listener=_listener(process, plugin["scripts"]),
        listener_problem="",
        main_file=main_file,
        includes=configuration.includes,
        sections=configuration.sections,
        defaults=skel.sections(RPCINTERFACE, LISTENER),
        running={
            group: tuple(info["name"] for info in infos if info["group"] == group and info["pid"])
            for group in sorted(groups - configuration.pools)
        },
        is_loaded=_is_loaded(session),
        ctl_problem=ctl_problem(main_file, process.rights()) if CTLPLUGIN in configuration.sections else "",
    )


def _listener(process: Supervisord, scripts: list[str]) -> str:
    """The command that runs the listener with supervisord's Python."""
    paths = [os.path.join(directory, PROGRAM) for directory in scripts]
    found = next((path for path in paths if os.access(path, os.X_OK)), "")
    return shlex.quote(found) if found else f"{shlex.quote(process.python)} -m supervisor_rolling.listener"


def _with_files(host: Host) -> Host:
    """The host with its files. Raises CommandError where root must not read or write them."""
    paths = [place_of_sections(host).path, policy_path(host)]
    for path in () if host.is_root else paths:
        files.require_root_alone(path, host.user)
    texts = {path: files.read(path) for path in paths}
    return replace(host, files={path: text for path, text in texts.items() if text is not None})


def _pids(infos: list[Mapping[str, Any]], pools: frozenset[str]) -> dict[str, dict[str, int]]:
    """The pid of each process that runs, by group; without event listeners."""
    groups: dict[str, dict[str, int]] = {info["group"]: {} for info in infos if info["group"] not in pools}
    for info in infos:
        if info["pid"] and info["group"] in groups:
            groups[info["group"]][info["name"]] = info["pid"]
    return groups


def ctl_problem(main_file: str, rights: Mapping[str, Any]) -> str:
    """Why the supervisorctl of this host cannot load our plugin: it may run with another Python than supervisord, and
    a plugin that it cannot import ends it. ``rights``: it runs what the configuration names, see ``Supervisord``."""
    program = shutil.which("supervisorctl")
    if not program:
        return ""
    try:
        done = subprocess.run(
            [program, "-c", main_file, "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT,
            check=False,
            **rights,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if f"within [{CTLPLUGIN}]" not in done.stdout + done.stderr:
        return ""
    return (
        f"{program} cannot import the plugin, so that every one of its commands fails. Fix: remove [{CTLPLUGIN}] from "
        f"{main_file} and use supervisor_rolling, or install supervisor_rolling for the Python of {program}"
    )
