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
import sys
import time
import xmlrpc.client
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.parsers.expat import ExpatError

from supervisor.supervisorctl import ControllerPluginBase
from supervisor.xmlrpc import Faults

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.text import readable, shown
from supervisor_rolling.ctl.check_output import check_lines
from supervisor_rolling.ctl.history_table import history_lines
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.progress import first_lines, last_line, plan_lines, screen_for
from supervisor_rolling.ctl.report_page import page
from supervisor_rolling.ctl.status_output import listener_lines, problem_lines, process_lines, rollout_lines
from supervisor_rolling.ctl.usage import (
    COMMANDS,
    UsageError,
    called_as,
    completions,
    help_text,
    parse,
    where_told,
    with_logs,
)

LOOK_EVERY = 0.1  # seconds between two looks at a rollout
LOOK_SELDOM = 2.0  # at most
LOOK_SHARE = 10
"""So many times as long as the last look took is the pause to the next: supervisord, which has one thread, takes its
time to show a thousand processes, and has a rollout to see to."""

SHOWN = 20
"""Rollouts of the history, where nobody says how many."""

LONGEST_NUMBER = 9
"""Digits of the number of a rollout."""

LISTENER_PATIENCE = 10.0
"""Seconds that a rollout may be without a listener before the watcher gives up: supervisord starts a dead one in a
second."""

JSON_ANSWERS = ("getRecord",)
"""The methods whose answer is JSON, which has its own escapes."""

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


class _CommandError(Exception):
    """A command cannot be done: what to say, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


LOOKING = ("rolling_check", "rolling_status", "rolling_history", "rolling_report")
"""The commands that change nothing."""

TO_LOOK = "supervisorctl rolling_status"
TO_SEE = "To see it end: supervisorctl rolling_status"
TO_GO_ON = "To go on: supervisorctl rolling_resume"

WHERE_KILLED = (
    "All gates open, at the latest when their lease ends. Where it was killed, its processes live on and hold their "
    "ports: end them before you start the next one"
)


class RollingControllerPlugin(ControllerPluginBase):
    """Commands of supervisorctl; ``do_`` and ``help_`` are cmd.Cmd's idiom."""

    name = "rolling"

    def __init__(self, controller: Any, program: str = "") -> None:
        """``program``: what calls it, where that is not supervisorctl."""
        ControllerPluginBase.__init__(self, controller)
        self._program = program
        self._where = where_told(getattr(controller.options, "options", ()))
        self._teach_help(controller.options.plugins[:1])
        self._teach_completion(controller)

    def _teach_help(self, plugins: Sequence[Any]) -> None:
        """Have supervisor's own plugin, which answers to help first, know our topics."""
        for plugin in plugins:
            for command in COMMANDS:
                setattr(plugin, f"help_{command}", getattr(self, f"help_{command}"))

    def _teach_completion(self, controller: Any) -> None:
        """Have the shell complete the words of our commands: it knows those of its own alone."""
        usual = getattr(controller, "complete", None)
        found: list[str] | None = None

        def complete(text: str, state: int, line: str | None = None) -> str | None:
            nonlocal found
            typed = _line_buffer() if line is None else line
            if state == 0:  # readline asks for one after another
                found = completions(typed, text, self._processes)
            if found is None:
                return usual(text, state, typed) if usual else None
            return found[state] if state < len(found) else None

        controller.complete = complete

    def do_help(self, arg: str) -> None:
        # No docstring: it would make "help" one of our commands. One topic was answered already, by supervisor's own.
        if not arg:
            ControllerPluginBase.do_help(self, arg)

    # --- commands

    def do_rolling_history(self, arg: str) -> None:
        self._run("rolling_history", arg, self._history)

    def do_rolling_report(self, arg: str) -> None:
        self._run("rolling_report", arg, self._report)

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
        self.ctl.output(help_text("rolling_restart"))

    def help_rolling_status(self) -> None:
        self.ctl.output(help_text("rolling_status"))

    def help_rolling_abort(self) -> None:
        self.ctl.output(help_text("rolling_abort"))

    def help_rolling_pause(self) -> None:
        self.ctl.output(help_text("rolling_pause"))

    def help_rolling_resume(self) -> None:
        self.ctl.output(help_text("rolling_resume"))

    def help_rolling_history(self) -> None:
        self.ctl.output(help_text("rolling_history"))

    def help_rolling_report(self) -> None:
        self.ctl.output(help_text("rolling_report"))

    def help_rolling_check(self) -> None:
        self.ctl.output(help_text("rolling_check"))

    # --- what they do

    def _restart(self, options: argparse.Namespace) -> int:
        group, processes = _target(options.group)
        asked = {"processes": processes, "force": options.force, "dry_run": options.dry_run, "by": _me()}
        if options.max_unavailable:
            asked["max_unavailable"] = options.max_unavailable
        rollout = self._ordered("restart", group, False, asked)
        if options.dry_run:
            self._print(options, rollout, plan_lines(rollout))
            return DONE
        return self._begun(rollout, options, resumed=False)

    def _resume(self, options: argparse.Namespace) -> int:
        return self._begun(self._ordered("resume", _name(options), False), options, resumed=True)

    def _begun(self, rollout: Mapping[str, Any], options: argparse.Namespace, resumed: bool) -> int:
        if not options.no_wait:
            return self._watch(rollout, options.json, resumed)
        to_watch = f"To watch it: supervisorctl rolling_status {rollout['group']}"
        self._print(options, rollout, [*first_lines(rollout, resumed), to_watch])
        return DONE

    def _wish(self, options: argparse.Namespace, verb: str, word: str, next_step: str) -> int:
        rollout = self._ordered(verb, _name(options))
        warning = [] if rollout["listener"] else listener_lines(self._listener(), [rollout])
        done = f"{rollout['group']}: {word}, {rollout['replaced']} of {rollout['total']} replaced so far"
        self._print(options, rollout, [done, *warning, f"{next_step} {rollout['group']}"])
        return DONE

    def _check(self, options: argparse.Namespace) -> int:
        name = _name(options)
        report = {**self._rolling.check(name), "group": _group_of(name)}
        self._print(options, report, check_lines(report["group"], report))
        return DONE if report["ok"] else FAILED

    def _history(self, options: argparse.Namespace) -> int:
        name = _name(options) if options.group else ""
        rollouts = self._rolling.getHistory(name, options.number or SHOWN)
        self._print(options, {"rollouts": rollouts}, history_lines(_group_of(name), rollouts))
        return DONE

    def _report(self, options: argparse.Namespace) -> int:
        self._is_page = not options.output
        if self._is_page and self._output.is_terminal and not options.json:
            raise UsageError("a page of HTML is nothing to read here: write it to a file, with -o rollout.html")
        record = json.loads(self._rolling.getRecord(*_rollout_named(options)))
        encoding = self._output.encoding if self._is_page else "utf-8"
        html = with_logs(page(record), self._process_info).encode(encoding, "xmlcharrefreplace").decode(encoding)
        text = json.dumps(record) + "\n" if options.json else html
        if self._is_page:
            self._output.write(text)
            return DONE
        _write(options.output, text)
        self._print(
            options, {"file": options.output}, [f"{options.output}: rollout {record['id']} of {record['group']}"]
        )
        return DONE

    def _status(self, options: argparse.Namespace) -> int:
        if options.group is None:
            rollouts, listener = self._unpacked("getAllRollouts"), self._listener()
            lines = [*listener_lines(listener, rollouts), *problem_lines(listener, "GROUP"), *rollout_lines(rollouts)]
            self._print(options, {"rollouts": rollouts, "listener": listener}, lines)
            return DONE
        name = _name(options)
        group = _group_of(name)
        processes, rollout = self._unpacked("getProcesses", name), self._last_rollout(group)
        listener = self._listener()
        has_earlier = rollout is None and not options.json and self._has_history(group)
        warning = [*listener_lines(listener, [rollout] if rollout else []), *problem_lines(listener, group)]
        lines = [*warning, *process_lines(group, rollout, processes, listener, has_earlier)]
        self._print(options, {"rollout": rollout, "processes": processes, "listener": listener}, lines)
        return DONE

    def _last_rollout(self, group: str) -> dict[str, Any] | None:
        """The one that runs, or the last that supervisord knows."""
        try:
            return {**self._unpacked("getRollout", group), "group": group}
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Fault.NOT_ROLLING:
                raise
            return None

    def _listener(self) -> dict[str, Any]:
        """How the listener is; nothing where supervisord runs an older version of the plugin, which does not know."""
        try:
            return dict(self._rolling.getListener())
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.UNKNOWN_METHOD:
                raise
            return {}

    def _has_history(self, group: str) -> bool:
        """Whether rollouts of a group are kept; not where the listener, which knows, does not answer: whoever asks for
        the status is to see why."""
        try:
            return bool(self._rolling.getHistory(group, 1))
        except xmlrpc.client.Fault:
            return False

    def _watch(self, rollout: Mapping[str, Any], as_json: bool, resumed: bool) -> int:
        self._has_watched = True
        screen = None if as_json else screen_for(self._output)
        if screen:
            self._print(argparse.Namespace(json=False), rollout, first_lines(rollout, resumed))
        if screen and resumed:
            screen.skip(rollout)
        try:
            rollout = self._until_end(rollout, screen.show if screen else lambda _: None)
        except KeyboardInterrupt:
            return self._leave(rollout, as_json)
        if screen:
            screen.close(rollout)
        standing = [] if as_json else self._standing(rollout)
        self._print(argparse.Namespace(json=as_json), rollout, [last_line(rollout, standing)])
        return DONE if rollout["status"] == "done" else FAILED

    def _standing(self, rollout: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The group after the end of a rollout that has left something failed. The guard has taken that over by the
        next look, and decides whether it stays closed."""
        if not any(process["stage"] == "failed" for process in rollout["processes"]):
            return ()
        time.sleep(LOOK_EVERY)
        try:
            found: list[dict[str, Any]] = self._unpacked("getProcesses", rollout["group"])
        except (xmlrpc.client.Error, OSError, http.client.HTTPException):
            return ()  # how the rollout has ended is told all the same
        return found

    def _leave(self, rollout: Mapping[str, Any], as_json: bool) -> int:
        group = rollout["group"]
        lines = [
            "No longer watching; the rollout goes on.",
            f"To see it: supervisorctl rolling_status {group}",
            f"To end it: supervisorctl rolling_abort {group}",
        ]
        answer = {"error": lines[0], "exit_status": INTERRUPTED}
        self._print(argparse.Namespace(json=as_json), answer, ["", *lines])
        return INTERRUPTED

    def _until_end(self, rollout: Mapping[str, Any], show: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        number, group, alone_since, pause = rollout["id"], rollout["group"], 0.0, LOOK_EVERY
        while rollout["status"] == "running":
            show(rollout)
            time.sleep(pause)
            began = time.monotonic()
            rollout = self._again(group, number)
            pause = min(max(LOOK_EVERY, LOOK_SHARE * (time.monotonic() - began)), LOOK_SELDOM)
            if rollout["id"] != number:
                raise _CommandError(
                    f"rollout {number} of {group} has ended and rollout {rollout['id']} has begun", FAILED
                )
            alone_since = 0.0 if rollout["listener"] else alone_since or time.monotonic()
            if alone_since and time.monotonic() - alone_since >= LISTENER_PATIENCE:
                raise _CommandError(
                    f"the listener does not run: rollout {number} of {group} waits, and goes on when it is started again. "
                    "Look: supervisorctl status, supervisorctl tail rolling stderr",
                    NO_LISTENER,
                )
        return rollout

    def _again(self, group: str, number: int) -> dict[str, Any]:
        try:
            return {**self._unpacked("getRollout", group), "group": group}
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Fault.NOT_ROLLING:  # it remembers a rollout for as long as it lives
                text = f"supervisord was restarted meanwhile: rollout {number} of {group} ended with it, and all gates opened"
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
        return _Answers(self.ctl.get_server_proxy("rolling"), self._read)

    def _ordered(self, method: str, name: str, *more: Any) -> dict[str, Any]:
        """The rollout of a group, by its own name."""
        return {**self._unpacked(method, name, *more), "group": _group_of(name)}

    def _read(self, answer: Any) -> Any:
        """What supervisord answers, with its texts as they are to be shown here."""
        if isinstance(answer, str):
            return self._called(readable(answer, self._encoding))
        if isinstance(answer, list):
            return [self._read(one) for one in answer]
        if isinstance(answer, dict):
            return {key: self._read(value) for key, value in answer.items()}
        return answer

    def _unpacked(self, method: str, *arguments: Any) -> Any:
        """What a method returns, which comes packed; unpacked where supervisord runs an older version of the plugin."""
        try:
            answer = self._rolling.callPacked(method, list(arguments))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.UNKNOWN_METHOD:
                raise
            return getattr(self._rolling, method)(*arguments)
        return self._read(json.loads(zlib.decompress(answer.data)))

    def _run(self, command: str, arg: str, do: Callable[[argparse.Namespace], int]) -> None:
        """Parse, do, and turn whatever goes wrong into a sentence and an exit status."""
        if not {"-h", "--help"}.isdisjoint(arg.split()):
            prefix = {"prefix": f"{self._program} "} if self._program else {}
            self.ctl.output(help_text(command, **prefix))
            return
        options = argparse.Namespace(json="--json" in arg.split())
        self._output = Output(self.ctl.stdout)
        self._encoding = "utf-8" if options.json else self._output.encoding  # JSON has its own escapes
        self._is_page = command == "rolling_report"
        self._has_watched = False  # then the exit status is the rollout's, also where nothing can be written
        try:
            options = parse(command, arg.split())
            status = do(options)
        except UsageError as error:
            status = self._fail(options, f"{error}. Try: supervisorctl help {command}", USAGE)
        except _CommandError as error:
            status = self._fail(options, str(error), error.status)
        except xmlrpc.client.Fault as fault:
            text = self._fault_text(fault)
            if fault.faultCode == Faults.INCORRECT_PARAMETERS:
                text = f"{command}: {text}. Try: supervisorctl help {command}"
            status = self._fail(options, text, _EXIT_STATUS.get(fault.faultCode, FAILED))
        except xmlrpc.client.ProtocolError as error:
            status = self._fail(
                options, f"supervisord answers HTTP {error.errcode}: {error.errmsg}", _http_status(error)
            )
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            status = self._fail(options, _connection_text(self.ctl.options.serverurl, error), _os_status(error))
        except KeyboardInterrupt:
            observed = "" if command in LOOKING else ": what was asked may be done all the same. To see it: " + TO_LOOK
            text = f"interrupted{observed}"
            status = self._fail(options, text, INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the end of the command: an operator gets a sentence and a status
            status = self._fail(options, f"a defect of supervisor_rolling: {type(error).__name__}: {error}", FAILED)
        if self._output.is_lost and not self._has_watched:
            status = status or FAILED
        if status:
            self.ctl.exitstatus = status

    def _print(self, options: argparse.Namespace, answer: Any, lines: Sequence[str]) -> None:
        if options.json:
            self._output.write(json.dumps(answer) + "\n")
        else:
            self._output.tell(shown(self._called("\n".join(lines)), self._output.encoding).split("\n"))

    def _called(self, text: str) -> str:
        """A text with the commands in it as they are called here, and with logs that there are."""
        text = with_logs(text, self._process_info)
        return called_as(text, self._program, self._where) if self._program else text

    def _fail(self, options: argparse.Namespace, text: str, status: int) -> int:
        head, *more = text.splitlines() or [text]
        if more and not head.endswith(":"):
            head, more = f"{len(more) + 1} problems:", [head, *more]
        told = [f"ERROR: {head}", *(f"  {one}" for one in more)]
        if self._is_page and not self._output.is_terminal:
            self._output = Output(sys.stderr)  # what it writes is to be a page
        self._print(options, {"error": self._called(text), "exit_status": status}, told)
        return status

    def _fault_text(self, fault: xmlrpc.client.Fault) -> str:
        if fault.faultCode == Faults.UNKNOWN_METHOD:
            return (
                "supervisord does not have the plugin: add [rpcinterface:rolling] to its configuration (see conf/), "
                "then restart it: supervisorctl reload. Where it is there, see why: supervisorctl maintail"
            )
        if fault.faultCode == Faults.SHUTDOWN_STATE:
            return "supervisord is shutting down or restarting: a rollout ends with it, and all gates open"
        text = str(self._read(fault.faultString.partition(": ")[2] or fault.faultString))
        if fault.faultCode == Faults.BAD_NAME:
            return f"no such group or process: {text}{self._did_you_mean(text)}"
        return text

    def _processes(self) -> Sequence[Mapping[str, Any]]:
        """What supervisord has, as ``getAllProcessInfo`` tells; nothing where it does not answer."""
        try:
            return list(self.ctl.get_supervisor().getAllProcessInfo())
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return []

    def _process_info(self, name: str) -> Mapping[str, Any]:
        """What supervisord has of a process; nothing where it does not tell."""
        try:
            found = self.ctl.get_supervisor().getProcessInfo(name)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return {}
        return found if isinstance(found, dict) else {}

    def _did_you_mean(self, name: str) -> str:
        processes = self._processes()
        if not processes:
            return ""
        known = {p["group"] for p in processes} | {f"{p['group']}:{p['name']}" for p in processes}
        close = difflib.get_close_matches(name, sorted(known), n=1)
        groups = ", ".join(sorted({p["group"] for p in processes}))
        return f" (did you mean {close[0]}?)" if close else f" (there is: {groups})"


class _Answers:
    """The methods of an XML-RPC namespace, with answers as ``read`` makes them of what supervisord sends."""

    def __init__(self, namespace: Any, read: Callable[[Any], Any]) -> None:
        self._namespace = namespace
        self._read = read

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._namespace, name)
        return method if name in JSON_ANSWERS else lambda *arguments: self._read(method(*arguments))


def _line_buffer() -> str:
    import readline  # only a shell has it, and not every Python

    return readline.get_line_buffer()


def _target(names: Sequence[str]) -> tuple[str, list[str]]:
    """The group, and the processes of it that are named; none stands for all."""
    for name in names:
        if not name.isprintable():  # nor could XML carry it
            raise UsageError(f"supervisord has no such name: {name!r}")
    groups = {name.partition(":")[0] for name in names}
    if len(groups) > 1:
        raise UsageError(f"one group at a time, not {', '.join(sorted(groups))}")
    processes = [name.partition(":")[2] for name in names]
    if any(process in ("", "*") for process in processes):
        processes = []
    return groups.pop(), processes


def _name(options: argparse.Namespace) -> str:
    """The one name that is given: a group, or its only process, which only supervisord can tell."""
    group, processes = _target([options.group] if isinstance(options.group, str) else options.group)
    return ":".join([group, *processes])


def _group_of(name: str) -> str:
    """The group in a name that supervisord has accepted."""
    return name.partition(":")[0]


def _rollout_named(options: argparse.Namespace) -> tuple[str, int]:
    """The group and the number of a rollout: digits are a number, and GROUP:* a group, whatever it is called. Nothing:
    any group; 0: its last one."""
    word = options.group or ""
    is_number = word.isascii() and word.isdigit() and len(word) <= LONGEST_NUMBER and int(word) > 0
    return ("", int(word)) if is_number else (_name(options) if word else "", 0)


def _write(path: str, text: str) -> None:
    try:
        with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:  # ValueError: no file can have a NUL in its name
        raise _CommandError(f"{path} cannot be written: {getattr(error, 'strerror', '') or error}", FAILED) from None


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
    return f"supervisord does not answer at {url}: {reason}. Does it run? A rollout that had begun ends with it"
