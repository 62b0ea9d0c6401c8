"""Puts the listener together from its adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from supervisor_rolling.core.errors import ConfigError, GateBusyError, GateError
from supervisor_rolling.core.policy import Config, GatePolicy, Policy
from supervisor_rolling.listener.actions import Actions
from supervisor_rolling.listener.apply import Applier
from supervisor_rolling.listener.contracts import (
    Background,
    Balancers,
    Clients,
    DeathWatch,
    DrainFlags,
    DrainNotifications,
    Gate,
    GateProbes,
    History,
    Hooks,
    KeepaliveCloser,
    Metrics,
    RequestSniffer,
    Sockets,
    SparePorts,
    Supervisor,
    Warmups,
)
from supervisor_rolling.listener.crash_guard import CrashGuard
from supervisor_rolling.listener.drain_observer import DrainObserver
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.group_errors import GroupErrors
from supervisor_rolling.listener.held_ports import HeldPorts
from supervisor_rolling.listener.keepalive_pools import KeepalivePools
from supervisor_rolling.listener.live_groups import LiveGroups
from supervisor_rolling.listener.load_balancers import HAPROXY, LoadBalancers
from supervisor_rolling.listener.observe import Observer
from supervisor_rolling.listener.preflight import Preflight
from supervisor_rolling.listener.publisher import Publisher
from supervisor_rolling.listener.reconciler import Reconciler
from supervisor_rolling.listener.request_handler import RequestHandler
from supervisor_rolling.listener.reuse_observer import ReuseObserver
from supervisor_rolling.listener.rollout_requests import RolloutRequests
from supervisor_rolling.listener.workers import Workers

log = logging.getLogger("supervisor_rolling")


@dataclass(frozen=True)
class Adapters:
    """Everything that does I/O: supervisord, the kernel, HTTP, files, threads."""

    supervisor: Supervisor
    make_gate: Callable[[GatePolicy], Gate]  # for ports
    path_gate: Gate  # for unix sockets
    sockets: Sockets
    deaths: DeathWatch
    warmups: Warmups
    notifications: DrainNotifications
    hooks: Hooks
    keepalive_closer: KeepaliveCloser
    request_sniffer: RequestSniffer
    drain_flags: DrainFlags
    balancers: Balancers
    clients: Clients
    gate_probes: GateProbes
    spare_ports: SparePorts
    history: History
    metrics: Metrics
    load_config: Callable[[], Config]  # rolling.yaml as it is; raises ConfigError; from any thread
    latest_config: Callable[[], Config | None]  # the last valid one
    background: Callable[[], Background]  # a new one for each user
    clock: Callable[[], float]  # CLOCK_MONOTONIC


def assemble(given: Adapters) -> Reconciler:
    """The listener's loop body. Logs at once what would keep every rollout from working."""
    clock, errors = given.clock, GroupErrors()
    gatekeeper = Gatekeeper(given.make_gate, given.path_gate, given.spare_ports)
    pools = KeepalivePools(given.keepalive_closer)
    balancers = LoadBalancers(given.balancers, given.clients)
    actions = Actions(given.supervisor, gatekeeper, clock)
    observer = Observer(
        CrashGuard(given.sockets, given.latest_config, balancers.with_min_ready),
        Workers(given.warmups, given.notifications, given.hooks, gatekeeper, given.deaths),
        DrainObserver(
            given.sockets,
            gatekeeper,
            pools,
            ReuseObserver(given.request_sniffer, pools, given.clients, given.background()),
            given.notifications,
        ),
        HeldPorts(given.sockets, given.background(), clock),
        gatekeeper,
        actions,
        clock,
    )
    preflight = Preflight(
        given.background(),
        given.load_config,
        given.sockets,
        given.gate_probes,
        given.keepalive_closer.check,
        given.spare_ports.closed,
    )
    rollouts = RolloutRequests(given.supervisor, given.history, gatekeeper, balancers, preflight, clock)
    _try_gate(given.load_config, gatekeeper)
    return Reconciler(
        given.supervisor,
        RequestHandler(given.supervisor, given.history, rollouts, clock),
        observer,
        LiveGroups(given.deaths, Applier(gatekeeper, pools, given.drain_flags, errors), errors, clock),
        actions,
        Publisher(given.history, given.metrics, errors),
        errors,
        clock,
    )


def _try_gate(load_config: Callable[[], Config], gatekeeper: Gatekeeper) -> None:
    """Not where no group has ports; but HAProxy may still have drained what an earlier listener has closed."""
    try:
        config = load_config()
        if config.gate.backend == HAPROXY or any(_needs_gate(policy) for policy in config.groups.values()):
            gatekeeper.verify(config.gate)
    except GateBusyError as error:
        log.info("cannot check the gate now: %s. The next rollout checks it again", error)
    except ConfigError:  # the crash guard's first reconcile logs it, and what it means for the guard
        pass
    except GateError as error:
        log.warning(
            "no port can be closed, and rollouts of groups with ports are refused: %s",
            error,
            extra={"code": error.code},
        )


def _needs_gate(policy: Policy) -> bool:
    """Whether it has ports to close, as far as the policy tells."""
    return policy.ports.are_own and not policy.sockets.is_used
