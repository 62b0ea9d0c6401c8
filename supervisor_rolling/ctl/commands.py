"""supervisorctl's plugin: ``rolling_restart`` and the other commands, one file each.

A command asks supervisord over XML-RPC and prints the answer; it holds nothing, so it may end at any moment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from supervisor_rolling.ctl.check_command import check
from supervisor_rolling.ctl.command_hints import where_options
from supervisor_rolling.ctl.exit_status import FAILED, INTERRUPTED, explain
from supervisor_rolling.ctl.history_command import history
from supervisor_rolling.ctl.loaded_version import with_version
from supervisor_rolling.ctl.report_command import report
from supervisor_rolling.ctl.restart_command import abort, pause, restart, resume
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.setup.command import setup
from supervisor_rolling.ctl.status_command import status
from supervisor_rolling.ctl.supervisorctl_shell import all_processes, extend_shell
from supervisor_rolling.ctl.usage import PREFIX, help_text, parse

Run = Callable[[Session, argparse.Namespace], int]

VERBS: Mapping[str, Run] = {
    "rolling_restart": restart,
    "rolling_status": status,
    "rolling_pause": pause,
    "rolling_resume": resume,
    "rolling_abort": abort,
    "rolling_history": history,
    "rolling_report": report,
    "rolling_check": check,
    "rolling_setup": setup,
}

READ_ONLY = ("rolling_check", "rolling_status", "rolling_history", "rolling_report")

MAY_STILL_RUN = ". The request may still be carried out. To see it: supervisorctl rolling_status"


def make_rolling_controllerplugin(controller: Any, **config: str) -> RollingControllerPlugin:
    """What ``supervisor.ctl_factory`` names."""
    return RollingControllerPlugin(controller)


def _command(name: str) -> Callable[[RollingControllerPlugin, str], None]:
    """A method as supervisorctl wants it: ``do_NAME``, with its help as the docstring."""

    def do(self: RollingControllerPlugin, arg: str) -> None:
        self.run(name, arg)

    do.__doc__ = help_text(name)
    return do


class RollingControllerPlugin(ControllerPluginBase):
    """The commands in supervisorctl, and in the program ``supervisor_rolling``."""

    name = "rolling"

    do_rolling_restart = _command("rolling_restart")
    do_rolling_status = _command("rolling_status")
    do_rolling_pause = _command("rolling_pause")
    do_rolling_resume = _command("rolling_resume")
    do_rolling_abort = _command("rolling_abort")
    do_rolling_history = _command("rolling_history")
    do_rolling_report = _command("rolling_report")
    do_rolling_check = _command("rolling_check")

    def __init__(self, controller: Any, program: str = "") -> None:
        """``program``: the name of the program that calls, if it is not supervisorctl."""
        ControllerPluginBase.__init__(self, controller)
        self._program = program
        self._where = where_options(getattr(controller.options, "options", ()))
        if not program:
            extend_shell(controller)

    def do_help(self, arg: str) -> None:
        # Of a single topic the wrapped ``help`` prints ours, and supervisor's own plugin the rest. No docstring here:
        # it would list "help" among our commands.
        if not arg:
            ControllerPluginBase.do_help(self, arg)

    def run(self, command: str, arg: str) -> None:
        """Run a command. Never raises: an error becomes a sentence and an exit status."""
        words = arg.split()
        if not {"-h", "--help"}.isdisjoint(words):
            self.ctl.output(help_text(command, f"{self._program} " if self._program else PREFIX))
            return
        session = Session(self.ctl, self._program, self._where, "--json" in words, command == "rolling_report")
        try:
            options = parse(command, words)
            session.as_json = options.json
            exit_status = VERBS[command](session, options)
        except KeyboardInterrupt:
            exit_status = INTERRUPTED
            session.fail(f"interrupted{'' if command in READ_ONLY else MAY_STILL_RUN}", exit_status)
        except Exception as error:  # noqa: BLE001 - the end of the command
            text, exit_status = explain(error, command, session.url, lambda: all_processes(self.ctl))
            session.fail(with_version(text, exit_status, error, session), exit_status)
        if session.output.is_lost and not session.has_watched:
            exit_status = exit_status or FAILED
        if exit_status:
            self.ctl.exitstatus = exit_status
