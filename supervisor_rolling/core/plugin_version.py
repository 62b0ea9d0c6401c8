"""Whether supervisord has loaded the version of the plugin that a program belongs to.

supervisord keeps the modules that it has loaded, also over a reload. The listener and the commands are of the version
that is installed when they start, and a listener of another version than the plugin's does nothing.
"""

from __future__ import annotations

RESTART = (
    "at a quiet moment stop supervisord and start it, which restarts its programs (supervisorctl reload does not load "
    "the plugin again)"
)

STALLED = "rollouts and the crash guard are stalled"
WILL_STALL = "rollouts and the crash guard stall as soon as the listener is started again"


def version_problem(loaded: str, own: str, program: str, is_stalled: bool) -> str:
    """How the version that supervisord has loaded differs from that of a program, and what follows; empty where it is
    the same. ``loaded``: empty where the plugin is too old to tell it."""
    if loaded == own:
        return ""
    which = f"version {loaded}" if loaded else "an older version"
    effect = STALLED if is_stalled else WILL_STALL
    return f"supervisord has {which} of the plugin loaded, and this {program} is version {own}: {effect}"
