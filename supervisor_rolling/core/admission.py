"""From a request to a rollout: everything that can be refused is refused here, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from supervisor_rolling.core.availability import in_service
from supervisor_rolling.core.endpoint import Endpoint, Endpoints, endpoints_text
from supervisor_rolling.core.errors import ConfigError, RefusedError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy, Share
from supervisor_rolling.core.preflight_report import Settings
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import ALIVE, NOT_UP
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Interruption, Member, Rollout, Stage
from supervisor_rolling.core.share import limit_for
from supervisor_rolling.core.spares import with_spares
from supervisor_rolling.core.text import listed
from supervisor_rolling.core.timeline import noted, with_availability


def begin(
    number: int,
    policy: Policy,
    gate: GatePolicy,
    observed: Observation,
    endpoints: Endpoints,
    failed: Mapping[str, Reason],
) -> Rollout:
    """A rollout of all processes of the group that are not stopped.

    ``failed``: those that are kept closed, and why; they stay so until they are replaced. Raises ConfigError where the
    policy does not fit the group, RefusedError where there is nothing to replace.
    """
    processes = observed.processes
    _require_running(policy.group, processes)
    _require_endpoints(policy, processes, endpoints)
    names = sorted(processes, key=natural)
    members = tuple(_member(processes[name], endpoints.get(name, ()), failed.get(name), observed.at) for name in names)
    limit = limit_for(policy.max_unavailable, sum(member.selected for member in members))
    rollout = Rollout(number, policy.group, policy, members, limit, gate, started_at=observed.at)
    rollout = with_spares(rollout, processes)
    _require_known_spares(rollout)
    return with_availability(replace(rollout, min_available=len(members)), in_service(rollout, observed), observed.at)


def kept_closed(previous: Rollout | None, guard_state: GuardState | None) -> dict[str, Reason]:
    """Those that failed and are closed for it, and why: what the last rollout left so, unless the guard has opened it
    since, and what the guard could not warm."""
    left = {m.name: Reason(m.code, m.why) for m in previous.members if m.stage is Stage.FAILED} if previous else {}
    if guard_state is None:
        return left
    closed = [guarded for guarded in guard_state.guarded if guarded.closed]
    failed = {
        guarded.name: Reason(guarded.code, guarded.problem) for guarded in closed if guarded.stage is Stage.FAILED
    }
    return {**{guarded.name: left[guarded.name] for guarded in closed if guarded.name in left}, **failed}


def limited(rollout: Rollout, share: Share) -> Rollout:
    """The rollout, with another number of processes that may be unavailable."""
    return replace(rollout, limit=limit_for(share, sum(member.selected for member in rollout.members)))


def narrowed(rollout: Rollout, names: tuple[str, ...]) -> Rollout:
    """The rollout, of these processes alone (all, where none is named). Raises RefusedError where one of them is
    stopped."""
    if not names:
        return rollout
    left = [member for member in rollout.members if member.name in names and not member.selected]
    stopped = " ".join(f"{rollout.group}:{member.name}" for member in left)
    if stopped:
        raise RefusedError(
            f"{stopped} is stopped, and is left stopped. Fix: supervisorctl start {stopped}", "rollout.stopped"
        )
    members = tuple(replace(member, selected=member.selected and member.name in names) for member in rollout.members)
    return replace(rollout, members=members, to_replace=len(names) if rollout.capacity else 0)


def resumed(rollout: Rollout, previous: Rollout, processes: Mapping[str, Process]) -> Rollout:
    """A fresh rollout that continues a failed or aborted one: what that one has replaced is not replaced again, and the
    time in between does not count as the rollout's own."""
    before = {member.name: member for member in previous.members}
    return replace(
        rollout,
        id=previous.id,
        members=tuple(_carried(member, before.get(member.name), processes) for member in rollout.members),
        limit=previous.limit,
        max_unavailable=previous.max_unavailable,
        following=previous.following,
        force=previous.force,
        by=previous.by,
        user=previous.user,
        client=previous.client,
        began=previous.began,
        started_at=previous.started_at,
        interruptions=(*previous.interruptions, Interruption(previous.ended_at, rollout.started_at, previous.why)),
        levels=(*previous.levels, *rollout.levels),
        to_replace=previous.to_replace,
        min_available=min(rollout.min_available, previous.min_available),
    )


def check_not_last_serving(rollout: Rollout, processes: Mapping[str, Process], settings: Settings) -> None:
    """Raise RefusedError if the rollout would leave no process that serves, unless it is forced."""
    running = [name for name, process in processes.items() if process.state not in NOT_UP]
    selected = {member.name for member in rollout.members if member.selected}
    has_spare = any(member.spare for member in rollout.members)
    if rollout.may_stop_all or has_spare or len(running) != 1 or running[0] not in selected:
        return
    if processes[running[0]].state not in ALIVE:
        return
    group, name = rollout.group, f"{rollout.group}:{running[0]}"
    server = next((one.server for one in settings.processes if one.name == running[0]), "")
    stopped = " ".join(f"{group}:{other}" for other in sorted(processes, key=natural) if other != running[0])
    lines = [
        f"{name} is the only process of {group} that serves: requests would fail while it restarts. Fix, one of:",
        *([f"another one: supervisorctl start {stopped}"] if stopped else _spare_lines(group)),
        *([f"the reload of {server} itself: supervisorctl signal HUP {name}"] if server else []),
        f"an outage: supervisorctl rolling_restart {group} --force",
    ]
    raise RefusedError("\n".join(lines), "rollout.last_serving")


def _spare_lines(group: str) -> list[str]:
    return [
        "a spare process, by these lines in supervisord.conf and rolling.yaml, and a port or socket for both:",
        "    numprocs = 2",
        "    process_name = %(program_name)s-%(process_num)d",
        f"    groups: {{{group}: {{surge: 1}}}}",
    ]


def check_max_failures(rollout: Rollout) -> None:
    """Raise ConfigError where more failures are allowed than there is room for."""
    failures = rollout.policy.max_failures
    if failures and failures >= rollout.limit:
        raise ConfigError(
            f"groups.{rollout.group}.max_failures is {failures}, but only {rollout.limit} may be unavailable at a "
            "time, and each failed process uses one slot of max_unavailable. Fix: raise max_unavailable, or lower "
            "max_failures",
            "config.max_failures",
        )


def _member(process: Process, endpoints: tuple[Endpoint, ...], failed: Reason | None, at: float) -> Member:
    if failed is not None:
        kept = Member(process.name, endpoints, stage=Stage.FAILED, since=at, spawned=process.spawned, why=failed.text)
        kept = replace(kept, code=failed.code)
        return noted(Member(process.name, endpoints), kept, at)
    if process.state in ("STOPPED", "UNKNOWN"):
        return Member(process.name, endpoints, selected=False, why=f"is {process.state}, and is left as it is")
    return Member(process.name, endpoints)


def _carried(member: Member, before: Member | None, processes: Mapping[str, Process]) -> Member:
    if before is None:
        return member
    process = processes[member.name]
    if before.replaced and before.stage is Stage.OPEN and process.state in ALIVE:
        # Another incarnation was started by another client, and is not known to be warm.
        warmed = before.pid if before.new == process.incarnation else 0
        return replace(before, pid=warmed, endpoints=member.endpoints, failed=False, why="", code="")
    was_asked_for = before.selected or before.attempted or bool(before.why)
    return replace(member, selected=member.selected and was_asked_for, steps=(*before.steps, *member.steps))


def _require_running(group: str, processes: Mapping[str, Process]) -> None:
    if all(process.state in NOT_UP for process in processes.values()):
        raise RefusedError(
            f"all processes of {group} are stopped: there is nothing to replace. Fix: supervisorctl start {group}:*",
            "rollout.stopped",
        )


def _require_known_spares(rollout: Rollout) -> None:
    """Raise ConfigError where it is not known which port of a spare is to be closed."""
    unknown = [m.name for m in rollout.members if m.spare and not m.endpoints and rollout.policy.ports.are_own]
    if unknown:
        raise ConfigError(
            f"groups.{rollout.group}.ports is auto, and {listed(unknown)} is stopped (surge): its port is not known. "
            r"Fix: write the ports as a regex, such as 'app-(\d+)', or as a map",
            "config.ports",
        )


def _require_endpoints(policy: Policy, processes: Mapping[str, Process], endpoints: Endpoints) -> None:
    up = [name for name, process in processes.items() if process.state not in NOT_UP and policy.ports.are_own]
    without = [name for name in up if not endpoints.get(name)]
    problems = [_without_text(policy, sorted(without, key=natural), processes)] if without else []
    for endpoint, names in _shared(processes, endpoints).items():
        problems.append(f"groups.{policy.group}.ports gives {endpoints_text([endpoint])} to {' and to '.join(names)}")
    if problems:
        ways = " (a regex or a map; or none, where no load balancer sends to them)"
        start = _start_fix(without, processes) if without and policy.ports.auto else ""
        fix = f"{start}correct groups.{policy.group}.ports in rolling.yaml{ways if start else ''}"
        raise ConfigError(f"{'; '.join(problems)}. Fix: {fix}", "config.ports")


def _start_fix(names: Iterable[str], processes: Mapping[str, Process]) -> str:
    """What to do about processes that listen on nothing, before "or correct …"."""
    if any(processes[name].state in ALIVE for name in names):
        return "wait until they listen, end an old process that still holds their port (ss -ltnp shows it), or "
    return "start these processes first, or "


def _shared(names: Iterable[str], endpoints: Endpoints) -> dict[Endpoint, list[str]]:
    """The endpoints that more than one of these processes has."""
    owners: dict[Endpoint, list[str]] = {}
    for name in sorted(names, key=natural):
        for endpoint in endpoints.get(name, ()):
            owners.setdefault(endpoint, []).append(name)
    return {endpoint: found for endpoint, found in owners.items() if len(found) > 1}


def _without_text(policy: Policy, names: list[str], processes: Mapping[str, Process]) -> str:
    if not policy.ports.auto:
        return f"groups.{policy.group}.ports finds no port for {', '.join(names)}"
    states = ", ".join(f"{name} ({processes[name].state})" for name in names)
    return (
        f"groups.{policy.group}.ports is auto, which finds only the ports that a process listens on now, and these "
        f"listen on none: {states}"
    )
