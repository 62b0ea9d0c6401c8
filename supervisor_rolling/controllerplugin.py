"""The supervisorctl commands: ``rolling_restart`` and its kin.

A command asks over XML-RPC and watches; it holds nothing. Whoever presses Ctrl-C, or loses the terminal, stops
watching and nothing else.
"""

from __future__ import annotations

import argparse
import difflib
import getpass
import http.client
import json
import os
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from xml.parsers.expat import ExpatError

from supervisor.supervisorctl import ControllerPluginBase
from supervisor.xmlrpc import Faults

from supervisor_rolling.errors import Fault
from supervisor_rolling.in_supervisorctl.check import check_lines
from supervisor_rolling.in_supervisorctl.output import Output
from supervisor_rolling.in_supervisorctl.progress import first_line, last_line, plan_lines, screen_for
from supervisor_rolling.in_supervisorctl.status import NO_LISTENER as LISTENER_WARNING
from supervisor_rolling.in_supervisorctl.status import process_lines, roll_lines
from supervisor_rolling.plain import plain, shown
from supervisor_rolling.share import parse_share

LOOK_EVERY = 0.1  # seconds between two looks at a roll
LISTENER_PATIENCE = 10.0
"""Seconds that a roll may be without a listener before the watcher gives up: supervisord starts a dead one in a
second."""

DONE, FAILED, USAGE, NO_PLUGIN, NO_PERMISSION, NO_GROUP, NOT_CONFIGURED, NO_LISTENER, REFUSED = range(9)
"""Exit statuses, after the LSB's for init scripts."""
INTERRUPTED = 130  # what a shell says of a program that SIGINT ended

_EXIT_STATUS = {
    Faults.UNKNOWN_METHOD: NO_PLUGIN,
    Faults.BAD_NAME: NO_GROUP,
    Faults.INCORRECT_PARAMETERS: USAGE,
    Fault.NO_PERMISSION: NO_PERMISSION,
    Fault.NOT_CONFIGURED: NOT_CONFIGURED,
    Fault.LISTENER_DOWN: NO_LISTENER,
    Fault.ALREADY_ROLLING: REFUSED,
}


def make_rolling_controllerplugin(controller: Any, **config: str) -> RollingControllerPlugin:
    """What ``supervisor.ctl_factory`` names."""
    return RollingControllerPlugin(controller)


class _UsageError(Exception):
    """The command line is wrong; the text says how."""


class _CommandError(Exception):
    """A command cannot be done: what to say, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Parser(argparse.ArgumentParser):
    """argparse that neither exits nor prints."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _parser(command: str, groups: int | str, description: str) -> _Parser:
    parser = _Parser(prog=command, add_help=False, allow_abbrev=False, description=description)
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    parser.add_argument("group", nargs=groups, metavar="GROUP")
    return parser


def _restart_parser() -> _Parser:
    parser = _parser("rolling_restart", "+", "Replace the processes of a group, a few at a time.")
    parser.add_argument("--max-unavailable", metavar="N|N%", type=_share, help="how many at a time")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, touch nothing")
    parser.add_argument("--no-wait", action="store_true", help="do not watch: come back when the roll has begun")
    parser.add_argument("--force", action="store_true", help="even the last that serves, whatever a check finds")
    return parser


def _resume_parser() -> _Parser:
    parser = _parser("rolling_resume", 1, "Go on with a roll that was paused, failed or aborted.")
    parser.add_argument("--no-wait", action="store_true", help="do not watch: come back when it goes on")
    return parser


def _share(text: str) -> str:
    try:
        parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


_PARSERS: Mapping[str, Callable[[], _Parser]] = {
    "rolling_restart": _restart_parser,
    "rolling_status": lambda: _parser("rolling_status", "?", "What is rolling, what is closed, which pids are warm."),
    "rolling_abort": lambda: _parser("rolling_abort", 1, "End a roll; who has left is brought back."),
    "rolling_pause": lambda: _parser("rolling_pause", 1, "Let nobody leave any more; who has left is brought back."),
    "rolling_resume": _resume_parser,
    "rolling_check": lambda: _parser("rolling_check", 1, "Look for what is wrong with a set-up; touch no process."),
}


TO_SEE = "To see it end: supervisorctl rolling_status"
TO_GO_ON = "To go on: supervisorctl rolling_resume"

WHERE_KILLED = (
    "All gates open. Where it was killed, its processes live on and hold their ports: end them before you start the "
    "next one"
)


class RollingControllerPlugin(ControllerPluginBase):
    """Commands of supervisorctl; ``do_`` and ``help_`` are cmd.Cmd's idiom."""

    name = "rolling"

    def __init__(self, controller: Any) -> None:
        ControllerPluginBase.__init__(self, controller)
        for plugin in controller.options.plugins[
            :1
        ]:  # supervisor's own answers to help first, and must know our topics
            for command in _PARSERS:
                setattr(plugin, f"help_{command}", getattr(self, f"help_{command}"))

    def do_help(self, arg: str) -> None:
        # No docstring: it would make "help" one of our commands. One topic was answered already, by supervisor's own.
        if not arg:
            ControllerPluginBase.do_help(self, arg)

    # --- commands

    def do_rolling_restart(self, arg: str) -> None:
        self._run("rolling_restart", arg, self._restart)

    def do_rolling_status(self, arg: str) -> None:
        self._run("rolling_status", arg, self._status)

    def do_rolling_abort(self, arg: str) -> None:
        self._run("rolling_abort", arg, lambda options: self._wish(options, "abort", "aborting", TO_SEE))

    def do_rolling_pause(self, arg: str) -> None:
        self._run("rolling_pause", arg, lambda options: self._wish(options, "pause", "paused", TO_GO_ON))

    def do_rolling_resume(self, arg: str) -> None:
        self._run("rolling_resume", arg, self._resume)

    def do_rolling_check(self, arg: str) -> None:
        self._run("rolling_check", arg, self._check)

    def help_rolling_restart(self) -> None:
        self.ctl.output(
            "rolling_restart <group>\t\tReplace all processes of a group, a few at a time\n"
            "rolling_restart <group>:<name> ...\tReplace these processes of a group\n"
            "  --max-unavailable N|N%\tthis many at a time, instead of the policy's\n"
            "  --dry-run\t\t\tsay what would be done, touch nothing\n"
            "  --no-wait\t\t\tdo not watch: come back when the roll has begun\n"
            "  --force\t\t\treplace even the last process that serves, whatever rolling_check finds\n"
            "  --json\t\t\tanswer with one JSON object"
        )

    def help_rolling_status(self) -> None:
        self.ctl.output(
            "rolling_status [--json]\t\t\tThe roll of every group\n"
            "rolling_status <group> [--json]\t\tA group: its roll, and for every process whether it is warm or closed"
        )

    def help_rolling_abort(self) -> None:
        self.ctl.output("rolling_abort <group>\tEnd the roll: nobody leaves any more, who has left is brought back")

    def help_rolling_pause(self) -> None:
        self.ctl.output(
            "rolling_pause <group>\tNobody leaves any more, who has left is brought back; see rolling_resume"
        )

    def help_rolling_resume(self) -> None:
        self.ctl.output(
            "rolling_resume <group>\tGo on with a roll that was paused, failed or aborted: what is new stays\n"
            "  --no-wait\t\tdo not watch: come back when it goes on"
        )

    def help_rolling_check(self) -> None:
        self.ctl.output(
            "rolling_check <group>\tLook for what is wrong with the set-up of a group, touch no process\n"
            "  --json\t\tanswer with one JSON object"
        )

    # --- what they do

    def _restart(self, options: argparse.Namespace) -> int:
        group, processes = _target(options.group)
        asked = {"processes": processes, "force": options.force, "dry_run": options.dry_run, "by": _me()}
        if options.max_unavailable:
            asked["max_unavailable"] = options.max_unavailable
        roll = self._asked("restart", group, False, asked)
        if options.dry_run:
            self._print(options, roll, plan_lines(roll))
            return DONE
        return self._begun(roll, options, resumed=False)

    def _resume(self, options: argparse.Namespace) -> int:
        return self._begun(self._asked("resume", _group(options), False), options, resumed=True)

    def _begun(self, roll: Mapping[str, Any], options: argparse.Namespace, resumed: bool) -> int:
        if not options.no_wait:
            return self._watch(roll, options.json, resumed)
        to_watch = f"To watch it: supervisorctl rolling_status {roll['group']}"
        self._print(options, roll, [first_line(roll, resumed), to_watch])
        return DONE

    def _wish(self, options: argparse.Namespace, verb: str, word: str, next_step: str) -> int:
        roll = self._asked(verb, _group(options))
        warning = [] if roll["listener"] else [LISTENER_WARNING]
        done = f"{roll['group']}: {word}, {roll['replaced']} of {roll['total']} replaced so far"
        self._print(options, roll, [done, *warning, f"{next_step} {roll['group']}"])
        return DONE

    def _check(self, options: argparse.Namespace) -> int:
        group = _group(options)
        report = self._asked("check", group)
        self._print(options, report, check_lines(group, report))
        return DONE if report["ok"] else FAILED

    def _status(self, options: argparse.Namespace) -> int:
        if options.group is None:
            rolls = self._rolling.getAllRolls()
            self._print(options, {"rolls": rolls}, roll_lines(rolls))
            return DONE
        group = _target([options.group])[0]
        processes = self._rolling.getProcesses(group)
        rolls = [{**roll, "group": group} for roll in self._rolling.getAllRolls() if roll["group"] == plain(group)]
        roll = rolls[0] if rolls else None
        self._print(options, {"roll": roll, "processes": processes}, process_lines(group, roll, processes))
        return DONE

    def _watch(self, roll: Mapping[str, Any], as_json: bool, resumed: bool) -> int:
        self._has_watched = True
        screen = None if as_json else screen_for(self._output, os.environ.get("TERM", ""))
        if screen:
            self._print(argparse.Namespace(json=False), roll, [first_line(roll, resumed)])
        if screen and resumed:
            screen.skip(roll)
        try:
            roll = self._until_end(roll, screen.show if screen else lambda _: None)
        except KeyboardInterrupt:
            return self._leave(roll, as_json)
        if screen:
            screen.close(roll)
        self._print(argparse.Namespace(json=as_json), roll, [last_line(roll)])
        return DONE if roll["status"] == "done" else FAILED

    def _leave(self, roll: Mapping[str, Any], as_json: bool) -> int:
        group = roll["group"]
        lines = [
            "No longer watching; the roll goes on.",
            f"To see it: supervisorctl rolling_status {group}",
            f"To end it: supervisorctl rolling_abort {group}",
        ]
        answer = {"error": lines[0], "exit_status": INTERRUPTED}
        self._print(argparse.Namespace(json=as_json), answer, ["", *lines])
        return INTERRUPTED

    def _until_end(self, roll: Mapping[str, Any], show: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        number, group, alone_since = roll["id"], roll["group"], 0.0
        while roll["status"] == "running":
            show(roll)
            time.sleep(LOOK_EVERY)
            roll = self._again(group, number)
            if roll["id"] != number:
                raise _CommandError(f"roll {number} of {group} has ended and roll {roll['id']} has begun", FAILED)
            alone_since = 0.0 if roll["listener"] else alone_since or time.monotonic()
            if alone_since and time.monotonic() - alone_since >= LISTENER_PATIENCE:
                raise _CommandError(
                    f"the listener does not run: roll {number} of {group} waits, and goes on when it is started again. "
                    "Look: supervisorctl status, supervisorctl tail rolling stderr",
                    NO_LISTENER,
                )
        return roll

    def _again(self, group: str, number: int) -> dict[str, Any]:
        try:
            return self._asked("getRoll", group)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Fault.NOT_ROLLING:  # it remembers a roll for as long as it lives
                text = (
                    f"supervisord was restarted meanwhile: roll {number} of {group} ended with it, and all gates opened"
                )
                raise _CommandError(text, FAILED) from None
            raise
        except PermissionError:
            raise
        except (OSError, http.client.HTTPException) as error:
            text = _connection_text(self.ctl.options.serverurl, error)
            raise _CommandError(f"{text}. {WHERE_KILLED}", _os_status(error)) from None

    # --- what the commands share

    @property
    def _rolling(self) -> Any:
        return self.ctl.get_server_proxy("rolling")

    def _asked(self, method: str, group: str, *more: Any) -> dict[str, Any]:
        """The roll of a group, by its own name: answers are ASCII."""
        return {**getattr(self._rolling, method)(group, *more), "group": group}

    def _run(self, command: str, arg: str, do: Callable[[argparse.Namespace], int]) -> None:
        """Parse, do, and turn whatever goes wrong into a sentence and an exit status."""
        if not {"-h", "--help"}.isdisjoint(arg.split()):
            getattr(self, f"help_{command}")()
            return
        options = argparse.Namespace(json="--json" in arg.split())
        self._output = Output(self.ctl.stdout)
        self._has_watched = False  # then the exit status is the roll's, also where nothing can be written
        try:
            options = _PARSERS[command]().parse_args(arg.split())
            status = do(options)
        except _UsageError as error:
            status = self._fail(options, f"{error}. Try: supervisorctl help {command}", USAGE)
        except _CommandError as error:
            status = self._fail(options, str(error), error.status)
        except xmlrpc.client.Fault as fault:
            status = self._fail(options, self._fault_text(fault), _EXIT_STATUS.get(fault.faultCode, FAILED))
        except xmlrpc.client.ProtocolError as error:
            status = self._fail(
                options, f"supervisord answers HTTP {error.errcode}: {error.errmsg}", _http_status(error)
            )
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            status = self._fail(options, _connection_text(self.ctl.options.serverurl, error), _os_status(error))
        except KeyboardInterrupt:
            text = "interrupted: what was asked may be done all the same. To see it: supervisorctl rolling_status"
            status = self._fail(options, text, INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the end of the command: an operator gets a sentence and a status
            status = self._fail(options, f"a defect of supervisor_rolling: {type(error).__name__}: {error}", FAILED)
        if self._output.is_lost and not self._has_watched:
            status = status or FAILED
        if status:
            self.ctl.exitstatus = status

    def _print(self, options: argparse.Namespace, answer: Any, lines: Sequence[str]) -> None:
        text = json.dumps(answer) if options.json else "\n".join(lines)
        self._output.write(shown(text, self._output.encoding) + "\n")

    def _fail(self, options: argparse.Namespace, text: str, status: int) -> int:
        lines = text.splitlines() or [text]
        told = (
            [f"ERROR: {text}"]
            if len(lines) == 1
            else [f"ERROR: {len(lines)} problems:", *(f"  {one}" for one in lines)]
        )
        self._print(options, {"error": text, "exit_status": status}, told)
        return status

    def _fault_text(self, fault: xmlrpc.client.Fault) -> str:
        if fault.faultCode == Faults.UNKNOWN_METHOD:
            return (
                "supervisord does not have the plugin: add [rpcinterface:rolling] to its configuration (see conf/), "
                "then restart it: supervisorctl reload. Where it is there, see why: supervisorctl maintail"
            )
        if fault.faultCode == Faults.SHUTDOWN_STATE:
            return "supervisord is shutting down or restarting: a roll ends with it, and all gates open"
        text = fault.faultString.partition(": ")[2] or fault.faultString
        if fault.faultCode == Faults.BAD_NAME:
            return f"no such group or process: {text}{self._did_you_mean(text)}"
        return str(text)

    def _did_you_mean(self, name: str) -> str:
        try:
            processes = self.ctl.get_supervisor().getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return ""
        known = {p["group"] for p in processes} | {f"{p['group']}:{p['name']}" for p in processes}
        close = difflib.get_close_matches(name, sorted(known), n=1)
        groups = ", ".join(sorted({p["group"] for p in processes}))
        return f" (did you mean {close[0]}?)" if close else f" (there is: {groups})"


def _target(names: Sequence[str]) -> tuple[str, list[str]]:
    """The group, and the processes of it that are named; none stands for all."""
    for name in names:
        if not name.isprintable():  # nor could XML carry it
            raise _UsageError(f"supervisord has no such name: {name!r}")
    groups = {name.partition(":")[0] for name in names}
    if len(groups) > 1:
        raise _UsageError(f"one group at a time, not {', '.join(sorted(groups))}")
    processes = [name.partition(":")[2] for name in names]
    if any(process in ("", "*") for process in processes):
        processes = []
    return groups.pop(), processes


def _group(options: argparse.Namespace) -> str:
    group, processes = _target(options.group)
    if processes:
        raise _UsageError(f"a roll is of a whole group: {group}")
    return group


def _me() -> str:
    """Who asks, for whoever is refused meanwhile."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"


def _http_status(error: xmlrpc.client.ProtocolError) -> int:
    return NO_PERMISSION if error.errcode == 401 else FAILED


def _os_status(error: Exception) -> int:
    return NO_PERMISSION if isinstance(error, PermissionError) else NO_LISTENER


def _connection_text(url: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to talk to supervisord at {url}: try sudo"
    reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return f"supervisord does not answer at {url}: {reason}. Does it run? A roll that had begun ends with it"
