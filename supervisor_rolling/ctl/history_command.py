"""``rolling_history``: a line for each rollout of the past, the newest last."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.public_view import UNIX_SOCKET
from supervisor_rolling.core.rollout import Status
from supervisor_rolling.ctl.exit_status import DONE
from supervisor_rolling.ctl.quantities import duration_text
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.text_table import table
from supervisor_rolling.ctl.usage import group_of, name_of

DEFAULT_NUMBER = 20
COLUMNS = ("ROLLOUT", "GROUP", "STARTED", "STATUS", "REPLACED", "TOOK", "BY", "WHY")


def history(session: Session, options: argparse.Namespace) -> int:
    """Print the rollouts of a group, or of all groups."""
    name = name_of(options.group) if options.group else ""
    rollouts = session.ask("getHistory", name, options.number or DEFAULT_NUMBER)
    session.print({"rollouts": rollouts}, history_lines(group_of(name), rollouts))
    return DONE


def history_lines(group: str, rollouts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The structs of ``rolling.getHistory`` as a table, with times of this host's time zone."""
    if not rollouts:
        return [f"No rollout{f' of {group}' if group else ''} is known."]
    return table([COLUMNS, *map(_row, rollouts)])


def _row(rollout: Mapping[str, Any]) -> tuple[str, ...]:
    is_unknown = rollout["status"] == Status.LOST.value and not rollout["seconds"]  # the listener was killed, too
    return (
        str(rollout["id"]),
        rollout["group"],
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(rollout["began"])),
        rollout["status"],
        f"{'?' if is_unknown else rollout['replaced']}/{rollout['total']}",
        "?" if is_unknown else _took(rollout),
        by_text(rollout),
        rollout["why"],
    )


def _took(rollout: Mapping[str, Any]) -> str:
    """How long the rollout ran and, if it was resumed, how long it had ended before."""
    took = f"{rollout['seconds']:.1f} s"
    return f"{took}, resumed after {duration_text(rollout['interrupted'])}" if rollout["interrupted"] else took


def by_text(rollout: Mapping[str, Any]) -> str:
    """The operator, as the client gave the name; and what the connection showed, if that is not the same."""
    said, user, client = rollout["by"], rollout["user"], rollout["client"]
    parts = [said or user or "-"]
    if said and user and user != said.partition("@")[0]:
        parts.append(f"as {user}")
    if client and client != UNIX_SOCKET:
        parts.append(f"from {client}")
    return " ".join(parts)
