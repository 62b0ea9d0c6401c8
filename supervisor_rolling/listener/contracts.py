"""The interfaces of the listener's adapters, as Protocols, and what each guarantees.

Every call has a deadline of its own. Those that are slow say so, and are made in the background. Errors are those of
``core/errors.py``: an adapter translates what its library raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.checks.conntrack import Conntrack
from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import Arrival, Connections
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.forecast import Cycles
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import (
    HookJob,
    HookResult,
    NotificationJob,
    NotificationStatus,
    WarmupJob,
    WarmupStatus,
)
from supervisor_rolling.core.metrics_snapshot import GroupMetrics
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.policy import BalancerPolicy, Policy
from supervisor_rolling.core.port_use import Client, Holder, PortUse
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Snapshot

T = TypeVar("T")


class Background(Protocol):
    """Runs slow calls outside the loop's thread."""

    def run(self, key: Hashable, call: Callable[[], T]) -> T | None:
        """What ``call`` returned, which must not be None; None while it runs. Starts it, if there is none by this key.
        Raises once what the call raised, and then begins anew. Never blocks; wakes the loop when a call has ended."""
        ...

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget the calls by other keys, and what they return."""
        ...


class Gate(Protocol):
    """Closes endpoints to new connections; existing connections are never touched."""

    name: str  # of the backend
    description: str  # for a check: its name, the command that lists what it closes, and why it was chosen
    closes: frozenset[str]  # the kinds of endpoints that it can close

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these endpoints closed for one lease from now, and all others of this gate open.

        ``closed`` maps an endpoint to the comment of its rule. ``drained`` are those on which no request is awaited: a
        load balancer sends nothing there, not even the users of its cookie. Returns those that were read back as
        closed, each with the moment (CLOCK_MONOTONIC seconds) since when it has been closed without a gap, as far as
        this object knows: a lease that ended before it was renewed begins anew. Call it in every reconcile; without a
        change it costs one read. An empty mapping leaves no rule and no chain behind.

        Raises GatePermissionError where it can never work as things are, GateError where it failed this time,
        PartlyClosedError where some could not be closed, with those that are.
        """
        ...

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """What others have configured that keeps these endpoints, each with its process, from being closed. Changes
        nothing. Raises GateError where it cannot be seen."""
        ...

    def check(self) -> None:
        """Raise what ``hold`` would raise for missing rights or kernel support. Changes nothing."""
        ...


@runtime_checkable
class RequestCounter(Protocol):
    """A gate in the load balancer also sees requests where the kernel sees connections: an idle pool is no request."""

    def in_flight(self, found: Mapping[Endpoint, Connections]) -> Mapping[Endpoint, int]:
        """How many requests or connections of each endpoint would be lost with its process; 0: it may be stopped.

        ``found`` is what the kernel had just before. A new connection to a closed endpoint is no leak with such a gate:
        the balancer's checks make some. Connections past the balancer count, too. Raises GateError where it cannot be
        seen.
        """
        ...

    def bypassed(self, found: Mapping[Endpoint, Connections]) -> frozenset[Endpoint]:
        """Those of these endpoints that have connections of others than the balancer's backend, such as another
        balancer's. Raises GateError where it cannot be seen."""
        ...


class Sockets(Protocol):
    """Endpoints and their connections, as the kernel has them. Raises SocketsError where it does not show them."""

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> Mapping[Endpoint, Connections]:
        """The connections of each endpoint in this network namespace, both address families, and details of the
        ``oldest`` so many. The kernel walks its table of all connections for it."""
        ...

    def listeners(self, ports: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """The local addresses that accept on each port, both address families. Cheap enough for every few ms."""
        ...

    def ports_of(self, pids: Collection[int]) -> Mapping[int, tuple[int, ...]]:
        """The TCP ports that each of these processes or a descendant of it listens on, ascending."""
        ...

    def unix_of(self, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """The paths of the unix stream sockets that each of these processes or a descendant of it listens on."""
        ...

    def listens_at(self, path: str, pid: int) -> bool:
        """Whether a process or a descendant of it listens on the unix socket that clients reach at ``path``, closed or
        not; that may be a symbolic link. Cheap while nothing is bound there."""
        ...

    def accepts(self, pid: int) -> bool:
        """Whether a process or a descendant of it waits for connections on the sockets that other processes accept on,
        too; where it has none of these, on any."""
        ...

    def reuseport_of(self, pids: Collection[int]) -> Sequence[int]:
        """The ports on which each of several of these processes, or a descendant of it, has a socket of its own that
        accepts (SO_REUSEPORT)."""
        ...

    def memory_files_of(self, pid: int) -> Sequence[str]:
        """The names of the memory files that a process or a descendant of it holds open."""
        ...

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> Mapping[int, Wrapper]:
        """Those of these processes, each with its ports, that do not listen on them while a descendant does."""
        ...

    def families_of(self, pids: Collection[int]) -> Mapping[int, Wrapper]:
        """Each of these processes, with its descendants as ``inner``."""
        ...

    def listening(self, port: int, pid: int) -> PortUse:
        """What listens on a port: the process or a descendant of it, and any other process beside or instead of it.

        It reads the open files of every process of the host where a listening socket is not held by the process or its
        descendants: do not call it more often than every 0.5 s then.
        """
        ...

    def holders_of(self, ports: Collection[int]) -> Mapping[int, Holder]:
        """The processes that listen on each of these ports, or have an outgoing connection from it, as far as /proc
        shows them. It reads the open files of every process of the host: not for every reconcile."""
        ...


class Clients(Protocol):
    """Finds out which programs connect to the ports of a group, in a thread of its own. Never blocks, never raises."""

    def find(self, group: str, ports: Collection[int], since: float) -> Sequence[Client] | None:
        """What a lookup found that began at ``since`` or later; None while there is none: then one is begun. It takes
        half a second, and at most ten."""
        ...

    def last_found(self, group: str) -> Sequence[Client] | None:
        """What the last lookup that is over found; None where there was none."""
        ...

    def program_of(self, peer: str, port: int) -> str:
        """The name of the program on this host that is connected to ``port`` from ``peer`` (``address:port``);
        empty where there is none. It reads the open files of every process: not for every reconcile."""
        ...


class KeepaliveCloser(Protocol):
    """Makes nginx close its kept connections to a port, each after its next answer."""

    @property
    def waiting(self) -> frozenset[str]:
        """The peers of the connections without such an answer yet, as the last ``hold`` found them."""
        ...

    def hold(self, ports: Collection[int], lease: float) -> Mapping[int, str]:
        """Do so for exactly these ports, for ``lease`` seconds from now. Of a port that is new here the connections of
        this moment are closed, and no later ones: close its gate before.

        Returns what each port has answered on them so far: ``http``, so that they will be closed; ``opaque``, TLS or
        HTTP/2; or empty. Call it in every reconcile. Without ports it never raises; else GatePermissionError where it
        can never work as things are, GateError where it failed this time.
        """
        ...

    def check(self) -> None:
        """Try it on a connection of its own. Raises GatePermissionError where it does not work."""
        ...


class RequestSniffer(Protocol):
    """Sees requests arrive at ports, on any connection. It misses them without rights and where they are encrypted:
    a request that it reports did arrive, one that it does not report may have."""

    def watch(self, ports: Collection[int]) -> None:
        """Watch exactly these ports from now on, both address families. Never raises: an error is logged once."""
        ...

    def take(self) -> Sequence[Arrival]:
        """The requests that arrived since the last call, in their order on each connection. Never blocks."""
        ...


class DrainFlags(Protocol):
    """Flags by which a process can see that it drains (``draining.py``)."""

    def hold(self, draining: Collection[tuple[str, str]]) -> None:
        """Flag exactly these processes, each a group and a name, for a lease of some seconds. Call it in every
        reconcile; without a change it costs next to nothing. Never raises: an error is logged once."""
        ...


class Balancers(Protocol):
    """Reads what the load balancer's configuration says."""

    def read(self, policy: BalancerPolicy, since: float) -> Nginx | None:
        """The configuration, read at ``since`` (CLOCK_MONOTONIC) or later; None while it is being read. One that cannot
        be read has a ``problem``. Never blocks."""
        ...

    def last_read(self, policy: BalancerPolicy) -> Nginx | None:
        """The configuration as it was last read; None where it never was, and is being read now."""
        ...


ConnectResults = Mapping[tuple[str, int], str]
"""Addresses and ports, each with why no connection was made; empty where it was."""

NO_ANSWER = "no answer within a second"
"""Of an address and port that neither accepts nor refuses: its process is too busy to accept, say."""

Look = Callable[[], tuple[ConnectResults, ConnectResults]]
WhileClosed = Callable[[Endpoint, Look], tuple[ConnectResults, ConnectResults]]
"""Gives what ``Look`` finds while a port is closed."""


class GateProbes(Protocol):
    """Tries for real what other checks only read. Slow: every method may take a second, or a few. From any thread."""

    def probe_gate(self, closed: WhileClosed, addresses: Collection[str], bypass: str) -> Sequence[str]:
        """What a gate does not do that it should, on a spare port at these addresses and at loopback.

        Raises what ``closed`` raises, and OSError if there is no spare port.
        """
        ...

    def warmup_address(self, addresses: tuple[str, ...], bypass: str) -> str:
        """The address at which a warm-up would ask a process that listens on these; empty if none can be asked."""
        ...

    def connect(self, targets: Collection[tuple[str, int]], bypass: str = "none") -> ConnectResults:
        """Connect to each, past a closed gate by ``bypass``, and hang up."""
        ...

    def metrics(self, address: str) -> tuple[str, str]:
        """Why there can be no metrics at an address and port, and the fix; empty where there can be, or are."""
        ...

    def untrusted_files(self, policy: Policy) -> Sequence[Finding]:
        """Each file that the listener, as root, executes or obeys for a group and that another user could change or
        replace."""
        ...

    def migrates(self) -> bool | None:
        """Whether the kernel hands what waits at a listening socket that is closed to another one of its port
        (tcp_migrate_req); None where it cannot."""
        ...

    def conntrack(self) -> Conntrack | None:
        """How full the table of tracked connections is; None where the kernel has none."""
        ...


class SparePorts(Protocol):
    """Ports that a probe in another thread wants closed for a moment, and the loop closes."""

    @property
    def is_pending(self) -> bool:
        """Whether a probe waits for the loop."""
        ...

    def wanted(self) -> Collection[Endpoint]:
        """The ports to be closed now."""
        ...

    def report_held(self, closed: Collection[Endpoint], problem: str) -> None:
        """What came of holding the ports that were ``wanted`` last: those that are closed, and what went wrong."""
        ...

    def closed(self, port: Endpoint, look: Look) -> tuple[ConnectResults, ConnectResults]:
        """What ``look`` finds while a port is closed. From another thread. Raises GateError if it does not close, and
        TimeoutError if the loop has no time for it."""
        ...


class DeathWatch(Protocol):
    """Finds out at once that a process has died."""

    def watch(self, processes: Collection[Incarnation]) -> None:
        """Watch exactly these processes from now on. One that is dead already has died."""
        ...

    def take(self) -> Collection[Incarnation]:
        """Those of the watched that have died, each until it is no longer watched. Never blocks."""
        ...


class Warmups(Protocol):
    """Warms processes, each in a thread of its own."""

    def tend(self, group: str, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        """Of this group, warm exactly these processes (by ``group:process``): begin what is new (so is another
        incarnation, and another policy), drop what is no longer there, and return how far each is. One that was late
        in the last call and is still there begins anew. Never blocks."""
        ...

    def end(self) -> None:
        """Drop all, and wait a moment for the commands that run."""
        ...


class DrainNotifications(Protocol):
    """Notifies processes that they drain, each in a thread of its own."""

    def give(self, group: str, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        """Of this group, notify each of these processes (by ``group:process``) once for as long as it is there, and
        return how far that is. Never blocks."""
        ...

    def peers(self) -> frozenset[str]:
        """What the processes that are being notified see as their peers for it, known before they can see them."""
        ...


class Hooks(Protocol):
    """Runs the operator's commands, each job in a thread of its own."""

    def tend(self, group: str, selected: Mapping[str, HookJob]) -> Mapping[str, HookResult]:
        """Of this group, run exactly these jobs: begin what is new by its key, end what is no longer there, and return
        how far each is. Never blocks."""
        ...

    def end(self) -> None:
        """End everything that runs, and wait a moment for that."""
        ...


class Metrics(Protocol):
    """Metrics for a monitoring system. Never raises: what does not work is logged, and tried again."""

    def is_on(self) -> bool:
        """Whether rolling.yaml asks for them. Call it in every reconcile: it starts and stops the server."""
        ...

    def update(self, groups: Mapping[str, GroupMetrics], warmups: Mapping[str, WarmupStatus]) -> None:
        """Take the metrics of each group, and how far its warm-ups are."""
        ...


class History(Protocol):
    """Earlier rollouts. Never raises: an error is logged, and tried again."""

    def keep(self, rollouts: Collection[Rollout]) -> None:
        """Keep what is new of the rollouts that supervisord knows. One that ran and that it does not know has ended
        with an earlier supervisord. Called in every reconcile: without a change it costs next to nothing."""
        ...

    def close(self, rollouts: Collection[Rollout], at: float, are_lost: bool) -> None:
        """Keep how far those of these rollouts are that run: the listener exits. ``at``: of the last observation.
        ``are_lost``: supervisord is gone, and they with it. Otherwise the next listener finds that out."""
        ...

    def last_id(self) -> int:
        """The largest number of a rollout that is kept; 0 if there is none."""
        ...

    def cycles(self, group: str) -> Sequence[Cycles]:
        """How long each process was away in the last rollouts of a group, the newest last."""
        ...

    def summaries(self, group: str, number: int) -> Sequence[RolloutView]:
        """The last ``number`` rollouts, without their processes, the newest last; of every group, if none is named."""
        ...

    def find(self, group: str, rollout: str) -> RolloutView | None:
        """The rollout of this number with its course, or the last one if it is empty; None if there is none."""
        ...


class Supervisor(Protocol):
    """supervisord and the mailbox in it. Every method raises SupervisorError if there is no answer."""

    def observe(self, guarded: Collection[str]) -> Snapshot:
        """Everything that supervisord knows, at once; with the processes of the groups that are guarded."""
        ...

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        """Write a rollout on top of the version that was observed; ``request`` is the one that it answers, if any.

        Raises ConflictError if another client wrote since: observe again.
        """
        ...

    def guard(self, guard_state: GuardState) -> None:
        """Write the state of a group's guard, whatever was written before."""
        ...

    def unguard(self, group: str) -> None:
        """Forget the state of a group's guard: it is no longer guarded."""
        ...

    def refuse(self, request: int, code: int, text: str) -> None:
        """Refuse a request; ``code`` is a number of ``errors.Fault``."""
        ...

    def plan(self, request: int, rollout: Rollout) -> None:
        """Answer a dry run."""
        ...

    def report(self, request: int, report: Report) -> None:
        """Answer a check."""
        ...

    def answer(self, request: int, answer: RolloutView | Sequence[RolloutView]) -> None:
        """Answer a request for a record or a history."""
        ...

    def action(self, group: str, actions: Sequence[Action]) -> Sequence[Outcome]:
        """Give a few actions at once, and return what became of each; waits for the end of none."""
        ...
