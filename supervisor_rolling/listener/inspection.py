"""What ``supervisor_rolling_listener --inspect`` prints: what the listener would see of a host, for ``setup``.

``setup`` runs the very program that it writes into supervisord's configuration, as the user and in the environment that
supervisord would run it with. So what is seen here is what the listener can do, and its libraries are there. Like
``main``, this puts adapters together; it has no loop and changes nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor_rolling import __version__, file_trust
from supervisor_rolling.codec import dump, load
from supervisor_rolling.core.checks import clients, nginx
from supervisor_rolling.core.endpoint import Endpoints, tcp, unix, unix_paths
from supervisor_rolling.core.errors import ConfigError, GateError, SocketsError
from supervisor_rolling.core.policy import BalancerPolicy, Config, GatePolicy, Policy, PortRule
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.core.proxy_config import NGINX, haproxy_gate
from supervisor_rolling.core.setup_facts import InspectedGroup, Inspection
from supervisor_rolling.core.setup_plan import unfit
from supervisor_rolling.core.share import limit_for
from supervisor_rolling.listener import config
from supervisor_rolling.listener.balancer_config import NginxConfigurations
from supervisor_rolling.listener.client_discovery import ConnectedClients
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.load_balancers import LoadBalancerFacts, LoadBalancers
from supervisor_rolling.listener.own_endpoints import application_sockets
from supervisor_rolling.listener.system.bypass import reached_at

READY_PATHS = ("/health", "/healthz", "/ping", "/status")
"""Tried in this order."""

OK = 200
BYPASS = "mark"  # the default: a process is asked at the same address by its warm-up
BACKEND = "auto"  # the default: what connects to the ports is looked up

ANSWER_TIMEOUT = 2.0
"""Seconds for an answer to one of them."""

MAX_ASKED = 3
"""Processes of a group that are asked: a group has one application."""

BALANCER_TIMEOUT = 20.0
"""Seconds to read the configuration of the load balancer, and to see what connects."""


@dataclass(frozen=True)
class Question:
    """What ``setup`` wants to know."""

    policy: str  # the path of rolling.yaml, which need not exist
    policy_text: str = ""  # what it would have; empty: what it has
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # the pid of each process that runs


def answer(question: str) -> str:
    """The ``Inspection`` for a ``Question``, both in JSON."""
    return dump(_inspection(load(Question, json.loads(question))))


def _inspection(question: Question) -> Inspection:
    policies, problem = _policies(question.policy, question.policy_text)
    gate, gate_problem = _gate(policies.gate)
    return Inspection(
        version=__version__,
        gate=gate,
        gate_problem=gate_problem,
        policy_groups=tuple(policies.groups),
        policy_problem=problem,
        groups=tuple(_group(name, pids) for name, pids in question.groups.items()),
    )


def _policies(path: str, text: str) -> tuple[Config, str]:
    """What rolling.yaml says, and why it cannot be used: it need not exist."""
    if problems := file_trust.of_place(path):
        return Config(), "\n".join(map(str, problems))
    if not text and config.mark(path) == "missing":
        return Config(), ""
    try:
        found = config.parse(text.encode(), path) if text else config.load(path)
        return found, "\n".join(found.invalid.values())
    except ConfigError as error:
        return Config(), str(error)


def _gate(policy: GatePolicy) -> tuple[str, str]:
    """The name of the backend that works, or why none does."""
    try:
        gate = make_gate(policy, "setup", time.monotonic)
        gate.check()
        return gate.name, ""
    except GateError as error:
        return "", str(error)


def _group(name: str, pids: Mapping[str, int]) -> InspectedGroup:
    sockets = KernelSockets()
    try:
        ports, unix = sockets.ports_of(list(pids.values())), sockets.unix_of(list(pids.values()))
        found = InspectedGroup(
            name,
            {process: tuple(ports[pid]) for process, pid in pids.items()},
            {process: unix_paths(application_sockets(unix[pid])) for process, pid in pids.items()},
        )
        if unfit(found) or not found.needs_gate:
            return found
        listening = sockets.listeners([those[0] for those in found.ports.values() if those][:MAX_ASKED])
    except SocketsError as error:
        return InspectedGroup(name, problem=str(error))
    return _with_balancer(_with_answers(found, listening))


def _with_answers(group: InspectedGroup, listening: Mapping[int, tuple[str, ...]]) -> InspectedGroup:
    """The group, with what its processes answer. ``listening``: the addresses of some of its ports."""
    asked = [(reached_at(addresses, BYPASS), port) for port, addresses in listening.items() if addresses]
    asked += [(those[0], 0) for those in group.unix.values() if those and not listening][:MAX_ASKED]
    status = _status(*asked[0], "/") if asked else 0
    paths = READY_PATHS if status else ()
    ready = next((path for path in paths if all(_status(*one, path) == OK for one in asked)), "")
    return replace(group, root_status=status, ready=ready)


def _status(address: str, port: int, path: str) -> int:
    """The status of the answer to GET; 0 where there is none, or it is no HTTP. Without a port the address is the path
    of a unix socket."""
    connection = http.client.HTTPConnection(address if port else "localhost", port or 80, timeout=ANSWER_TIMEOUT)
    try:
        if not port:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(ANSWER_TIMEOUT)
            connection.sock.connect(address)
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _with_balancer(group: InspectedGroup) -> InspectedGroup:
    """The group, with the load balancer before it, and what is wrong with that one."""
    endpoints: Endpoints = {
        process: tuple(map(tcp, ports)) or tuple(map(unix, group.unix.get(process, ())))
        for process, ports in group.ports.items()
    }
    policy = Policy(group.name, PortRule(auto=True))
    facts, policy = _read_balancers(policy, endpoints)
    if not (facts.nginx and facts.nginx.servers):
        nginxes = [one for one in facts.clients.clients if one.name in NGINX]  # without a connection, too
        for nginx_file in dict.fromkeys(path for one in nginxes for path, _ in one.files[:1]):
            named = replace(policy, balancer=BalancerPolicy(nginx=nginx_file))
            there, named = _read_balancers(named, endpoints)
            if there.nginx and there.nginx.servers:
                facts, policy, group = there, named, replace(group, nginx=nginx_file)
                break
    ports = {port for those in group.ports.values() for port in those}
    proxies = [haproxy_gate(one.files, ports) for one in facts.clients.clients if one.name == "haproxy"]
    return replace(
        group,
        balancer=_source(facts),
        haproxy=max(proxies, default=()),
        findings=tuple(_findings(facts, policy, endpoints)),
    )


def _read_balancers(policy: Policy, endpoints: Endpoints) -> tuple[LoadBalancerFacts, Policy]:
    """What is known of the load balancers, and the policy with what they ask for."""
    balancers = LoadBalancers(NginxConfigurations(time.monotonic), ConnectedClients(time.monotonic))
    since = time.monotonic()
    while not balancers.are_read(policy, endpoints, BACKEND, since) and time.monotonic() < since + BALANCER_TIMEOUT:
        time.sleep(0.05)
    return balancers.found(policy, endpoints), balancers.with_min_ready(policy, endpoints, BACKEND)


def _source(facts: LoadBalancerFacts) -> str:
    if facts.nginx and facts.nginx.servers:
        return f"nginx ({facts.nginx.nginx.source})"
    return ", ".join(f"{one.program.title} ({one.where})" for one in facts.clients.balancers)


def _findings(facts: LoadBalancerFacts, policy: Policy, endpoints: Endpoints) -> Iterator[Finding]:
    owners = {one: process for process, those in endpoints.items() for one in those}
    if facts.nginx and facts.nginx.servers:
        yield from nginx.findings(facts.nginx, policy, limit_for(policy.max_unavailable, len(endpoints)), owners)
    elif facts.nginx:
        yield from clients.unread(facts.clients, policy, facts.nginx.nginx.source)
    yield from clients.findings(facts.clients, policy, bool(facts.nginx and facts.nginx.servers))
