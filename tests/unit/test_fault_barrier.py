"""Whatever goes wrong in our code within supervisord becomes a fault and a line in the log.

On supervisor's own dummies; ``test_hostile_end_to_end.py`` has a real supervisord.
"""

from __future__ import annotations

import contextlib
import json
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from supervisor import events
from supervisor.states import ProcessStates
from supervisor.tests.base import DummyOptions
from supervisor.xmlrpc import Faults, RPCError, traverse

from supervisor_rolling.codec import dump, dump_changes
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.core.public_view import rollout_view
from supervisor_rolling.core.rollout import Member, Stage, Status
from supervisor_rolling.packing import unpack
from supervisor_rolling.plugin.arguments import ANSWER_TIMEOUT
from supervisor_rolling.plugin.fault_barrier import MAX_REPORTED, Defects, contained
from supervisor_rolling.plugin.rpc import API_VERSION, LISTENER_GONE_AFTER, make_rolling_rpcinterface
from tests.support.sabotage import CONSTANT, ERRORS, NETS, Sabotage, all_functions, targets
from tests.unit.test_hostile_rpc import Root, a_pool, called, looking
from tests.unit.test_rpcinterface import LISTENER_PID, a_rollout, make_supervisord

KNOWN = {"guarded": ["app"]}
WARM = GuardedProcess("web_2", (tcp(8002),), Stage.OPEN, 1.0, pid=101, spawned=1.0)
WATCH = dump(GuardState("app", Policy("app", PortRule(auto=True)), GatePolicy(), (WARM,)))


CUT_OFF = Member("web_1", (tcp(8001),), lingering_connections=1, oldest_lingering=(Connection("10.0.0.1:5000", 3.0),))


@pytest.fixture(autouse=True)
def no_subscriptions() -> Iterator[None]:
    events.clear()
    yield
    events.clear()


@pytest.fixture
def sabotage() -> Iterator[Sabotage]:
    found = Sabotage()
    yield found
    found.disarm()


class Drill:
    """Every method, at every point of the life of a rollout, and supervisord's own events; as supervisord calls them.

    Asks nothing of ours but over RPC, so that whatever of ours raises, raises where supervisord would meet it.
    """

    def __init__(self, rolling: Any) -> None:
        self.rolling = rolling
        self.key = rolling.mailbox.key
        self.answers: list[Any] = []
        self.version = 0

    def call(self, method: str, *arguments: Any) -> Any:
        self.answers.append(called(self.rolling, method, *arguments))
        return self.answers[-1]

    def record(self, rollout: Any, request: int = 0, group: str = "app", before: Any = None) -> None:
        text = (dump_changes(rollout, before) if before else dump(rollout)).replace('"app"', f'"{group}"')
        answer = self.call("listenerRecord", self.key, group, self.version, text, request)
        self.version = answer if isinstance(answer, int) else self.version

    def look(self) -> None:
        answer = self.call("listenerObserve", self.key, KNOWN)
        if isinstance(answer, str):
            self.version = json.loads(unpack(answer))["rollouts"].get("app", [0])[0]

    def asked(
        self, method: str, *arguments: Any, answer: Callable[[], object], then: Callable[[], object] = bool
    ) -> None:
        """Ask, let the listener answer, and get the answer; and once more after ``then``."""
        try:
            deferred = traverse(Root(self.rolling), f"rolling.{method}", arguments)
        except RPCError as error:
            self.answers.append(error)
            return
        for look in (lambda: None, answer, then):
            look()
            with contextlib.suppress(RPCError):
                assert deferred() is not None

    def chain(self) -> None:
        """The first of two groups is done."""
        first = replace(a_rollout(3), following=("rolling",))
        self.record(first, 5)
        self.record(replace(first, status=Status.DONE), before=first)

    def refuse_next(self) -> None:
        self.call("listenerAnswer", self.key, 6, Fault.REFUSED, "é", "")
        self.look()

    def wait_too_long(self) -> None:
        self.rolling.clock.now += ANSWER_TIMEOUT

    def wait_without_a_listener(self) -> None:
        listener = self.rolling.supervisord.process_groups["rolling"].processes["rolling"]

        def lose() -> None:
            listener.pid, listener.state = 0, ProcessStates.STOPPED

        def wait() -> None:
            self.rolling.clock.now += LISTENER_GONE_AFTER

        self.call("pause", "app")  # what runs and is not paused cannot be resumed
        self.asked("callPacked", "resume", ["app", True], answer=lose, then=wait)
        listener.state = ProcessStates.EXITED
        self.call("getListener")
        listener.pid, listener.state = LISTENER_PID, ProcessStates.RUNNING

    def run(self) -> list[Any]:
        call, key = self.call, self.key
        process = self.rolling.supervisord.process_groups["app"].processes["web_1"]
        options = {"dry_run": True, "processes": ["web_1"], "max_unavailable": "10%", "by": "é"}
        plan = dump(a_rollout(1))
        self.asked("restart", "app:web_2", False, options, answer=lambda: call("listenerAnswer", key, 1, 0, "", plan))
        self.asked("restart", "app", True, answer=lambda: call("listenerAnswer", key, 2, Fault.REFUSED, "\\xe9", ""))
        self.asked("restart", "app:*", True, answer=lambda: self.record(a_rollout(1), 3))
        call("restart", "app", True, {"max_unavailable": 2})
        call("restart", "web", True, {"max_unavailable": 0})
        call("getRollout", "no such group")
        call("listenerGuard", key, "app", "{}")
        call("listenerHello")
        self.look()
        self.wait_without_a_listener()
        self.look()
        for method in ("pause", "resume", "abort"):
            call(method, "app")
        action = {"verb": "signal", "name": "web_1", "signal": "USR1", "incarnation": [100, 1.0]}
        call("listenerAct", key, "app", [action])
        for kind in HAPPENS:
            events.notify(kind(process, 0))
        call("listenerGuard", key, "app", WATCH)
        self.look()
        call("getProcesses", "app")
        call("callPacked", "getProcesses", ["app"])
        self.record(replace(a_rollout(1), status=Status.FAILED, why="é", members=(CUT_OFF,)))
        self.asked("resume", "app", True, answer=lambda: self.record(a_rollout(2), 4))
        self.record(replace(a_rollout(2), status=Status.DONE), before=a_rollout(2))
        self.asked("restartGroups", ["app", "rolling"], True, answer=self.chain, then=self.refuse_next)
        self.record(a_rollout(3), group="gone")
        call("getRollout", "app")
        call("listenerGuard", key, "app", "")
        call("getAllRollouts")
        call("getAPIVersion")
        call("getListener")
        report = dump(Report("app", (Finding("a", "é", "b", "c"),), ("d",), ("e",)))
        self.asked("check", "app", answer=lambda: call("listenerAnswer", key, 7, 0, "", report))
        self.asked("check", "app", answer=self.wait_too_long)
        view = rollout_view(a_rollout(1), 1000.0)
        rollouts, record = dump([view]), dump(view)
        self.asked("getHistory", "app", answer=lambda: call("listenerAnswer", key, 9, 0, "", rollouts))
        self.asked("getRecord", "", 12, answer=lambda: call("listenerAnswer", key, 10, 0, "", record))
        self.record(a_rollout(4))
        del self.rolling.supervisord.process_groups["app"]
        events.notify(events.ProcessGroupRemovedEvent("app"))
        self.look()
        return self.answers


HAPPENS = (
    events.ProcessStateStoppingEvent,
    events.ProcessStateStoppedEvent,
    events.ProcessStateStartingEvent,
    events.ProcessStateExitedEvent,
)

ELSEWHERE = {
    "plugin.rpc:RollingNamespaceRPCInterface.__init__",  # in the factory
    "plugin.mailbox:Mailbox.__init__",
    "plugin.mailbox:Versions.__init__",
    "plugin.process_times:ProcessTimes.__init__",
    "plugin.process_delta:Table.__init__",
    "plugin.process_times:ProcessTimes.note",  # known to supervisord's events as it was
    "plugin.listener_health:ListenerHealth.__init__",
    "plugin.process_times:restarts",
    "core.text:listed",  # this and the next two: in the listener
    "core.text:printable",
    "core.share:limit_for",
}
"""Not called by any method or event."""


def prepared() -> Any:
    """The namespace with our listener and a listener of rollout events."""
    events.clear()
    supervisord = make_supervisord()
    for name, group in supervisord.process_groups.items():
        group.config.name = name
        for process in group.processes.values():
            process.group = group
    supervisord.process_groups["pool"] = a_pool("pool", "ROLLING_REQUEST", "ROLLING")
    return looking(supervisord)


def defects_in(answers: list[Any]) -> list[Any]:
    return [answer for answer in answers if getattr(answer, "faultCode", 0) == Fault.INTERNAL_ERROR]


def logged(rolling: Any) -> list[str]:
    return [line for line in rolling.supervisord.options.logger.data if "a bug in supervisor_rolling in" in line]


@pytest.mark.parametrize("target", [t for t in targets() if "wakeup:" not in t and t not in ELSEWHERE])
def test_any_exception_is_contained(sabotage: Sabotage, target: str) -> None:
    for error in ERRORS:
        raises_and_is_contained(sabotage, target, error)


def raises_and_is_contained(sabotage: Sabotage, target: str, error: str) -> None:
    rolling, sabotage.hits = prepared(), 0
    sabotage.arm(target, error)
    answers = Drill(rolling).run()
    sabotage.disarm()
    assert sabotage.hits, "the drill does not reach it"
    assert bool(defects_in(answers)) <= bool(logged(rolling))
    assert all(error in answer.faultString for answer in defects_in(answers))
    assert len(set(logged(rolling))) == len(logged(rolling)), "the same one is logged twice"
    rolling.supervisord.process_groups["app"] = make_supervisord().process_groups["app"]
    assert called(rolling, "getAPIVersion") == API_VERSION
    assert isinstance(called(rolling, "getAllRollouts"), list)
    assert len(called(rolling, "getProcesses", "app")) == 3
    assert json.loads(unpack(called(rolling, "listenerObserve", rolling.mailbox.key, KNOWN)))["rollout_groups"] in (
        [],
        ["app"],
    )


def test_drill_without_exception_finds_no_defect() -> None:
    rolling = prepared()
    answers = Drill(rolling).run()
    faults = [answer.faultCode for answer in answers if isinstance(answer, xmlrpc.client.Fault)]
    assert (defects_in(answers), logged(rolling)) == ([], [])
    assert faults == [
        Fault.ROLLOUT_IN_PROGRESS,
        Faults.INCORRECT_PARAMETERS,
        Faults.BAD_NAME,
        Faults.INCORRECT_PARAMETERS,
        Fault.CONFLICT,
    ]
    assert len(answers) > 4 * len(faults)
    assert len(rolling.supervisord.process_groups["pool"].event_buffer) > 5


@pytest.mark.parametrize("target", ["events:events_between", "views:struct", "events:RollingEvent.__init__"])
def test_rollout_that_cannot_be_sent_is_not_written(sabotage: Sabotage, target: str) -> None:
    rolling = prepared()
    sabotage.arm(f"plugin.{target}", "KeyError")
    answer = called(rolling, "listenerRecord", rolling.mailbox.key, "app", 0, dump(a_rollout(1)), 0)
    sabotage.disarm()
    assert (answer.faultCode, called(rolling, "getAllRollouts")) == (Fault.INTERNAL_ERROR, [])


def test_excluded_functions_exist() -> None:
    assert {*CONSTANT, *NETS} <= set(all_functions())
    assert set(targets()) >= ELSEWHERE


def test_only_inner_type_error_is_a_defect() -> None:
    @contained
    class Namespace:
        def __init__(self) -> None:
            self._defects = Defects(DummyOptions().logger)

        def add(self, one: Any, two: Any = 2) -> Any:
            """Add"""
            return one + two

        def _hidden(self) -> None:
            raise KeyError

    namespace: Any = Namespace()
    assert (namespace.add(1), namespace.add(1, 3), namespace.add.__doc__) == (3, 4, "Add")
    for arguments, code in (((), 2), ((1, 2, 3), 2), ((1, "2"), Fault.INTERNAL_ERROR)):
        with pytest.raises(RPCError) as caught:
            namespace.add(*arguments)
        assert caught.value.code == code
    with pytest.raises(KeyError):
        namespace._hidden()


def test_defect_is_logged_once_and_limited() -> None:
    logger = DummyOptions().logger
    defects = Defects(logger)
    for number in range(200):  # the same in other words
        defects.report("a test", ValueError(f"number {number}"))
    assert logger.data == ["rolling: a bug in supervisor_rolling in a test:\nValueError: number 0\n"]
    for number in range(200):
        defects.report(f"place {number}", ValueError("x"))
    assert len(logger.data) == MAX_REPORTED


def test_unwritable_log_stops_nothing() -> None:
    class Full:
        def critical(self, _: str) -> None:
            raise OSError("No space left on device")

    Defects(Full()).report("a test", ValueError("x"))
    assert Defects(Full()).fault("restart", ValueError("x")).code == Fault.INTERNAL_ERROR


# --- the factory


FACTORY = ["mailbox:Mailbox.__init__", "event_subscriptions:subscribe_events", "wakeup:install"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("target", FACTORY)
def test_supervisord_starts_when_factory_fails(sabotage: Sabotage, target: str, error: str) -> None:
    supervisord = make_supervisord()
    sabotage.arm(f"plugin.{target}", error)
    interface = make_rolling_rpcinterface(supervisord, wakeup="true" if "wakeup" in target else "false")
    sabotage.disarm()
    assert sabotage.hits
    assert "a bug in supervisor_rolling in its factory" in supervisord.options.logger.data[-1]
    with pytest.raises(RPCError) as caught:
        traverse(Root(interface), "rolling.getAPIVersion", ())
    assert caught.value.code == Faults.UNKNOWN_METHOD


@pytest.mark.parametrize("error", ERRORS)
def test_failed_wakeup_leaves_namespace_working(sabotage: Sabotage, error: str) -> None:
    supervisord = make_supervisord()
    sabotage.arm("plugin.wakeup:WakeUp.__init__", error)
    interface = make_rolling_rpcinterface(supervisord, wakeupp="a typing error")
    sabotage.disarm()
    assert sabotage.hits
    assert traverse(Root(interface), "rolling.getAPIVersion", ()) == API_VERSION
    assert "rolling: no wake-up" in supervisord.options.logger.data[-1]
