"""The exit statuses of the commands, and for each error what the operator reads about it."""

from __future__ import annotations

import difflib
import http.client
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from xml.parsers.expat import ExpatError

from supervisor.xmlrpc import Faults

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.text import readable
from supervisor_rolling.ctl.usage import UsageError

# After those of LSB init scripts. The documentation has the text of each comment.
DONE = 0  #: Every process was replaced, except those that were stopped manually; or the command has printed its answer.
FAILED = 1  #: The rollout failed, was aborted or was refused; or ``rolling_check`` found an error.
USAGE = 2  #: The command line is wrong.
NO_PLUGIN = 3  #: supervisord has not loaded the plugin.
NO_PERMISSION = 4  #: The user has no permission to connect to supervisord, or the listener lacks rights.
NO_GROUP = 5  #: supervisord has no such group or process.
NOT_CONFIGURED = 6  #: rolling.yaml does not have the group, or is invalid.
NO_LISTENER = 7  #: The listener is not running, or supervisord does not answer.
REFUSED = 8  #: A rollout of the group is already running.
INTERRUPTED = 130  #: Ctrl-C: what a shell reports for a program that SIGINT ended. The rollout continues.

CONNECTION_ERRORS = (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError)
"""What a call to supervisord raises when it does not answer, or answers something that is no XML-RPC."""

_FAULT_STATUS = {
    Faults.UNKNOWN_METHOD: NO_PLUGIN,
    Faults.BAD_NAME: NO_GROUP,
    Faults.INCORRECT_PARAMETERS: USAGE,
    Fault.NO_PERMISSION: NO_PERMISSION,
    Fault.NOT_CONFIGURED: NOT_CONFIGURED,
    Fault.LISTENER_DOWN: NO_LISTENER,
    Fault.ROLLOUT_IN_PROGRESS: REFUSED,
}

NO_PLUGIN_TEXT = (
    "supervisord has not loaded the plugin. Fix: add [rpcinterface:rolling] to supervisord.conf (echo_rolling_conf "
    "sections prints it), then supervisorctl reload. If the section is there, supervisorctl maintail shows the error"
)
SHUTDOWN_TEXT = "supervisord is shutting down or restarting. This ends every rollout and opens all ports"


class CommandError(Exception):
    """A command failed: the text for the operator, the exit status, and the code of the entry that says more."""

    def __init__(self, text: str, status: int, code: str = "") -> None:
        super().__init__(with_see(text, code))
        self.status = status


def explain(
    error: Exception, command: str, url: str, processes: Callable[[], Iterable[Mapping[str, Any]]]
) -> tuple[str, int]:
    """What the operator reads about an error of a command, and the exit status. ``url``: that of supervisord;
    ``processes``: gives those of supervisord, as from ``getAllProcessInfo``."""
    if isinstance(error, CommandError):
        return str(error), error.status
    if isinstance(error, UsageError):
        return with_see(f"{error}. Try: supervisorctl help {command}", "command.usage"), USAGE
    if isinstance(error, xmlrpc.client.Fault):
        return _fault_text(error, command, processes), _FAULT_STATUS.get(error.faultCode, FAILED)
    if isinstance(error, xmlrpc.client.ProtocolError):
        text = f"supervisord at {url} answered HTTP {error.errcode}: {error.errmsg}"
        if error.errcode == 401:
            text = f"{text}. Fix: set username and password in [supervisorctl], or -u and -p"
            return with_see(text, "supervisord.password"), NO_PERMISSION
        return with_see(text, "supervisord.down"), FAILED
    if isinstance(error, CONNECTION_ERRORS):
        status = NO_PERMISSION if isinstance(error, PermissionError) else NO_LISTENER
        return connection_text(url, error), status
    return with_see(f"this is a bug in supervisor_rolling: {type(error).__name__}: {error}", "bug"), FAILED


def connection_text(url: str, error: Exception, more: str = "") -> str:
    """What the operator reads when supervisord cannot be reached. ``more``: a sentence to add."""
    if isinstance(error, PermissionError):
        return with_see(f"no permission to connect to supervisord at {url}. Fix: use sudo", "supervisord.permission")
    reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
    fix = "Fix: start supervisord; its rollouts ended when it stopped"
    return with_see(f"supervisord does not answer at {url}: {reason}. {fix}{more and f'. {more}'}", "supervisord.down")


def _fault_text(fault: xmlrpc.client.Fault, command: str, processes: Callable[[], Iterable[Mapping[str, Any]]]) -> str:
    text = readable(fault.faultString.partition(": ")[2] or fault.faultString, "utf-8")
    if fault.faultCode == Faults.BAD_NAME:
        return with_see(f"no such group or process: {text}{_similar_names(text, processes())}", "command.group")
    known = {
        Faults.UNKNOWN_METHOD: with_see(NO_PLUGIN_TEXT, "plugin.missing"),
        Faults.SHUTDOWN_STATE: with_see(SHUTDOWN_TEXT, "supervisord.shutdown"),
        Faults.INCORRECT_PARAMETERS: with_see(f"{command}: {text}. Try: supervisorctl help {command}", "command.usage"),
    }
    return known.get(fault.faultCode, text)


def _similar_names(name: str, processes: Iterable[Mapping[str, Any]]) -> str:
    """A hint for a name that supervisord does not know."""
    known = {(process["group"], f"{process['group']}:{process['name']}") for process in processes}
    groups = sorted({group for group, _ in known})
    close = difflib.get_close_matches(name, sorted({*groups, *(process for _, process in known)}), n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (the groups are: {', '.join(groups)})" if groups else ""
