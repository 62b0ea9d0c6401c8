"""Which groups are guarded, by which policy, and on which ports: what ``pure.guard`` needs of the world.

Keeps nothing that cannot be lost: policies are read again, ports are found again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from supervisor_rolling.in_listener.contracts import Sockets
from supervisor_rolling.model import Config, Policy, PortRule, Process, Watch, World
from supervisor_rolling.pure import guard
from supervisor_rolling.pure.guard import Ports
from supervisor_rolling.pure.names import natural
from supervisor_rolling.pure.ports import ports_for

log = logging.getLogger("supervisor_rolling")


class Watches:
    """The guarded groups. ``latest_config`` gives the policies as they are now, None where there are none."""

    def __init__(self, sockets: Sockets, latest_config: Callable[[], Config | None]) -> None:
        self._sockets = sockets
        self._latest_config = latest_config
        self._by_rule: dict[str, tuple[PortRule, dict[str, tuple[int, ...]]]] = {}
        self._by_kernel: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {}
        self._complaints: dict[str, str] = {}

    def guarded(self) -> dict[str, Policy]:
        """The policies of the groups that shall be guarded."""
        config = self._latest_config()
        return {group: policy for group, policy in config.groups.items() if policy.guard.enabled} if config else {}

    def ended(self, world: World) -> list[str]:
        """The groups that have a watch and shall not be guarded any more. None while no policy could be read: then
        those that were guarded are guarded on."""
        return [group for group in world.watches if group not in self.guarded()] if self._latest_config() else []

    def of(self, world: World, at: float) -> dict[str, Watch]:
        """The watch of each guarded group, by today's policy; a new one where nobody guarded the group before."""
        config = self._latest_config()
        if config is None:
            return dict(world.watches)
        found: dict[str, Watch] = {}
        for group, policy in self.guarded().items():
            if world.processes.get(group):
                watch = world.watches.get(group) or self._begun(policy, config, world.processes[group], at)
                found[group] = replace(watch, policy=policy, gate=config.gate)
        return found

    def ports(self, watch: Watch, processes: Mapping[str, Process]) -> Ports:
        """The ports of each process; none for one whose ports nobody knows, which cannot be guarded."""
        policy = watch.policy
        found = self._heard(watch.group, processes) if policy.ports.auto else self._ruled(policy, processes)
        if not policy.ports.auto:
            self._complain(policy.group, [name for name in processes if not found[name]])
        return found

    def _begun(self, policy: Policy, config: Config, processes: Mapping[str, Process], at: float) -> Watch:
        empty = Watch(policy.group, policy, config.gate)
        log.info("%s is guarded from now on: no process of it serves before it is warm", policy.group)
        return guard.begin(empty, processes, self.ports(empty, processes), at)

    def _ruled(self, policy: Policy, processes: Mapping[str, Process]) -> Ports:
        rule, known = self._by_rule.get(policy.group, (None, {}))
        if rule != policy.ports or known.keys() != processes.keys():
            known = {name: ports_for(policy.ports, name) for name in processes}
            self._by_rule[policy.group] = (policy.ports, known)
        return known

    def _heard(self, group: str, processes: Mapping[str, Process]) -> Ports:
        """``ports: auto``: what each process listens on or, while it does not run, what the one before it listened
        on."""
        known = self._by_kernel.setdefault(group, {})
        for name, process in processes.items():
            pid, ports = known.get(name, (0, ()))
            if process.state == "RUNNING" and process.pid and (pid != process.pid or not ports):
                found = self._sockets.ports_of(process.pid)
                known[name] = (process.pid, found) if found else (0, ports)
        return {name: known[name][1] if name in known else () for name in processes}

    def _complain(self, group: str, without: list[str]) -> None:
        """Say which processes cannot be guarded, once."""
        text = ", ".join(sorted(without, key=natural))
        if text and text != self._complaints.get(group):
            log.warning("groups.%s.ports finds no port for %s: they are not guarded", group, text)
        self._complaints[group] = text
