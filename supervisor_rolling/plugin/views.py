"""Rollouts and wards as other programs and people get to see them: plain structs without the policy, times as seconds
ago.

The shapes here are the public interface of ``rolling.getRollout`` and of ``--json``.
"""

from __future__ import annotations

import json
import xmlrpc.client
from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.text import plain
from supervisor_rolling.packing import compressed
from supervisor_rolling.plugin.mailbox import ACTIVE, Mailbox
from supervisor_rolling.plugin.shapes import HEAD, TEXT

FINDING_TEXTS = ("code", "where", "text", "fix")
CLOSED_STAGES = ("draining", "restarting", "warming", "failed")  # of a rollout; a ward says itself whether it is closed


def packed(view: Any) -> xmlrpc.client.Binary:
    """A view as XML-RPC's base64: JSON, compressed by zlib. A thousand processes take a hundredth of their structs."""
    return xmlrpc.client.Binary(compressed(json.dumps(view)))


def rollout_view(rollout: Mapping[str, Any], now: float) -> dict[str, Any]:
    """A rollout, from its wire form. ``now`` is CLOCK_MONOTONIC; durations are seconds."""
    members = [member_view(member, now) for member in rollout["members"]]
    selected = [member for member in members if member["selected"]]
    rested = sum(end - begin for begin, end, _ in rollout.get("rests", ()))
    return {
        **{key: rollout[key] for key in ("id", "group", "status", "paused", "aborting", "force", "by", "limit", "why")},
        **{key: rollout["policy"][key] for key in ("min_ready_seconds", "canary")},
        "min_ready_auto": rollout["policy"].get("min_ready_auto", False),
        "min_ready_why": rollout["policy"].get("min_ready_why", ""),
        "forecast": round(rollout.get("forecast", 0.0), 3),
        "hook": _hook(rollout),
        "waits": plain(rollout.get("waits", "")) if rollout["status"] == ACTIVE else "",
        "waits_long": rollout.get("waits_long", False) and rollout["status"] == ACTIVE,
        "seconds": round((rollout["ended_at"] or now) - rollout["started_at"] - rested, 3),
        "rested": round(rested, 3),
        "total": len(selected),
        "replaced": sum(member["replaced"] for member in selected),
        "least_available": rollout["least_available"],
        "min_ready_known": not rollout["policy"].get("min_ready_auto", False)
        or rollout["policy"].get("min_ready_read", False),
        "processes": members,
    }


def _hook(rollout: Mapping[str, Any]) -> str:
    """The command that the rollout waits for now, by its key; empty where it waits for none."""
    hooks = rollout["policy"].get("hooks", {})
    if rollout["status"] != ACTIVE or not hooks:
        return ""
    if rollout.get("verdict"):
        return "after_rollout"
    is_before = not rollout.get("prepared", True) and bool(hooks["before_rollout"]["command"])
    return "before_rollout" if is_before else ""


def report_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a check, from its wire form."""
    findings = [{**finding, **{key: plain(finding[key]) for key in FINDING_TEXTS}} for finding in report["findings"]]
    lists = {key: [plain(text) for text in report[key]] for key in ("checked", "skipped")}
    is_ok = not any(finding["severity"] == "error" for finding in findings)
    return {"group": plain(report["group"]), "ok": is_ok, "findings": findings, **lists}


def head_view(head: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout of the history, without its course."""
    return {key: plain(head[key]) if shape == TEXT else head[key] for key, shape in HEAD.items()}


def member_view(member: Mapping[str, Any], now: float) -> dict[str, Any]:
    """One process of a rollout. ``seconds``: since when it is in its stage; 0 while it has not left OPEN. ``statuses``:
    of the first requests of its warm-up; none where all were 200. ``oldest_lingering``: the fields of
    ``connections.Connection`` for each of the oldest few that were left at the drain's deadline."""
    names = ("name", "stage", "selected", "attempted", "replaced", "failed", "pid", "old_pid", "why")
    counts = ("lingering_connections", "requests", "first_ms", "last_ms")
    return {
        **{key: member[key] for key in names + counts},
        "ports": _ports(member),
        "killed": member.get("killed", False),
        "deaths": member.get("deaths", 0),
        "statuses": [] if set(member.get("statuses", ())) <= {200} else member["statuses"],
        "seconds": round(now - member["since"], 3) if member["since"] else 0.0,
        **{key: round(seconds, 3) for key, seconds in member["timing"].items()},
        "oldest_lingering": [_connection_view(connection) for connection in member.get("oldest_lingering", ())],
    }


def _ports(member: Mapping[str, Any]) -> list[int]:
    return [int(address) for kind, address in member["endpoints"] if kind == "tcp"]


def _connection_view(connection: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: plain(connection[key]) for key in ("peer", "last", "state")},
        **{key: round(connection[key], 3) for key in ("age", "idle")},
    }


def holds_ports(rollout: Mapping[str, Any]) -> bool:
    """Whether it runs, or has left a failed process closed that no guard takes over."""
    is_left = not rollout["policy"]["guard"]["enabled"] and any(one["stage"] == "failed" for one in rollout["members"])
    return rollout["status"] == ACTIVE or is_left


def standings_of(mailbox: Mailbox, group: str, now: float) -> dict[str, dict[str, Any]]:
    """Where the processes of a group stand, by name: those that a rollout or the guard has in hand, or that a rollout
    left as they are. Others are open, or nobody watches them."""
    rollout, guard_state = mailbox.rollouts.get(group), mailbox.guard_states.get(group)
    is_running = rollout is not None and rollout["status"] == ACTIVE
    holds = rollout is not None and (is_running or not rollout["policy"]["guard"]["enabled"])
    members = {m["name"]: _member_standing(m, holds, now) for m in rollout["members"]} if rollout else {}
    if guard_state is None:
        return members
    guarded = {guarded["name"]: _ward_standing(guarded, now) for guarded in guard_state["guarded"]}
    in_hand = {name: m for name, m in members.items() if is_running and m["stage"] != "open"}
    ports = {name: {"ports": member["ports"]} for name, member in members.items()}
    return {**ports, **guarded, **in_hand}


def _member_standing(member: Mapping[str, Any], holds: bool, now: float) -> dict[str, Any]:
    view = member_view(member, now)
    return {
        **{key: view[key] for key in ("stage", "seconds", "ports", "why")},
        "closed": holds and view["stage"] in CLOSED_STAGES,
    }


def _ward_standing(guarded: Mapping[str, Any], now: float) -> dict[str, Any]:
    retry_in = max(0.0, round(guarded["retry_at"] - now, 3)) if guarded["stage"] == "failed" else 0.0
    seconds = round(now - guarded["since"], 3)
    return {
        **{key: guarded[key] for key in ("stage", "closed", "tries", "why")},
        "ports": _ports(guarded),
        "seconds": seconds,
        "retry_in": retry_in,
    }


def holder_text(holder: Mapping[str, Any]) -> str:
    """Who has a group, and how far they are: for whoever is refused."""
    by = f" by {holder['by']}" if holder.get("by") else ""
    if "members" not in holder:
        return f"a rollout was asked for{by} a moment ago"
    selected = [member for member in holder["members"] if member["selected"]]
    replaced = sum(member["replaced"] for member in selected)
    paused = ", paused" if holder["paused"] else ""
    return f"rollout {holder['id']}{by} has replaced {replaced} of {len(selected)}{paused}"
