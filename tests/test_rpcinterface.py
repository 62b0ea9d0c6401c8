"""The mailbox in supervisord, on supervisor's own dummies."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest
from supervisor import events
from supervisor.http import NOT_DONE_YET
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.tests.base import DummyOptions, DummyPConfig, DummyPGroupConfig, DummyProcess, DummySupervisor
from supervisor.xmlrpc import Faults, RPCError, SystemNamespaceRPCInterface, traverse, xmlrpc_marshal

from supervisor_rolling.errors import Fault
from supervisor_rolling.in_supervisord.events import EVENTS, RollingEvent
from supervisor_rolling.model import GatePolicy, Member, Policy, PortRule, Roll, Stage, Status
from supervisor_rolling.rpcinterface import ANSWER_WITHIN, HEARTBEAT, make_rolling_rpcinterface
from supervisor_rolling.wire import dump_roll

LISTENER_PID = 77


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Group:
    def __init__(self, processes: dict[str, DummyProcess], pool_events: tuple[type, ...] = ()) -> None:
        self.processes = processes
        self.config = DummyPGroupConfig(DummyOptions())
        if pool_events:
            self.config.pool_events = pool_events


def make_process(name: str, pid: int) -> DummyProcess:
    config = DummyPConfig(DummyOptions(), name, "/bin/true", startsecs=10)
    process = DummyProcess(config, ProcessStates.RUNNING)
    process.pid, process.laststart = pid, 1.0
    return process


def make_supervisord() -> DummySupervisor:
    options = DummyOptions()
    supervisord = DummySupervisor(options)
    names = ["web_1", "web_2", "web_10"]
    supervisord.process_groups = {
        "app": Group({name: make_process(name, 100 + i) for i, name in enumerate(names)}),
        "rolling": Group({"rolling": make_process("rolling", LISTENER_PID)}, (EVENTS["ROLLING_ASKED"],)),
    }
    return supervisord


@pytest.fixture(autouse=True)
def notified():
    """The events of ours that were emitted."""
    events.clear()
    seen: list[events.Event] = []
    for kind in (RollingEvent, EVENTS["ROLLING_ASKED"]):
        events.subscribe(kind, seen.append)
    yield seen
    events.clear()


@pytest.fixture
def supervisord() -> DummySupervisor:
    return make_supervisord()


@pytest.fixture
def rolling(supervisord: DummySupervisor) -> Any:
    interface = make_rolling_rpcinterface(supervisord, wakeup="false")
    interface.clock = Clock()
    interface.listenerLook(LISTENER_PID, {})
    return interface


def a_roll(number: int = 1, **changes: Any) -> Roll:
    members = (Member("web_1", (8001,)), Member("web_2", (8002,)), Member("web_10", (8010,)))
    values = {"members": members, "limit": 1, "gate": GatePolicy(), "started_at": 1000.0, **changes}
    return Roll(number, "app", Policy("app", PortRule(pattern=r"web_(\d+)")), **values)


def begin(rolling: Any, **options: Any) -> int:
    """Ask for a roll as a client, and accept it as the listener. Returns the version of the roll."""
    rolling.restart("app", False, options)
    (request,) = json.loads(rolling.listenerLook(LISTENER_PID, {}))["requests"]
    version = rolling.mailbox.versions.get("app", 0)
    return rolling.listenerRecord("app", version, dump_roll(a_roll(request["id"])), request["id"])


def fault_of(call: Any, *arguments: Any) -> RPCError:
    with pytest.raises(RPCError) as caught:
        call(*arguments)
    return caught.value


def test_what_is_asked_rings_the_doorbell_and_reaches_the_listener(rolling: Any, notified: list[Any]):
    rolling.restart("app:*", False, {"max_unavailable": "25%", "by": "ann@host"})
    (event,) = notified
    assert events.getEventNameByType(event.__class__) == "ROLLING_ASKED"
    (request,) = json.loads(rolling.listenerLook(LISTENER_PID, {}))["requests"]
    assert (request["kind"], request["group"], request["max_unavailable"]) == ("restart", "app", "25%")


def test_one_process_can_be_named_as_supervisor_names_it(rolling: Any):
    rolling.restart("app:web_2", False, {"processes": ["web_10"]})
    (request,) = json.loads(rolling.listenerLook(LISTENER_PID, {}))["requests"]
    assert request["processes"] == ["web_2", "web_10"]


def test_the_listener_gets_the_processes_of_the_groups_concerned_and_no_others(rolling: Any):
    assert json.loads(rolling.listenerLook(LISTENER_PID, {}))["processes"] == {}
    begin(rolling)
    table = json.loads(rolling.listenerLook(LISTENER_PID, {}))["processes"]
    assert list(table) == ["app"]
    assert [row[:3] for row in table["app"]] == [
        ["web_1", "RUNNING", 100],
        ["web_2", "RUNNING", 101],
        ["web_10", "RUNNING", 102],
    ]


def test_the_listener_gets_only_the_rolls_that_it_does_not_have(rolling: Any):
    version = begin(rolling)
    assert list(json.loads(rolling.listenerLook(LISTENER_PID, {}))["rolls"]) == ["app"]
    assert json.loads(rolling.listenerLook(LISTENER_PID, {"app": version}))["rolls"] == {}


def test_a_deferred_answer_comes_when_the_listener_has_accepted(rolling: Any):
    answer = rolling.restart("app", False, {})
    assert answer() is NOT_DONE_YET
    rolling.listenerRecord("app", 0, dump_roll(a_roll()), 1)
    assert answer()["status"] == "running"


def test_with_wait_the_answer_comes_when_the_roll_has_ended(rolling: Any):
    answer = rolling.restart("app", True, {})
    version = rolling.listenerRecord("app", 0, dump_roll(a_roll()), 1)
    assert answer() is NOT_DONE_YET
    rolling.listenerRecord("app", version, dump_roll(a_roll(status=Status.DONE, ended_at=1002.0)), 0)
    assert (answer()["status"], answer()["seconds"]) == ("done", 2.0)


@pytest.mark.parametrize(("status", "code"), [(Status.FAILED, Fault.ROLL_FAILED), (Status.ABORTED, Fault.ROLL_ABORTED)])
def test_a_roll_that_ends_badly_is_a_fault_for_who_waits(rolling: Any, status: Status, code: int):
    answer = rolling.restart("app", True, {})
    rolling.listenerRecord("app", 0, dump_roll(a_roll(status=status, why="web_1 is not warm")), 1)
    assert fault_of(answer).code == code


def test_a_refusal_is_a_fault_with_the_listeners_words(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.listenerAnswer(1, Fault.NOT_CONFIGURED, "no policy for app", "")
    fault = fault_of(answer)
    assert (fault.code, fault.text) == (Fault.NOT_CONFIGURED, "NOT_CONFIGURED: no policy for app")


def test_a_plan_is_answered_and_not_kept(rolling: Any):
    answer = rolling.restart("app", False, {"dry_run": True})
    rolling.listenerAnswer(1, 0, "", dump_roll(a_roll(status=Status.PLANNED)))
    assert answer()["status"] == "planned"
    assert rolling.getAllRolls() == []


def test_a_listener_that_does_not_answer_is_told_to_the_client(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.clock.now += ANSWER_WITHIN
    assert fault_of(answer).code == Fault.LISTENER_DOWN


def test_a_request_that_nobody_answered_does_not_hold_the_group_for_ever(rolling: Any):
    rolling.restart("app", False, {})
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.ALREADY_ROLLING
    rolling.clock.now += ANSWER_WITHIN + 1
    rolling.restart("app", False, {})


def test_a_second_roll_is_refused_and_told_who_has_the_group_and_how_far(rolling: Any):
    version = begin(rolling, by="ann@host")
    members = (Member("web_1", (1,), replaced=True), Member("web_2", (2,)))
    rolling.listenerRecord("app", version, dump_roll(a_roll(by="ann@host", members=members)), 0)
    fault = fault_of(rolling.restart, "app", False, {})
    assert fault.code == Fault.ALREADY_ROLLING
    assert "roll 1 by ann@host has replaced 1 of 2" in fault.text


def test_without_a_listener_a_roll_is_refused(rolling: Any, supervisord: DummySupervisor):
    supervisord.process_groups["rolling"].processes["rolling"].pid = 0
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


def test_a_listener_that_has_not_looked_for_long_is_none(rolling: Any):
    rolling.clock.now += HEARTBEAT + 1
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


def test_a_listener_that_has_only_just_been_started_is_one(supervisord: DummySupervisor):
    listener = supervisord.process_groups["rolling"].processes["rolling"]
    listener.laststart = time.time()
    interface = make_rolling_rpcinterface(supervisord, wakeup="false")
    assert interface.restart("app", False, {})() is NOT_DONE_YET


def test_a_listener_of_roll_events_is_not_ours(rolling: Any, supervisord: DummySupervisor):
    supervisord.process_groups["rolling"].config.pool_events = (EVENTS["ROLLING"],)
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


@pytest.mark.parametrize("name", ["nope", "app:nope", "", ":", "app:*:x", "*"])
def test_an_unknown_name_is_a_bad_name(rolling: Any, name: str):
    assert fault_of(rolling.restart, name, False, {}).code == Faults.BAD_NAME


@pytest.mark.parametrize(
    "options",
    [
        {"max_unavailable": 0},
        {"max_unavailable": "200%"},
        {"max_unavailable": "-1"},
        {"max_unavailable": "many"},
        {"max_unavialable": 1},
        {"processes": "web_1"},
        {"processes": [3]},
        "force",
        [],
    ],
)
def test_bad_options_are_incorrect_parameters(rolling: Any, options: Any):
    assert fault_of(rolling.restart, "app", False, options).code == Faults.INCORRECT_PARAMETERS


def test_the_name_of_who_asks_is_short_and_harmless(rolling: Any):
    rolling.restart("app", False, {"by": "ann; rm -rf /\n" + "é" * 500})
    by = rolling.mailbox.requests[1]["by"]
    assert len(by) == 64
    assert by.startswith("ann__rm_-rf_/")


def test_the_listener_cannot_write_over_what_it_has_not_read(rolling: Any):
    version = begin(rolling)
    rolling.abort("app")
    fault = fault_of(rolling.listenerRecord, "app", version, dump_roll(a_roll()), 0)
    assert fault.code == Fault.CONFLICT
    assert rolling.getRoll("app")["aborting"] is True


@pytest.mark.parametrize("method", ["abort", "pause", "resume"])
def test_there_is_nothing_to_abort_pause_or_resume_without_a_roll(rolling: Any, method: str):
    assert fault_of(getattr(rolling, method), "app").code == Fault.NOT_ROLLING


def test_pause_and_resume_set_the_flag_and_ring(rolling: Any, notified: list[Any]):
    begin(rolling)
    notified.clear()
    assert rolling.pause("app")["paused"] is True
    assert rolling.resume("app")["paused"] is False
    assert len(notified) == 2


def test_resume_of_a_failed_roll_is_a_request_to_the_listener(rolling: Any):
    version = begin(rolling)
    rolling.listenerRecord("app", version, dump_roll(a_roll(status=Status.FAILED)), 0)
    answer = rolling.resume("app")
    assert answer() is NOT_DONE_YET
    (request,) = json.loads(rolling.listenerLook(LISTENER_PID, {}))["requests"]
    assert request["kind"] == "resume"


def test_other_listeners_are_told_of_the_roll_and_its_processes(rolling: Any, notified: list[Any]):
    version = begin(rolling)
    members = (Member("web_1", (8001,), stage=Stage.DRAINING, since=1000.0), Member("web_2", (8002,)))
    version = rolling.listenerRecord("app", version, dump_roll(a_roll(members=members)), 0)
    rolling.listenerRecord("app", version, dump_roll(a_roll(status=Status.DONE)), 0)
    names = [events.getEventNameByType(event.__class__) for event in notified]
    assert names == ["ROLLING_ASKED", "ROLLING_STARTED", "ROLLING_PROCESS", "ROLLING_PROCESS", "ROLLING_FINISHED"]
    head, _, body = notified[2].payload().partition("\n")
    assert head == "group:app roll:1"
    assert (json.loads(body)["name"], json.loads(body)["stage"]) == ("web_1", "draining")


def test_every_event_can_be_subscribed_to_by_its_name():
    assert {name: getattr(events.EventTypes, name) for name in EVENTS} == EVENTS


def test_the_ledger_knows_the_pid_that_was_warmed_and_no_other(rolling: Any, supervisord: DummySupervisor):
    version = begin(rolling)
    members = (
        Member("web_1", (8001,), stage=Stage.OPEN, pid=100),
        Member("web_2", (8002,), stage=Stage.WARMING, pid=101),
    )
    rolling.listenerRecord("app", version, dump_roll(a_roll(members=members)), 0)
    assert {p["name"]: p["warm"] for p in rolling.getProcesses("app")} == {
        "web_1": True,
        "web_10": False,
        "web_2": False,
    }
    supervisord.process_groups["app"].processes["web_1"].pid = 555
    assert not any(process["warm"] for process in rolling.getProcesses("app"))


def test_a_group_that_is_removed_is_forgotten(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    del supervisord.process_groups["app"]
    assert json.loads(rolling.listenerLook(LISTENER_PID, {}))["groups"] == []
    assert rolling.getAllRolls() == []


def test_a_group_that_is_removed_and_added_again_can_be_rolled(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    group = supervisord.process_groups.pop("app")
    rolling.listenerLook(LISTENER_PID, {})
    supervisord.process_groups["app"] = group
    answer = rolling.restart("app", False, {})
    assert rolling.listenerRecord("app", 0, dump_roll(a_roll(2)), 2) > 0
    assert answer()["id"] == 2


def test_a_request_for_a_group_that_is_gone_is_answered_and_stops_nobody(rolling: Any, supervisord: DummySupervisor):
    answer = rolling.restart("app", False, {})
    del supervisord.process_groups["app"]
    assert json.loads(rolling.listenerLook(LISTENER_PID, {}))["requests"] == []
    assert fault_of(answer).code == Fault.REFUSED


def test_a_roll_that_nobody_expects_any_more_does_not_begin(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.clock.now += ANSWER_WITHIN
    assert fault_of(answer).code == Fault.LISTENER_DOWN
    assert fault_of(rolling.listenerRecord, "app", 0, dump_roll(a_roll()), 1).code == Fault.CONFLICT
    assert rolling.getAllRolls() == []


def test_who_waits_is_not_told_of_another_roll(rolling: Any):
    answer = rolling.restart("app", True, {})
    version = rolling.listenerRecord("app", 0, dump_roll(a_roll()), 1)
    version = rolling.listenerRecord("app", version, dump_roll(a_roll(status=Status.FAILED)), 0)
    rolling.restart("app", True, {})
    rolling.listenerRecord("app", version, dump_roll(a_roll(2)), 2)
    assert fault_of(answer).code == Fault.ROLL_FAILED


def test_resume_of_a_paused_roll_can_be_waited_for(rolling: Any):
    version = begin(rolling)
    rolling.pause("app")
    answer = rolling.resume("app", True)
    assert answer() is NOT_DONE_YET
    version = rolling.mailbox.versions["app"]
    rolling.listenerRecord("app", version, dump_roll(a_roll(status=Status.DONE)), 0)
    assert answer()["status"] == "done"


def test_the_policy_with_its_headers_is_never_shown(rolling: Any):
    begin(rolling)
    assert "policy" not in json.dumps(rolling.getRoll("app"))


def test_all_servers_of_one_supervisord_share_a_mailbox_and_two_supervisords_do_not(supervisord: DummySupervisor):
    one = make_rolling_rpcinterface(supervisord, wakeup="false")
    two = make_rolling_rpcinterface(supervisord, wakeup="false")
    other = make_rolling_rpcinterface(make_supervisord(), wakeup="false")
    assert one.mailbox is two.mailbox
    assert one.mailbox is not other.mailbox


def test_a_supervisord_that_is_gone_leaves_no_mailbox():
    from supervisor_rolling.rpcinterface import _mailboxes

    before = len(_mailboxes)
    make_rolling_rpcinterface(make_supervisord(), wakeup="false")
    gc.collect()
    assert len(_mailboxes) <= before


def test_nothing_is_done_while_supervisord_shuts_down(rolling: Any, supervisord: DummySupervisor):
    supervisord.options.mood = SupervisorStates.SHUTDOWN
    for call in (lambda: rolling.restart("app"), rolling.getAllRolls, lambda: rolling.abort("app")):
        assert fault_of(call).code == Faults.SHUTDOWN_STATE


def test_every_answer_can_be_sent_as_supervisord_sends_it(rolling: Any):
    version = begin(rolling)
    member = Member("web_1", (8001,), why="GET /é answered 500 → no", stage=Stage.FAILED, since=1000.0)
    rolling.listenerRecord("app", version, dump_roll(a_roll(members=(member,), why="é")), 0)
    for answer in (rolling.getRoll("app"), rolling.getAllRolls(), rolling.getProcesses("app"), rolling.pause("app")):
        xmlrpc_marshal(answer).encode("ascii")


def test_every_method_has_the_documentation_that_supervisord_parses(rolling: Any):
    system = SystemNamespaceRPCInterface([("rolling", rolling)])
    for method in system.listMethods():
        if method.startswith("rolling."):
            assert len(system.methodSignature(method)) >= 1


def test_a_wrong_number_of_arguments_is_a_fault_and_not_an_error(rolling: Any):
    class Root:
        pass

    root = Root()
    root.rolling = rolling  # type: ignore[attr-defined]
    assert fault_of(traverse, root, "rolling.abort", ()).code == Faults.INCORRECT_PARAMETERS
    assert fault_of(traverse, root, "rolling._flag", ("app", "")).code == Faults.UNKNOWN_METHOD


def test_old_requests_are_dropped(rolling: Any):
    for _ in range(300):
        rolling.restart("app", False, {"dry_run": True})
    assert len(rolling.mailbox.requests) <= 100
