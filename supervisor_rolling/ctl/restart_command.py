"""``rolling_restart`` and what is done to a rollout under way: pause, resume, abort."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Mapping
from typing import Any

from supervisor_rolling.ctl.exit_status import DONE
from supervisor_rolling.ctl.rollout_lines import first_lines, plan_lines
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.status_command import listener_lines
from supervisor_rolling.ctl.usage import name_of, target
from supervisor_rolling.ctl.watch import watch


def restart(session: Session, options: argparse.Namespace) -> int:
    """Start a rollout and watch it; or print its plan."""
    group, processes = target(options.group)
    request = {"processes": processes, "force": options.force, "dry_run": options.dry_run, "by": _requested_by()}
    if options.max_unavailable:
        request["max_unavailable"] = options.max_unavailable
    rollout = session.ask_packed("restart", group, False, request)
    if options.dry_run:
        session.print(rollout, plan_lines(rollout))
        return DONE
    return _started(session, options, rollout, resumed=False)


def resume(session: Session, options: argparse.Namespace) -> int:
    """Continue a rollout and watch it."""
    return _started(session, options, session.ask_packed("resume", name_of(options.group), False), resumed=True)


def pause(session: Session, options: argparse.Namespace) -> int:
    """Have a rollout restart no further process."""
    rollout = session.ask_packed("pause", name_of(options.group))
    return _confirm(session, rollout, "paused", f"To continue: supervisorctl rolling_resume {rollout['group']}")


def abort(session: Session, options: argparse.Namespace) -> int:
    """Have a rollout end."""
    rollout = session.ask_packed("abort", name_of(options.group))
    return _confirm(session, rollout, "aborting", f"To see it end: supervisorctl rolling_status {rollout['group']}")


def _started(session: Session, options: argparse.Namespace, rollout: Mapping[str, Any], resumed: bool) -> int:
    if not options.no_wait:
        return watch(session, rollout, resumed)
    next_step = f"To watch it: supervisorctl rolling_status {rollout['group']}"
    session.print(rollout, [*first_lines(rollout, resumed), next_step])
    return DONE


def _confirm(session: Session, rollout: Mapping[str, Any], state: str, next_step: str) -> int:
    warning = [] if rollout["listener"] else listener_lines(session.ask("getListener"))
    confirmed = f"{rollout['group']}: {state}, {rollout['replaced']} of {rollout['total']} replaced so far"
    session.print(rollout, [confirmed, *warning, next_step])
    return DONE


def _requested_by() -> str:
    """The operator, as ``user@host``: other operators see it in rolling_status and in the history."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"
