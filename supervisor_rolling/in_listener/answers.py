"""What a request becomes: a roll made of the policy as it stands now, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from supervisor_rolling.errors import ConfigError
from supervisor_rolling.in_listener.contracts import Sockets
from supervisor_rolling.model import Config, Policy, Process, Request, Roll
from supervisor_rolling.pure import machine
from supervisor_rolling.pure.begin import begin, limited, narrowed, require_another
from supervisor_rolling.pure.ports import ports_for
from supervisor_rolling.share import parse_share


def policy_of(config: Config, group: str) -> Policy:
    """The policy of a group. Raises ConfigError where there is none."""
    if group not in config.groups:
        there = ", ".join(sorted(config.groups))
        raise ConfigError(f"rolling.yaml has no policy for the group {group} (it has {there}): add groups.{group}")
    return config.groups[group]


def roll_for(
    request: Request,
    config: Config,
    processes: Mapping[str, Process],
    previous: Roll | None,
    sockets: Sockets,
    clock: Callable[[], float],
) -> Roll:
    """The roll that a request asks for. Raises ConfigError or RefusedError; touches nothing."""
    policy = policy_of(config, request.group)
    if request.kind == "resume" and previous is not None:
        return machine.resume(replace(previous, policy=policy, gate=config.gate), clock())
    ports = {name: _ports(policy, process, previous, sockets) for name, process in processes.items()}
    roll = begin(request.id, policy, config.gate, processes, ports, clock(), previous)
    if request.max_unavailable:
        roll = limited(roll, parse_share(request.max_unavailable))
    roll = narrowed(replace(roll, force=request.force, by=request.by), request.processes)
    require_another(roll, processes)
    return roll


def _ports(policy: Policy, process: Process, previous: Roll | None, sockets: Sockets) -> tuple[int, ...]:
    if not policy.ports.auto:
        return ports_for(policy.ports, process.name)
    listening = sockets.ports_of(process.pid) if process.pid else ()
    known = {member.name: member.ports for member in previous.members} if previous else {}
    return listening or known.get(process.name, ())
