"""Whether supervisord has loaded the version of the plugin that these commands are of, and what is said if not."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Mapping
from typing import Any

from supervisor.xmlrpc import Faults

from supervisor_rolling import __version__
from supervisor_rolling.codec import struct_of
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.plugin_version import RESTART, version_problem
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.ctl.exit_status import CONNECTION_ERRORS, NO_LISTENER, CommandError
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.usage import UsageError

CODE = "plugin.version"

FAULTS = (Faults.UNKNOWN_METHOD, Faults.INCORRECT_PARAMETERS, Fault.LISTENER_DOWN, Fault.INTERNAL_ERROR)
"""What a plugin of another version may answer."""

Listener = Mapping[str, Any]
"""As from ``rolling.getListener``."""


def version_text(listener: Listener) -> str:
    """What the operator reads where another version is loaded; empty: it is the same."""
    problem = _problem(listener)
    return with_see(f"{problem}. Fix: {RESTART}", CODE) if problem else ""


def version_findings(listener: Listener) -> list[Mapping[str, Any]]:
    """The same as findings of a check, each as ``rolling.check`` returns it."""
    problem = _problem(listener)
    return [struct_of(Finding(CODE, "[rpcinterface:rolling]", problem, RESTART))] if problem else []


def with_version(text: str, exit_status: int, error: Exception, session: Session) -> str:
    """The text about an error of a command; where the versions may be its cause, they come first. A listener that is
    down cannot be started then, so what else there is to say of it is left out."""
    if not _may_be_cause(error, exit_status):
        return text
    try:
        listener = session.ask("getListener")
    except CONNECTION_ERRORS:
        return text
    # One that did not answer is stalled, whatever supervisord has heard of it: that is from before, for some seconds.
    version = version_text({**listener, "running": listener["running"] and exit_status != NO_LISTENER})
    if version and exit_status == NO_LISTENER:
        return version
    return f"{version}\n{text}" if version else text


def _may_be_cause(error: Exception, exit_status: int) -> bool:
    if isinstance(error, xmlrpc.client.Fault):
        return error.faultCode in FAULTS
    if isinstance(error, CommandError):
        return exit_status == NO_LISTENER
    return not isinstance(error, (UsageError, *CONNECTION_ERRORS))


def _problem(listener: Listener) -> str:
    return version_problem(listener.get("version", ""), __version__, "command", not listener["running"])
