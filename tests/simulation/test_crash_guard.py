"""Which groups are guarded, by which policy and on which ports."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import Endpoint, Endpoints, tcp
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.guard import ASSUMED_WARM_AFTER
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import Config, GatePolicy, GuardPolicy, Policy, PortRule
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.crash_guard import CrashGuard

NOW = 1000.0
RULE = PortRule(pattern=r"app-(\d+)")
AUTO = PortRule(auto=True)


class Kernel:
    """The ``Sockets``: what each pid listens on, and how often it was asked."""

    def __init__(self) -> None:
        self.listens: dict[int, tuple[int, ...]] = {}
        self.asked: list[int] = []
        self.times = 0
        self.is_blind = False
        self.hidden: set[int] = set()

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        return dict.fromkeys(endpoints, Connections())

    def listeners(self, ports: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        return dict.fromkeys(ports, ())

    def ports_of(self, pids: Collection[int]) -> Mapping[int, tuple[int, ...]]:
        self.asked += pids
        self.times += 1
        if self.is_blind or self.hidden.intersection(pids):
            raise SocketsError(f"Cannot see which ports process {next(iter(pids))} listens on.")
        return {pid: self.listens.get(pid, ()) for pid in pids}

    def listens_at(self, path: str, pid: int) -> bool:
        return False

    def unix_of(self, pids: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(pids, ())

    def accepts(self, pid: int) -> bool:
        return True

    def reuseport_of(self, pids: Collection[int]) -> list[int]:
        return []

    def memory_files_of(self, pid: int) -> list[str]:
        return []

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> dict[int, Wrapper]:
        return {}

    def families_of(self, pids: Collection[int]) -> dict[int, Wrapper]:
        return {}

    def listening(self, port: int, pid: int) -> PortUse:
        return PortUse()

    def holders_of(self, ports: Collection[int]) -> dict[int, Holder]:
        return {}


class Setting:
    """Watches with a config and a kernel that a test can change."""

    def __init__(self) -> None:
        self.config: Config | None = a_config(a_policy())
        self.kernel = Kernel()
        self.guard_states = CrashGuard(self.kernel, lambda: self.config, lambda policy, ports, backend: policy)

    def states(self, snapshot: Snapshot) -> dict[str, GuardState | None]:
        """The guard's state of each group, in one reconcile."""
        self.guard_states.begin()
        return {group: self.guard_states.state(group, snapshot, NOW) for group in self.guard_states.groups(snapshot)}

    def ended(self, snapshot: Snapshot) -> list[str]:
        self.guard_states.begin()
        return self.guard_states.ended(snapshot)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def a_policy(group: str = "app", ports: PortRule = RULE, **changes: Any) -> Policy:
    return Policy(group, ports, **changes)


def a_config(*policies: Policy, lease: float = 30.0) -> Config:
    return Config(GatePolicy(lease=lease), {policy.group: policy for policy in policies})


def a_watch(group: str = "app", *guarded: GuardedProcess, **changes: Any) -> GuardState:
    return GuardState(group, a_policy(group, **changes), GatePolicy(), guarded)


def processes(*found: Process) -> dict[str, Process]:
    return {process.name: process for process in found}


def a_process(name: str = "app-8001", state: str = "RUNNING", pid: int = 100, **changes: Any) -> Process:
    return Process(name, state, pid, **changes)


def a_world(*guard_states: GuardState, **table: Mapping[str, Process]) -> Snapshot:
    return Snapshot({}, (), table, 0.0, {guard_state.group: guard_state for guard_state in guard_states})


# --- which groups


def test_groups_are_guarded_unless_turned_off(setting: Setting) -> None:
    off = a_policy("web", guard=GuardPolicy(enabled=False))
    setting.config = a_config(a_policy("app"), off)
    assert list(setting.guard_states.begin()) == ["app"]


def test_missing_config_ends_no_guard(setting: Setting) -> None:
    setting.config = None
    world = a_world(a_watch(), app=processes(a_process()))
    assert (list(setting.guard_states.begin()), setting.ended(world)) == ([], [])
    assert setting.states(world) == {"app": a_watch()}


@pytest.mark.parametrize("config", [a_config(), a_config(a_policy(guard=GuardPolicy(enabled=False)))])
def test_removed_or_disabled_group_is_unguarded(setting: Setting, config: Config) -> None:
    world = a_world(a_watch(), app=processes(a_process()))
    assert setting.ended(world) == []
    setting.config = config
    assert setting.ended(world) == ["app"]
    assert setting.states(world) == {}


def test_unknown_group_is_not_guarded(setting: Setting) -> None:
    assert setting.states(a_world()) == {}
    assert setting.states(a_world(app={})) == {}


# --- by which policy


def test_guard_state_follows_todays_policy(setting: Setting) -> None:
    guarded = GuardedProcess("app-8001", (tcp(8001),), Stage.FAILED, NOW, closed=True, tries=3)
    policy = a_policy(min_ready_seconds=99.0)
    setting.config = a_config(policy, lease=9.0)
    world = a_world(a_watch("app", guarded, min_ready_seconds=1.0), app=processes(a_process()))
    assert setting.states(world) == {"app": GuardState("app", policy, GatePolicy(lease=9.0), (guarded,))}


def test_newly_guarded_groups_old_processes_are_warm(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    old, young = a_process(up_for=ASSUMED_WARM_AFTER), a_process("app-8002", pid=101, up_for=ASSUMED_WARM_AFTER - 1.0)
    without = a_process("other", pid=102, up_for=ASSUMED_WARM_AFTER)
    with caplog.at_level(logging.INFO):
        found = setting.states(a_world(app=processes(old, young, without)))
    assert found["app"] is not None
    assert found["app"].guarded == (GuardedProcess("app-8001", (tcp(8001),), Stage.OPEN, NOW, pid=100),)
    assert "app: the crash guard is on: no new process gets traffic before it is warm" in caplog.messages


def test_known_guard_state_does_not_begin_again(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    world = a_world(a_watch(), app=processes(a_process(up_for=ASSUMED_WARM_AFTER)))
    with caplog.at_level(logging.INFO):
        found = setting.states(world)["app"]
    assert found is not None
    assert found.guarded == ()
    assert caplog.messages == []


# --- on which ports


def test_ports_follow_the_rule_and_processes(setting: Setting) -> None:
    one, two = a_process(), a_process("app-8002")
    assert setting.guard_states.endpoints(a_watch(), processes(one)) == {"app-8001": (tcp(8001),)}
    assert setting.guard_states.endpoints(a_watch(), processes(one, two)) == {
        "app-8001": (tcp(8001),),
        "app-8002": (tcp(8002),),
    }
    by_name = PortRule(by_name={"app-8001": (1, 2), "app-8002": (3,)})
    assert setting.guard_states.endpoints(a_watch(ports=by_name), processes(one, two)) == {
        "app-8001": (tcp(1), tcp(2)),
        "app-8002": (tcp(3),),
    }
    assert setting.kernel.asked == []


def test_two_groups_have_each_their_own_ports(setting: Setting) -> None:
    other = a_watch("web", ports=PortRule(by_name={"app-8001": (9,)}))
    for _ in range(2):
        assert setting.guard_states.endpoints(a_watch(), processes(a_process())) == {"app-8001": (tcp(8001),)}
        assert setting.guard_states.endpoints(other, processes(a_process())) == {"app-8001": (tcp(9),)}


def test_process_without_port_is_logged_once(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    table = processes(a_process(), a_process("b10"), a_process("b9"))
    for _ in range(3):
        assert setting.guard_states.endpoints(a_watch(), table) == {"app-8001": (tcp(8001),)}
    assert caplog.messages == ["groups.app.ports finds no port for b9, b10: they are not guarded"]


def test_changed_warning_is_logged_again(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    good, bad, worse = a_process(), a_process("b"), a_process("c")
    for table in ((good, bad), (good, bad, worse), (good,), (good, bad, worse)):
        setting.guard_states.endpoints(a_watch(), processes(*table))
    assert [text.partition(" port for ")[2].partition(":")[0] for text in caplog.messages] == ["b", "b, c", "b, c"]


def heard(setting: Setting, *found: Process, group: str = "app") -> Endpoints:
    return dict(setting.guard_states.endpoints(a_watch(group, ports=AUTO), processes(*found)))


def test_auto_reads_each_processes_ports_once(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001, 9001)}
    for _ in range(3):
        assert heard(setting, a_process("web")) == {"web": (tcp(8001), tcp(9001))}
    assert setting.kernel.asked == [100]


def test_auto_keeps_port_until_next_process_is_warm(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001,), 200: (9001,)}
    assert heard(setting, a_process("web", pid=100)) == {"web": (tcp(8001),)}
    new = a_process("web", pid=200, spawned=NOW)
    assert heard(setting, new) == {"web": (tcp(8001),)}, "the load balancer sends to this port"
    assert heard(setting, replace(new, warm=True)) == {"web": (tcp(9001),)}


def test_auto_reads_all_ports_in_one_call(setting: Setting) -> None:
    """A new listener knows of none yet, and each question reads all of /proc."""
    setting.kernel.listens = {pid: (pid + 8000,) for pid in range(1, 100)}
    found = heard(setting, *(a_process(f"web-{pid}", pid=pid) for pid in range(1, 100)))
    assert found == {f"web-{pid}": (tcp(pid + 8000),) for pid in range(1, 100)}
    assert setting.kernel.times == 1


def test_auto_unreadable_process_hides_no_other(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.kernel.listens, setting.kernel.hidden = {1: (8001,), 3: (8003,)}, {2}
    found = heard(setting, a_process("a", pid=1), a_process("b", pid=2), a_process("c", pid=3))
    assert found == {"a": (tcp(8001),), "c": (tcp(8003),)}
    (text,) = caplog.messages
    assert text.startswith("groups.app.ports is auto, but it is not known which ports are those of b: ")
    assert "process 2" in text


@pytest.mark.parametrize("state", ["EXITED", "BACKOFF", "STARTING", "STOPPING", "FATAL"])
def test_auto_stopped_process_keeps_previous_ports(setting: Setting, state: str) -> None:
    setting.kernel.listens = {100: (8001,)}
    heard(setting, a_process("web"))
    setting.kernel.listens = {}
    assert heard(setting, a_process("web", state, 0)) == {"web": (tcp(8001),)}
    assert heard(setting, a_process("web", state, 101)) == {"web": (tcp(8001),)}
    assert setting.kernel.asked == [100]


def test_auto_booting_process_keeps_previous_ports(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001,)}
    heard(setting, a_process("web"))
    assert heard(setting, a_process("web", pid=101)) == {"web": (tcp(8001),)}


def test_auto_retries_until_a_process_listens(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert heard(setting, a_process("web")) == {}
    setting.kernel.listens = {100: (8001,)}
    assert heard(setting, a_process("web")) == {"web": (tcp(8001),)}
    assert (setting.kernel.asked, caplog.messages) == ([100] * 3, [])


def test_auto_never_running_process_has_no_ports(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001,)}
    assert heard(setting, a_process("web", "STARTING")) == {}
    assert setting.kernel.asked == []


def test_auto_keeps_groups_apart(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001,)}
    heard(setting, a_process("web"))
    assert heard(setting, a_process("web", "EXITED", 0), group="other") == {}


# --- a port that two processes have: to close it for one would close it for both


def test_port_of_two_processes_is_not_guarded(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    rule = PortRule(by_name={"a": (8001,), "b": (8001, 8002), "c": (8003,)})
    table = processes(a_process("a"), a_process("b"), a_process("c"))
    for _ in range(2):
        assert setting.guard_states.endpoints(a_watch(ports=rule), table) == {"a": (), "b": (), "c": (tcp(8003),)}
    assert caplog.messages == ["groups.app.ports gives a port of another process to a, b: they are not guarded"]


def test_port_of_two_groups_is_not_guarded(setting: Setting) -> None:
    table = processes(a_process("app-8001"), a_process("app-8002"))
    setting.guard_states.endpoints(a_watch(), table)
    other = PortRule(by_name={"api": (8002,)})
    assert setting.guard_states.endpoints(a_watch("api", ports=other), processes(a_process("api"))) == {"api": ()}
    assert setting.guard_states.endpoints(a_watch(), table) == {"app-8001": (tcp(8001),), "app-8002": ()}


def test_removed_groups_ports_are_free(setting: Setting) -> None:
    rule = PortRule(by_name={"api": (8001,)})
    setting.config = a_config(a_policy(), a_policy("api", rule))
    old, new = {"app": processes(a_process())}, {"api": processes(a_process("api"))}
    setting.states(a_world(**old))
    guard_state = setting.states(a_world(**new))["api"]
    assert guard_state is not None
    assert setting.guard_states.endpoints(guard_state, new["api"]) == {"api": (tcp(8001),)}


# --- years of deploys


def test_auto_forgets_removed_processes(setting: Setting) -> None:
    setting.kernel.listens = {100: (8001,)}
    heard(setting, a_process("release-1"))
    heard(setting, a_process("release-2", pid=101))
    setting.kernel.listens = {}
    assert heard(setting, a_process("release-1", "EXITED", 0)) == {}


def test_auto_unreadable_processes_are_logged_once(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.kernel.is_blind = True
    for pid in (100, 100, 200):
        heard(setting, a_process("a", pid=pid), a_process("b", pid=pid + 1))
    assert caplog.messages == [
        "groups.app.ports is auto, but it is not known which ports are those of a, b: they are not guarded. "
        "Cannot see which ports process 100 listens on."
    ]
    setting.kernel.is_blind = False
    heard(setting, a_process("a", pid=200))
    setting.kernel.is_blind = True
    heard(setting, a_process("a", pid=300))
    assert caplog.messages[1:] == [
        "groups.app.ports is auto, but it is not known which ports are those of a: they are not guarded. "
        "Cannot see which ports process 300 listens on."
    ]
