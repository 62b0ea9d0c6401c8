"""Findings about the processes of a group: which are down, where they listen, and whether a stop reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.ports import SHARED_FIX, free_port_fix, holder_text, may_hold, proxy_fix, shared_text
from supervisor_rolling.core.preflight_report import Finding, Settings, Severity, error_if
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import DOWN, NOT_UP
from supervisor_rolling.core.rollout import Member, Rollout, Stage

STOP_SIGNALS = frozenset({"TERM", "HUP", "INT", "QUIT", "KILL", "USR1", "USR2"})
"""Those that supervisor takes as a stopsignal. Each ends a process that neither catches nor ignores it."""

SHELLS_CATCH = "INT"
"""The signal that a shell catches for itself, with or without a trap."""

SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "busybox"})


@dataclass(frozen=True)
class Wrapper:
    """A process between supervisord and the one that listens: a script without ``exec``, npm, a launcher in Python.

    What it does with a signal that it catches cannot be seen: it is taken to pass it on, as a master does to its
    workers. Signals are named without SIG."""

    name: str  # in the kernel
    caught: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    program: str = ""  # the file that it runs: the interpreter of a script
    inner: tuple[Wrapper, ...] = ()  # the processes between it and the one that listens

    @property
    def is_shell(self) -> bool:
        """Whether it is a shell, or a script that one runs."""
        return self.name in SHELLS or self.program in SHELLS

    def passes_on(self, signal: str) -> bool:
        """Whether it has a handler of its own for the signal."""
        return signal in self.caught and not (self.is_shell and signal == SHELLS_CATCH)

    def dies_of(self, signal: str) -> bool:
        """Whether the signal is known to end it at once, and not the application."""
        return signal in STOP_SIGNALS and signal not in self.caught | self.ignored

    def __str__(self) -> str:
        same = self.program.startswith(self.name) or not self.program
        return self.name if same else f"{self.name}, run by {self.program}"


@dataclass(frozen=True)
class Listening:
    """The sockets that processes listen on, as the kernel has them; empty where they cannot be seen."""

    addresses: Mapping[int, tuple[str, ...]] | None = field(default_factory=dict)  # by port; None: cannot be seen
    # By the name of the process: ports and unix sockets of it and its descendants, and what is between supervisord and
    # the one that listens.
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wrappers: Mapping[str, Wrapper] = field(default_factory=dict)
    families: Mapping[str, Wrapper] = field(default_factory=dict)  # those without a port, each with its descendants
    holders: Mapping[int, Holder] = field(default_factory=dict)  # of ports that no process of the group has

    def listeners(self, port: int) -> tuple[str, ...]:
        """The addresses that accept on a port."""
        return (self.addresses or {}).get(port, ())

    def holder(self, port: int, own: str) -> Holder | None:
        """What keeps the process ``own`` (``group:process``) from listening on a port, if anything does."""
        found = self.holders.get(port)
        return found if found and may_hold(found, own) else None


def findings(rollout: Rollout, observed: Observation, listening: Listening, settings: Settings) -> Iterator[Finding]:
    """What is wrong with the processes that a rollout would replace."""
    for member in rollout.members:
        yield from _down(rollout.group, member, observed, listening)
    for member in rollout.members:
        yield from _foreign(rollout, member, listening)
    running = [member for member in rollout.members if is_up(member, observed.processes)]
    for member in running:
        yield from _not_listening(rollout.group, member, listening)
    yield from _shared(rollout.group, running, listening)
    alone = {one.name: one.stopsignal for one in settings.processes if not one.stopasgroup}
    for name in sorted(listening.wrappers.keys() & alone.keys(), key=natural):
        yield from _of_wrapper(f"{rollout.group}:{name}", listening.wrappers[name], alone[name])


def is_up(member: Member, processes: Mapping[str, Process]) -> bool:
    """Whether it runs and serves, as far as supervisord knows."""
    return member.selected and member.stage is Stage.OPEN and processes[member.name].state == "RUNNING"


def _down(group: str, member: Member, observed: Observation, listening: Listening) -> Iterator[Finding]:
    process, guarded = observed.processes[member.name], observed.guarded.get(member.name)
    where, state = f"{group}:{member.name}", observed.processes[member.name].state
    if member.spare:
        return
    if state in NOT_UP:
        text = f"is {state}: it serves no traffic, and a rollout leaves it stopped"
        if member.selected and member.stage is Stage.FAILED:
            text = f"is {state} since a rollout failed on it ({member.why}): the next rollout replaces it first"
        yield Finding("process.down", where, text, f"supervisorctl start {where}")
    elif state in DOWN:
        why = f" ({process.spawn_error})" if process.spawn_error else ""
        yield Finding(
            "process.down",
            where,
            f"is {state}{why}: it serves no traffic, and a rollout replaces it first{_held(where, member, listening)}",
            f"see why it died: supervisorctl tail {where} stderr",
        )
    elif member.stage is Stage.FAILED or (guarded and guarded.stage is Stage.FAILED):
        port = "accepting traffic" if guarded and not guarded.closed else "kept closed"
        port = port if member.endpoints else "running all the same"
        why, _, fix = (member.why or (guarded.problem if guarded else "") or "is not warm").partition(". Fix: ")
        again = f"then supervisorctl rolling_restart {group}, which replaces this process first"
        fix = fix or "deploy a version that becomes warm"
        yield Finding("process.cold", where, f"{why} ({port})", f"{fix}, {again}")


def _held(where: str, member: Member, listening: Listening) -> str:
    """That another process has the port of one that is down."""
    held = [port for port in member.ports if listening.listeners(port) or listening.holder(port, where)]
    if not held:
        return ""
    port, holder = held[0], listening.holder(held[0], where)
    unseen = f"port {port} is held by a process that cannot be seen: ss -ltnp sport = :{port}"
    return f". Its {holder_text(port, holder, where) if holder else unseen}"


def _foreign(rollout: Rollout, member: Member, listening: Listening) -> Iterator[Finding]:
    """Other processes that listen on its port: a child that an earlier process has left, as a rule, or a foreign
    one."""
    where = f"{rollout.group}:{member.name}"
    for port in member.ports:
        holder = listening.holders.get(port)
        if holder is None or holder.peer or holder.name in rollout.policy.warmup.proxies:
            continue
        is_orphan = holder.started == where
        yield Finding(
            "ports.orphan" if is_orphan else "ports.foreign",
            where,
            f"{holder_text(port, holder, where)}: that one answers on the port, so a new process cannot become warm",
            free_port_fix(port, holder, where) + ("" if is_orphan else proxy_fix(holder, where)),
            error_if(member.selected),
        )


def _not_listening(group: str, member: Member, listening: Listening) -> Iterator[Finding]:
    where = f"{group}:{member.name}"
    if not member.ports or listening.addresses is None or any(map(listening.listeners, member.ports)):
        return
    unix = listening.unix.get(member.name, ())
    if unix and not listening.ports.get(member.name):
        yield Finding(
            "ports.unix",
            where,
            f"listens on the unix socket {unix[0]} and on no port, so nothing of it would be closed",
            f"remove ports from groups.{group} in rolling.yaml: the socket is found, and can be closed",
            Severity.ERROR,
        )
    else:
        ports = ", ".join(map(str, member.ports))
        yield Finding(
            "ports.not_listening",
            where,
            f"nothing listens on port {ports}, the port that groups.{group}.ports gives to this process",
            f"wait until the process has started, or correct groups.{group}.ports in rolling.yaml",
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
                shared_text(f"port {port}", names),
                SHARED_FIX,
                Severity.ERROR,
            )


def _of_wrapper(where: str, wrapper: Wrapper, stopsignal: str) -> Iterator[Finding]:
    """``stopsignal``: empty where an older supervisord does not tell it."""
    signal = stopsignal or "TERM"  # supervisord's own default
    chain = (wrapper, *wrapper.inner)
    if all(one.passes_on(signal) for one in chain):
        return
    is_known = bool(stopsignal) and wrapper.dies_of(signal)
    then = "the application keeps running and holds the port, so the next process cannot listen"
    what = (
        f"SIG{signal} ends only the parent: {then}"
        if is_known
        else f"Whether SIG{signal} reaches the application cannot be seen: if it does not, {then}"
    )
    yield Finding(
        "supervisor.stopasgroup",
        where,
        f"runs the application as a child ({' > '.join(map(str, chain))}), and stopasgroup is off. {what}",
        "start the application with exec (the last command of a script, instead of npm or a launcher), or set "
        "stopasgroup=true and killasgroup=true",
        error_if(is_known),
    )
