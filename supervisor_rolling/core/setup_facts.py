"""What ``supervisor_rolling setup`` has seen of a host: the values from which ``setup_plan`` makes its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.ports import are_shared
from supervisor_rolling.core.preflight_report import Finding

RPCINTERFACE, LISTENER, CTLPLUGIN = "rpcinterface:rolling", "eventlistener:rolling", "ctlplugin:rolling"
"""The sections of supervisord.conf; ``setup`` writes the first two."""


@dataclass(frozen=True)
class InspectedGroup:
    """A group, as the listener sees its processes."""

    name: str
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of each process; of its descendants, too
    unix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # likewise, the unix sockets
    problem: str = ""  # why that cannot be seen
    ready: str = ""  # a path that answers 200 at each process
    root_status: int = 0  # of GET / at a process; 0: no HTTP
    balancer: str = ""  # the load balancer that was read, and from which file
    nginx: str = ""  # the file of an nginx that was not started with its default one
    haproxy: tuple[str, ...] = ()  # the socket and the backend with which HAProxy drains it; empty: it cannot
    findings: tuple[Finding, ...] = ()  # in the load balancer's configuration

    @property
    def is_without_sockets(self) -> bool:
        """Whether its processes run and listen on nothing, as queue workers do."""
        return bool(self.ports) and not any(self.ports.values()) and not any(self.unix.values())

    @property
    def is_shared(self) -> bool:
        """Whether its processes accept on one socket."""
        return are_shared(self.ports.values() if any(self.ports.values()) else self.unix.values())

    @property
    def needs_gate(self) -> bool:
        """Whether a rollout closes anything of it."""
        return not (self.is_without_sockets or self.is_shared)


@dataclass(frozen=True)
class Inspection:
    """What the program of the listener saw, with the rights and the libraries that the listener will have."""

    version: str
    gate: str = ""  # the backend that can close ports
    gate_problem: str = ""  # why none can
    policy_groups: tuple[str, ...] = ()  # those of rolling.yaml
    policy_problem: str = ""  # why rolling.yaml cannot be used
    groups: tuple[InspectedGroup, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of ours that supervisord's configuration has already."""

    file: str
    policy: str = ""  # the rolling.yaml that its command names


@dataclass(frozen=True)
class Host:
    """The running supervisord, its configuration, and the files that ``setup`` would write."""

    main_file: str  # supervisord.conf
    includes: tuple[str, ...] | None  # the patterns of its [include], as full paths; None: it has no [include]
    pid: int = 0  # of supervisord; 0: it does not run
    user: str = ""  # that supervisord runs as
    is_root: bool = True
    python: str = ""  # that runs supervisord
    plugin_problem: str = ""  # why that Python cannot import the plugin; empty where it can
    plugin_version: str = ""  # that it imports
    version: str = ""  # of this program
    listener: str = ""  # the command of the listener, without arguments
    listener_problem: str = ""  # why the listener cannot start
    sections: Mapping[str, Section] = field(default_factory=dict)  # ours, by name
    files: Mapping[str, str] = field(default_factory=dict)  # texts of files that setup may write and that exist
    defaults: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # the sections that setup writes
    running: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # processes that run, by group
    is_loaded: bool = False  # supervisord has loaded the plugin
    ctl_problem: str = ""  # why supervisorctl cannot load [ctlplugin:rolling]


@dataclass(frozen=True)
class FileChange:
    """A file to write or, without a text, to remove."""

    path: str
    text: str
    before: str | None  # None: it does not exist


@dataclass(frozen=True)
class Plan:
    """What to write, and what the operator reads about it."""

    files: tuple[FileChange, ...] = ()
    seen: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # each refuses all of it
    groups: tuple[str, ...] = ()  # that have a policy afterwards
