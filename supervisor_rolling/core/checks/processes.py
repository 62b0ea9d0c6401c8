"""Findings in what the processes of a group do: where they listen, and which of them are there at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.ports import ending_text, holder_text, may_hold, proxy_text
from supervisor_rolling.core.preflight_report import Finding, Settings, Severity, error_if
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.stages import DOWN, NOT_UP

ENDING = frozenset({"TERM", "HUP", "INT", "QUIT", "KILL", "USR1", "USR2"})
"""The signals that supervisor knows for a stop; each ends who neither catches nor ignores it."""

OWN = "INT"
"""The signal that a shell catches for itself, trap or not."""

SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "busybox"})


@dataclass(frozen=True)
class Wrapper:
    """A process between supervisord and the one that listens: a script without ``exec``, npm, a launcher in Python.

    ``name``: what the kernel calls it; ``program``: the file that it runs, the interpreter of a script. ``caught`` and
    ``ignored``: signals by their names without SIG. What it does with a signal that it catches cannot be seen: it is
    taken to pass it on, as a master does to its workers. ``inner``: the processes between it and the one that listens.
    """

    name: str
    caught: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    program: str = ""
    inner: tuple[Wrapper, ...] = ()

    @property
    def is_shell(self) -> bool:
        return self.name in SHELLS or self.program in SHELLS

    def passes_on(self, signal: str) -> bool:
        """Whether it has a handler for the signal of its own."""
        return signal in self.caught and not (self.is_shell and signal == OWN)

    def dies_of(self, signal: str) -> bool:
        """Whether the signal is known to end it at once, and not the application."""
        return signal in ENDING and signal not in self.caught | self.ignored

    def __str__(self) -> str:
        same = self.program.startswith(self.name) or not self.program
        return self.name if same else f"{self.name}, run by {self.program}"


@dataclass(frozen=True)
class Listening:
    """What the kernel has of the sockets that processes listen on. ``addresses``: those of each port, whoever has it;
    ``holders``: who has such a port, where that is no process of the group. The others are by name of the process:
    ``ports`` and ``unix`` sockets of it and its descendants, and the ``wrappers`` between supervisord and the one that
    listens. ``addresses`` is None where they could not be looked at, and the others are empty where they could not."""

    addresses: Mapping[int, tuple[str, ...]] | None = field(default_factory=dict)
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wrappers: Mapping[str, Wrapper] = field(default_factory=dict)
    holders: Mapping[int, Holder] = field(default_factory=dict)

    def listeners(self, port: int) -> tuple[str, ...]:
        """The addresses that accept on a port, as far as they could be looked at."""
        return (self.addresses or {}).get(port, ())

    def holder(self, port: int, own: str) -> Holder | None:
        """What keeps the process ``own`` (``group:process``) from listening on a port, if anything does."""
        found = self.holders.get(port)
        return found if found and may_hold(found, own) else None


def findings(rollout: Rollout, observed: Observation, listening: Listening, settings: Settings) -> Iterator[Finding]:
    """What is wrong with the processes that a rollout would replace."""
    yield from _down(rollout, observed, listening)
    for member in rollout.members:
        yield from _foreign(rollout, member, listening)
    running = [member for member in rollout.members if is_up(member, observed.processes)]
    for member in running:
        yield from _of_process(rollout.group, member, listening)
    yield from _shared(rollout.group, running, listening)
    alone = {one.name: one.stopsignal for one in settings.processes if not one.stopasgroup}
    for name in sorted(listening.wrappers.keys() & alone.keys(), key=natural):
        yield from _of_wrapper(f"{rollout.group}:{name}", listening.wrappers[name], alone[name])


def is_up(member: Member, processes: Mapping[str, Process]) -> bool:
    """Whether it runs and serves, as far as supervisord knows."""
    return member.selected and member.stage is Stage.OPEN and processes[member.name].state == "RUNNING"


def _held(where: str, member: Member, listening: Listening) -> str:
    """That another process has the port of one that is down."""
    held = [port for port in member.ports if listening.listeners(port) or listening.holder(port, where)]
    if not held:
        return ""
    port, holder = held[0], listening.holder(held[0], where)
    unseen = f"port {port} is held by a process that cannot be seen: ss -ltnp sport = :{port}"
    return f". Its {holder_text(port, holder, where) if holder else unseen}"


def _foreign(rollout: Rollout, member: Member, listening: Listening) -> Iterator[Finding]:
    """Other processes that listen on its port: what an earlier one has left, a child as a rule, or a foreign one."""
    where = f"{rollout.group}:{member.name}"
    for port in member.ports:
        holder = listening.holders.get(port)
        if holder is None or holder.peer or holder.name in rollout.policy.warmup.proxies:
            continue
        is_orphan = holder.started == where
        yield Finding(
            "ports.orphan" if is_orphan else "ports.foreign",
            where,
            f"{holder_text(port, holder, where)}: it answers there, and no new one would be warm",
            ending_text(port, holder, where) + ("" if is_orphan else proxy_text(holder, where)),
            severity=error_if(member.selected),
        )


def _down(rollout: Rollout, observed: Observation, listening: Listening) -> Iterator[Finding]:
    for member in rollout.members:
        process, where = observed.processes[member.name], f"{rollout.group}:{member.name}"
        guarded = observed.guarded.get(member.name)
        if process.state in DOWN and process.state not in NOT_UP:
            said = f" ({process.spawn_error})" if process.spawn_error else ""
            held = _held(where, member, listening)
            yield Finding(
                "process.down",
                where,
                f"is {process.state}{said}: it serves nobody, and a rollout replaces it first{held}",
                f"see why it died: supervisorctl tail {where} stderr",
            )
        elif process.state in NOT_UP:
            yield Finding(
                "process.down",
                where,
                _stopped_text(process, member),
                f"supervisorctl start {where}",
            )
        elif member.stage is Stage.FAILED or (guarded is not None and guarded.stage is Stage.FAILED):
            why = member.why or (guarded.problem if guarded is not None else "")
            is_open = guarded is not None and not guarded.closed
            yield Finding(
                "process.cold",
                where,
                f"could not be warmed, and is {'open all the same' if is_open else 'kept closed'}: {why}",
                "deploy what mends it, and rollout: it goes first",
            )


def _stopped_text(process: Process, member: Member) -> str:
    """Of one that is not up: a rollout replaces it only where a rollout has left it so."""
    if member.selected and member.stage is Stage.FAILED:
        return f"is {process.state} since a rollout failed on it ({member.why}): the next rollout replaces it first"
    return f"is {process.state}: it serves no traffic, and a rollout leaves it so"


def _of_process(group: str, member: Member, listening: Listening) -> Iterator[Finding]:
    where, ports = f"{group}:{member.name}", ", ".join(map(str, member.ports))
    if listening.addresses is None or any(listening.listeners(port) for port in member.ports):
        return
    unix = listening.unix.get(member.name, ())
    if unix and not listening.ports.get(member.name):
        yield Finding(
            "ports.unix",
            where,
            f"listens on the unix socket {unix[0]} and on no port: no gate can close that, and a rollout would stop it "
            "with its users",
            "let it listen on a port of its own, on 127.0.0.1, and name that in the load balancer",
            severity=Severity.ERROR,
        )
    else:
        yield Finding(
            "ports.nobody",
            where,
            f"nothing listens on port {ports}, which groups.{group}.ports says it has",
            "wait until it has started, or mend the ports in rolling.yaml",
        )


def _shared(group: str, running: list[Member], listening: Listening) -> Iterator[Finding]:
    """Two that share a port (SO_REUSEPORT) share a gate: to close one closes both."""
    holders: dict[int, list[str]] = {}
    for member in running:
        for port in listening.ports.get(member.name, ()):
            holders.setdefault(port, []).append(member.name)
    gated = {port for member in running for port in member.ports}
    for port, names in sorted(holders.items()):
        if len(names) > 1 and port in gated:
            yield Finding(
                "ports.shared",
                f"{group}:{names[0]}",
                f"{' and '.join(sorted(names, key=natural)[:3])} all listen on port {port}: a gate that closes it for "
                "one closes it for all",
                "give each process a port of its own",
                severity=Severity.ERROR,
            )


def _of_wrapper(where: str, wrapper: Wrapper, told: str) -> Iterator[Finding]:
    """``told``: the signal that stops it, as far as supervisord tells."""
    signal = told or "TERM"  # supervisord's own default
    if wrapper.passes_on(signal) and all(one.passes_on(signal) for one in wrapper.inner):
        return
    is_known = bool(told) and wrapper.dies_of(signal)
    what = f"SIG{signal} ends it" if is_known else f"whether SIG{signal} reaches the application cannot be seen"
    then = "and the application keeps running" if is_known else ": if it does not, the application keeps running"
    yield Finding(
        "supervisor.stopasgroup",
        where,
        f"has the application as a child ({_chain(wrapper)}), and stopasgroup is off. {what}{', ' if is_known else ''}"
        f"{then} and holds the port, so that the next process cannot listen",
        "start the application with exec (the last command of a script, instead of npm or a launcher), or set "
        "stopasgroup=true and killasgroup=true",
        severity=error_if(is_known),
    )


def _chain(wrapper: Wrapper) -> str:
    return " > ".join(map(str, (wrapper, *wrapper.inner)))
