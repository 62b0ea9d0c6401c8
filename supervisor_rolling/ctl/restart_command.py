"""``rolling_restart`` and what is done to a rollout under way: pause, resume, abort."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.ctl.exit_status import DONE, NO_LISTENER, NOT_CONFIGURED, CommandError
from supervisor_rolling.ctl.rollout_lines import NOTHING_CHANGED, first_lines, following_lines, plan_lines
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.status_command import listener_lines
from supervisor_rolling.ctl.usage import UsageError, name_of, target, targets
from supervisor_rolling.ctl.watch import watch


def restart(session: Session, options: argparse.Namespace) -> int:
    """Start a rollout, or one group after another, and watch it; or print the plans."""
    groups = _all_groups(session, options) if options.all else targets(options.group)
    request = {"force": options.force, "by": _requested_by()}
    if options.max_unavailable:
        request["max_unavailable"] = options.max_unavailable
    if options.dry_run:
        return _plan(session, [(group, []) for group in groups] or [target(options.group)], request)
    if groups:
        (rollout,) = session.ask_packed("restartGroups", groups, False, request)
    else:
        group, processes = target(options.group)
        rollout = session.ask_packed("restart", group, False, {**request, "processes": processes})
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


def _plan(session: Session, chosen: Sequence[tuple[str, list[str]]], request: Mapping[str, Any]) -> int:
    """Print what would be done to these groups and processes of them."""
    options = {**request, "dry_run": True}
    plans = [session.ask_packed("restart", name, False, {**options, "processes": those}) for name, those in chosen]
    lines = [line for plan in plans for line in plan_lines(plan)]
    session.print(plans[0] if len(plans) == 1 else {"rollouts": plans}, [*lines, NOTHING_CHANGED])
    return DONE


def _all_groups(session: Session, options: argparse.Namespace) -> list[str]:
    """The groups of rolling.yaml, in its order, without those of which no process runs."""
    if options.group:
        raise UsageError("--all means every group: name none")
    listener = session.ask("getListener")
    if not listener["running"]:
        raise CommandError("; ".join(listener_lines(listener)), NO_LISTENER)
    processes = session.ask_supervisord("getAllProcessInfo")
    up = {process["group"] for process in processes if process["statename"] not in ("STOPPED", "UNKNOWN")}
    groups = [group for group in listener["groups"] if group in up]
    if not groups:
        raise CommandError("rolling.yaml has no group of which a process runs", NOT_CONFIGURED, "config.group")
    return groups


def _started(session: Session, options: argparse.Namespace, rollout: Mapping[str, Any], resumed: bool) -> int:
    if not options.no_wait:
        return watch(session, rollout, resumed)
    next_step = f"To watch it: supervisorctl rolling_status {rollout['group']}"
    session.print(rollout, [*first_lines(rollout, resumed), *following_lines(rollout), next_step])
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
