"""``supervisor_rolling setup``: print the plan, ask, write, and say what comes next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.setup_facts import CTLPLUGIN, FileChange, Host, Plan
from supervisor_rolling.core.setup_plan import (
    is_ours,
    make_plan,
    place_of_sections,
    policy_path,
    split_ours,
    verified,
)
from supervisor_rolling.core.text import listed
from supervisor_rolling.ctl.check_command import check_lines
from supervisor_rolling.ctl.exit_status import CONNECTION_ERRORS, DONE, FAILED, NO_GROUP, CommandError
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.setup import files
from supervisor_rolling.ctl.setup.host import Found, look, look_at_files
from supervisor_rolling.ctl.setup.reload import checked, reload
from supervisor_rolling.ctl.setup.supervisord import ProgramError
from supervisor_rolling.ctl.usage import UsageError, name_of

LISTENER_GROUP = "rolling"
NEXT = (
    "Next: supervisorctl reload loads the plugin. It restarts every program of this supervisord ({programs}): take the "
    "host out of its load balancer first, or wait for the next maintenance"
)
KEPT_CTLPLUGIN = with_see(
    f"{{file}} has [{CTLPLUGIN}], which setup did not write. Fix: remove it before you uninstall the package, or "
    "every command of supervisorctl fails",
    "setup.ctlplugin",
)
UNLOAD = "Next: supervisorctl reload unloads the plugin from supervisord. It restarts every program: it can wait"


def setup(session: Session, options: argparse.Namespace) -> int:
    """Write the files, or with --remove remove them."""
    if options.remove and (options.group or options.reload):
        raise UsageError("--remove takes no group and no --reload")
    return _remove(session, options) if options.remove else _write(session, options)


# --- write


def _write(session: Session, options: argparse.Namespace) -> int:
    wanted = list(dict.fromkeys(map(name_of, options.group)))
    found = look(session)
    host, plan = found.host, _verified(found, make_plan(found.host, found.inspection, wanted))
    _say(session, [*plan.seen, *plan.advice, *_change_lines(plan.files)])
    if plan.problems:
        known = {group.name for group in found.inspection.groups} if found.inspection else set(wanted)
        return _refuse(session, plan, FAILED if known.issuperset(wanted) else NO_GROUP)
    is_written = False
    if plan.files and not options.dry_run:
        _require_yes(session, options, f"Write {_count(plan.files)}?")
        for change in reversed(plan.files):  # the sections last: the listener needs its rolling.yaml
            files.write(change)
        is_written = True
    is_loaded = host.is_loaded and not any(change.path != policy_path(host) for change in plan.files)
    _say(session, _outcome(host, plan, is_written, is_loaded, options))
    may_reload = not (is_loaded or options.dry_run or place_of_sections(host).to_add)
    reports = _reload(session, plan) if may_reload and _wants_reload(session, options) else []
    if session.as_json:
        answer = {
            "files": {change.path: change.text for change in plan.files},
            "written": is_written,
            "groups": list(plan.groups),
            "loaded": is_loaded or bool(reports),
            "advice": list(plan.advice),
            "checks": reports,
        }
        session.print(answer, [])
    is_left_out = options.reload and not (is_loaded or reports or options.dry_run)
    return FAILED if is_left_out or not all(report["ok"] for report in reports) else DONE


def _verified(found: Found, plan: Plan) -> Plan:
    """The plan, after the listener has read the rolling.yaml that it would write."""
    path = policy_path(found.host)
    for change in plan.files:
        if change.path == path:
            try:
                read = found.inspected(change.text, {})
                return verified(plan, path, read.policy_groups, read.policy_problem)
            except ProgramError as error:
                return verified(plan, path, (), str(error))
    return plan


def _refuse(session: Session, plan: Plan, status: int) -> int:
    """Each problem is a sentence, which may have lines to add to a file below it."""
    if session.as_json:
        session.fail("\n".join(plan.problems), status)
    _say(session, [line for problem in plan.problems for line in f"ERROR: {problem}".splitlines()])
    return status


def _change_lines(changes: Sequence[FileChange]) -> list[str]:
    return [line for change in changes for line in (f"{change.path}:", *_indented(_news(change)))]


def _news(change: FileChange) -> str:
    """The lines that are new in a file."""
    before = (change.before or "").splitlines()
    return "\n".join(line for line in change.text.splitlines() if line not in before or change.before is None)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _outcome(host: Host, plan: Plan, is_written: bool, is_loaded: bool, options: argparse.Namespace) -> list[str]:
    if options.dry_run and plan.files:
        return [f"Nothing was changed: this was a dry run. Without --dry-run it writes {_count(plan.files)}"]
    lines = [f"Wrote {change.path}" for change in plan.files] if is_written else ["Nothing to do: all is written"]
    if place_of_sections(host).to_add:
        lines.append(f"Not loaded yet: {host.main_file} needs the lines above. Add them, then run setup again")
    elif options.reload and not is_loaded:
        return lines
    elif not is_loaded:
        lines.append(NEXT.format(programs=listed(host.running, 5) or "none runs"))
    return lines + ([f"Then: {_rollout_hint(plan, options)}"] if plan.groups else [])


def _rollout_hint(plan: Plan, options: argparse.Namespace) -> str:
    group = next((name for name in map(name_of, options.group) if name in plan.groups), plan.groups[0])
    return f"supervisorctl rolling_check {group}, and with each deploy supervisorctl rolling_restart {group}"


def _count(changes: Sized) -> str:
    return "this file" if len(changes) == 1 else f"these {len(changes)} files"


# --- reload


def _wants_reload(session: Session, options: argparse.Namespace) -> bool:
    return bool(options.reload) or (
        not options.yes and _answers_yes(session, "Reload supervisord now? This restarts every program")
    )


def _reload(session: Session, plan: Plan) -> list[Mapping[str, Any]]:
    """Reload, and check the groups. Returns the reports."""
    seconds = reload(session)
    _say(session, [f"Reloaded in {seconds:.0f} s: the plugin is loaded, and every program runs again"])
    reports = [checked(session, group) for group in plan.groups]
    for report in reports:
        _say(session, check_lines(report))
    return reports


# --- remove


def _remove(session: Session, options: argparse.Namespace) -> int:
    host = look_at_files(session)
    left = {path: parts[0] for path, text in host.files.items() if (parts := split_ours(text))}
    kept = [path for path, text in host.files.items() if is_ours(text) and path not in left]
    _say(session, [f"{path}: {'what setup added is ' if rest else ''}to be removed" for path, rest in left.items()])
    lines = [f"{path} was changed since setup wrote it, and is kept. Fix: remove it yourself" for path in kept]
    if left and not options.dry_run:
        _require_yes(session, options, f"Remove {_count(left)}?" if not any(left.values()) else "Remove this?")
        if host.is_loaded:
            _require_no_rollout(session)
        is_unloaded = place_of_sections(host).path in left  # else a package has the sections
        if host.pid and is_unloaded:
            _stop_listener(session)
        for path, rest in left.items():
            files.write(FileChange(path, rest, host.files[path]))
        done = [f"Removed {'what setup added to ' if rest else ''}{path}" for path, rest in left.items()]
        lines = [*done, *lines, *([UNLOAD] if host.is_loaded and is_unloaded else [])]
    elif left:
        lines.append("Nothing was changed: this was a dry run")
    elif not kept:
        lines = ["Nothing to do: there is no file that setup wrote"]
    lines += [KEPT_CTLPLUGIN.format(file=host.sections[CTLPLUGIN].file)] if CTLPLUGIN in host.sections else []
    session.print({"removed": [] if options.dry_run else list(left), "kept": kept}, lines)
    return DONE


def _require_no_rollout(session: Session) -> None:
    running = [one["group"] for one in session.ask_packed("getAllRollouts") if one["status"] == "running"]
    if running:
        raise CommandError(
            f"a rollout of {listed(running)} is running, and nothing was removed. Fix: wait until it has ended, or "
            f"supervisorctl rolling_abort {running[0]}",
            FAILED,
        )


def _stop_listener(session: Session) -> None:
    """The listener opens all ports when it stops. No other program is touched."""
    try:
        session.ask_supervisord("stopProcessGroup", LISTENER_GROUP, True)
        session.ask_supervisord("removeProcessGroup", LISTENER_GROUP)
    except CONNECTION_ERRORS:  # it is not there: supervisord was not reloaded since setup
        pass


# --- dialogue


def _say(session: Session, lines: Sequence[str]) -> None:
    if lines and not session.as_json:
        session.print(None, lines)


def _require_yes(session: Session, options: argparse.Namespace, question: str) -> None:
    if not options.yes and not _answers_yes(session, question):
        raise CommandError("nothing was changed. Fix: answer y, or use --yes", FAILED)


def _answers_yes(session: Session, question: str) -> bool:
    """False where there is no terminal to answer at."""
    if session.as_json or not sys.stdin or not sys.stdin.isatty():
        return False
    session.output.write(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
