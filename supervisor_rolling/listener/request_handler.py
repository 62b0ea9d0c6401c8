"""What a request becomes: a rollout made of the policy as it stands now, or the reason why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from supervisor_rolling.core import machine
from supervisor_rolling.core.admission import (
    NAMED,
    begin,
    check_gate,
    check_max_failures,
    check_not_last_serving,
    check_stop_timeout,
    kept_closed,
    limited,
    narrowed,
)
from supervisor_rolling.core.endpoint import Endpoints, tcp
from supervisor_rolling.core.errors import ConfigError, RefusedError, RollingError, SocketsError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import Config, Policy
from supervisor_rolling.core.ports import ports_for
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from supervisor_rolling.core.share import parse_share
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.listener.contracts import Sockets

log = logging.getLogger("supervisor_rolling")


def policy_of(config: Config, group: str) -> Policy:
    """The policy of a group. Raises ConfigError where there is none, or where it is invalid."""
    if group in config.invalid:
        raise ConfigError(config.invalid[group])
    if group not in config.groups:
        there = ", ".join(sorted(config.groups))
        raise ConfigError(f"rolling.yaml has no policy for the group {group} (it has {there}): add groups.{group}")
    return config.groups[group]


def rollout_for(
    number: int,
    request: Request,
    config: Config,
    *,
    observed: Observation,
    previous: Rollout | None,
    guard_state: GuardState | None,
    sockets: Sockets,
) -> Rollout:
    """The rollout that a request asks for, whatever there is against it (``objections``). Raises ConfigError or
    RefusedError where there is none to make; touches nothing."""
    policy = policy_of(config, request.group)
    processes = observed.processes
    ports = _endpoints(policy, processes, previous, sockets)
    rollout = begin(number, policy, config.gate, observed, ports, kept_closed(previous, guard_state))
    if request.kind == "resume":
        rollout = _resumed(rollout, previous, processes)
    if request.max_unavailable:
        rollout = limited(rollout, parse_share(request.max_unavailable))
    if request.kind != "resume":
        rollout = replace(rollout, force=request.force, by=request.by)
        rollout = replace(rollout, user=request.user, client=request.client, began=request.began)
        rollout = narrowed(rollout, request.processes)
    return rollout


def objections(
    rollout: Rollout, processes: Mapping[str, Process], sockets: Sockets, closes: frozenset[str] | None
) -> Iterator[RollingError]:
    """All by which a rollout is refused before anything is touched, ConfigErrors and RefusedErrors. ``closes``: the
    kinds of endpoints that the gate can close; None where there is no gate."""
    requirements: list[Callable[[], None]] = [
        lambda: check_gate(rollout, closes),
        lambda: check_max_failures(rollout),
        lambda: check_stop_timeout(rollout, processes),
        lambda: check_not_last_serving(rollout, processes),
        lambda: _require_listening(rollout, processes, sockets),
    ]
    for require in requirements[: 4 if rollout.force else 5]:
        try:
            require()
        except RollingError as error:
            yield error


def raise_if_blocked(report: Report) -> None:
    """Raise RefusedError where a rollout would lose requests by the way things are set up: a line for each error."""
    losing = [finding for finding in report.findings if finding.is_error]
    if losing:
        errors = "1 error" if len(losing) == 1 else f"{len(losing)} errors"
        more = [f"and {len(losing) - NAMED} more"] if len(losing) > NAMED else []
        ways = f"All that is wrong: rolling_check {report.group}. To accept it: rolling_restart {report.group} --force"
        head = f"a rollout of {report.group} is refused because of {errors}:"
        raise RefusedError("\n".join([head, *map(_finding_text, losing[:NAMED]), *more, ways]))


def _finding_text(finding: Finding) -> str:
    fix = f". Fix: {finding.fix}" if finding.fix else ""
    return f"{finding.where}: {finding.text}{fix}" if finding.where else f"{finding.text}{fix}"


def _resumed(rollout: Rollout, previous: Rollout | None, processes: Mapping[str, Process]) -> Rollout:
    if previous is None or previous.status is Status.RUNNING:
        raise RefusedError(f"no rollout of {rollout.group} has failed or was aborted: there is nothing to resume")
    return machine.resumed(rollout, previous, processes)


def _require_listening(rollout: Rollout, processes: Mapping[str, Process], sockets: Sockets) -> None:
    """Raise ConfigError where a process listens elsewhere than the policy says: the wrong port would be closed, and the
    process stopped with its real port open. One of which nothing is seen may have a port by another's hands, such as
    the proxy of a container."""
    running = [
        m for m in rollout.members if m.selected and m.stage is Stage.OPEN and processes[m.name].state == "RUNNING"
    ]
    try:
        found = sockets.ports_of([processes[member.name].pid for member in running])
    except SocketsError as error:
        log.info("whether the processes of %s listen where the policy says cannot be seen: %s", rollout.group, error)
        return
    own = [(member, found[processes[member.name].pid]) for member in running]
    wrong = [
        f"{member.name} listens on {', '.join(map(str, ports))} and not on {member.ports[0]}"
        for member, ports in own
        if ports and not set(ports) & set(member.ports)
    ]
    if wrong:
        named = f"{'; '.join(wrong[:NAMED])}{f'; and {len(wrong) - NAMED} more' if len(wrong) > NAMED else ''}"
        raise ConfigError(f"{named}: mend groups.{rollout.group}.ports in rolling.yaml")


def _endpoints(
    policy: Policy, processes: Mapping[str, Process], previous: Rollout | None, sockets: Sockets
) -> Endpoints:
    if not policy.ports.auto:
        return {name: tuple(map(tcp, ports_for(policy.ports, name))) for name in processes}
    listening = sockets.ports_of([process.pid for process in processes.values() if process.pid])
    known = {member.name: member.endpoints for member in previous.members} if previous else {}
    return {
        name: tuple(map(tcp, listening.get(process.pid, ()))) or known.get(name, ())
        for name, process in processes.items()
    }
