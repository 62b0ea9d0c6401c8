"""The errors, named by their cause.

Every message says what, where, and what to do; an operator reads it as it is. The numbers of ``Fault`` are what the
XML-RPC methods raise beside supervisor's own.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor_rolling.core.endpoint import Endpoint


class RollingError(Exception):
    """Base of all errors of this package. ``code``: of its entry in supervisor_rolling/help; each kind has one."""

    code = "bug"

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code or self.code


class ConfigError(RollingError):
    """The operator's YAML is wrong or says nothing of the group."""

    code = "config"


class RefusedError(RollingError):
    """The request is well formed, but to do it now would be unsafe or pointless."""

    code = "refused"


class GateError(RollingError):
    """The firewall or the load balancer refused: endpoints may be open."""

    code = "gate"


class GatePermissionError(GateError):
    """The listener lacks the rights (CAP_NET_ADMIN, CAP_NET_RAW) or the kernel lacks support."""

    code = "gate.permission"


class PartlyClosedError(GateError):
    """Some endpoints could not be closed. ``closed``: the others, as ``Gate.hold`` returns them."""

    def __init__(self, text: str, closed: Mapping[Endpoint, float]) -> None:
        super().__init__(text)
        self.closed = closed


class GateBusyError(PartlyClosedError):
    """Another program holds the lock of the firewall, so nothing was changed. Try again in a moment."""

    code = "gate.busy"


class SocketsError(RollingError):
    """The kernel did not show the connections of a port, or /proc the sockets of a process."""

    code = "sockets"


class SupervisorError(RollingError):
    """supervisord did not answer, or refused an action."""

    code = "supervisor.call"


class ConflictError(SupervisorError):
    """The rollout was changed after it was read: observe again."""


class FaultError(SupervisorError):
    """supervisord answered a call with a fault: other calls may still work. ``fault``: its number."""

    def __init__(self, text: str, fault: int) -> None:
        super().__init__(text)
        self.fault = fault


class NoKeyError(SupervisorError):
    """supervisord has not sent this listener its key yet: it will in a moment."""


class Fault:
    """XML-RPC fault codes of the ``rolling`` namespace; supervisor's own end at 92. The documentation has the text of
    each comment."""

    LISTENER_DOWN = 300  #: The listener is not running, or does not answer.
    ROLLOUT_IN_PROGRESS = 301  #: A rollout of the group is already running, or is being aborted.
    REFUSED = 302  #: The rollout would be unsafe or pointless; the text has the reason and the fix.
    NOT_CONFIGURED = 303  #: rolling.yaml does not have the group, or is invalid.
    NO_PERMISSION = 304  #: The listener lacks the rights to close a port, or the kernel lacks the support for it.
    ROLLOUT_FAILED = 305  #: The rollout that the client waited for has failed.
    ROLLOUT_ABORTED = 306  #: The rollout that the client waited for was aborted.
    NO_ROLLOUT_KNOWN = 307  #: There is no such rollout.
    CONFLICT = 308  #: The rollout was changed after the listener read it; only the listener gets this.
    LISTENER_ONLY = 309  #: The method is one of those for the listener, and the key is not the listener's.
    INTERNAL_ERROR = 310  #: A bug in supervisor_rolling; the log of supervisord shows it.


PAGES = {
    Fault.LISTENER_DOWN: "listener.down",
    Fault.ROLLOUT_IN_PROGRESS: "rollout.in_progress",
    Fault.REFUSED: "refused",
    Fault.NOT_CONFIGURED: "config",
    Fault.NO_PERMISSION: "gate.permission",
    Fault.ROLLOUT_FAILED: "rollout.failed",
    Fault.ROLLOUT_ABORTED: "rollout.aborted",
    Fault.NO_ROLLOUT_KNOWN: "rollout.unknown",
    Fault.CONFLICT: "rollout.conflict",
    Fault.LISTENER_ONLY: "listener.only",
    Fault.INTERNAL_ERROR: "bug",
}
"""The entry in supervisor_rolling/help of each fault; a message may name a closer one."""

_FAULTS: dict[type[RollingError], int] = {
    ConfigError: Fault.NOT_CONFIGURED,
    RefusedError: Fault.REFUSED,
    GatePermissionError: Fault.NO_PERMISSION,
    GateError: Fault.REFUSED,
    SocketsError: Fault.REFUSED,
}


def fault_of(error: RollingError) -> int:
    """The fault code that tells an XML-RPC client of this error."""
    return next(fault for kind, fault in _FAULTS.items() if isinstance(error, kind))
