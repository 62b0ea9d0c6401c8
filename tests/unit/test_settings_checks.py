"""What is found in supervisord.conf, in the processes and in the kernel's tracking, without a supervisord."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core.checks import conntrack, processes, settings, workers
from supervisor_rolling.core.checks.conntrack import Conntrack
from supervisor_rolling.core.checks.processes import Listening, Wrapper
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import DrainPolicy, GatePolicy, Policy, PortRule
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.preflight_report import Finding, ListenerSettings, ProcessSettings, Settings
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage

POLICY = Policy("app", PortRule())
SOUND = ProcessSettings("app-1", stopwaitsecs=30.0)
LISTENER = ListenerSettings("rolling", buffer_size=4096, startsecs=0.0)


def codes(*those: ProcessSettings, listener: ListenerSettings = LISTENER, total: int = 8) -> list[tuple[str, str]]:
    found = settings.findings(Settings(those or (SOUND,), (listener,), total), POLICY)
    return [(f"{'!' if one.is_error else ''}{one.code}", one.where) for one in found]


def test_valid_settings_have_no_finding() -> None:
    assert codes() == []


def test_defaults_have_no_finding() -> None:
    assert codes(ProcessSettings("app-1")) == []


@pytest.mark.parametrize(("stopwaitsecs", "expected"), [(19.0, ["supervisor.stopwaitsecs"]), (20.0, [])])
def test_drain_longer_than_stopwaitsecs_is_a_warning(stopwaitsecs: float, expected: list[str]) -> None:
    given = Settings((replace(SOUND, stopwaitsecs=stopwaitsecs),), (LISTENER,), 8)
    found = list(settings.findings(given, replace(POLICY, drain=DrainPolicy(timeout=20.0))))
    assert [one.code for one in found] == expected
    assert not any(one.is_error for one in found)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"startsecs": 0.0}, "supervisor.startsecs"),
        ({"startsecs": 60.5}, "!supervisor.startsecs"),
        ({"autorestart": "false"}, "supervisor.autorestart"),
    ],
)
def test_problem_of_a_section_is_one_finding(change: dict[str, object], code: str) -> None:
    wrong = replace(SOUND, **change)  # type: ignore[arg-type]
    assert codes(wrong, replace(wrong, name="app-2")) == [(code, "app:*")]
    assert codes(SOUND, replace(wrong, name="app-2")) == [(code, "app:app-2")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"buffer_size": 23}, "listener.buffer_size"),
        ({"startsecs": 1.0}, "listener.startsecs"),
        ({"lacks": ("PROCESS_STATE",)}, "listener.events"),
        ({"processes": 2}, "!listener.numprocs"),
    ],
)
def test_problem_of_a_listener_names_its_section(change: dict[str, object], code: str) -> None:
    assert codes(listener=replace(LISTENER, **change)) == [(code, "[eventlistener:rolling]")]  # type: ignore[arg-type]


def test_buffer_for_all_events_is_no_finding() -> None:
    assert codes(listener=replace(LISTENER, buffer_size=24), total=8) == []


# --- the processes


LISTENS = Listening({8001: ("127.0.0.1",)})


def told(
    process: Process, listening: Listening = LISTENS, guarded: GuardedProcess | None = None, **member: object
) -> list[Finding]:
    rollout = Rollout(1, "app", POLICY, (replace(Member("app-1", (tcp(8001),)), **member),), 1, GatePolicy())  # type: ignore[arg-type]
    observed = Observation(0.0, {"app-1": process}, guarded={"app-1": guarded} if guarded else {})
    return list(processes.findings(rollout, observed, listening, Settings()))


def found(process: Process, listening: Listening = LISTENS, **member: object) -> list[str]:
    return [one.code for one in told(process, listening, **member)]  # type: ignore[arg-type]


def test_running_and_listening_process_has_no_finding() -> None:
    assert found(Process("app-1", "RUNNING", 1)) == []


@pytest.mark.parametrize("state", ["FATAL", "EXITED", "BACKOFF", "STOPPED", "UNKNOWN"])
def test_down_process_is_a_finding(state: str) -> None:
    assert found(Process("app-1", state), Listening()) == ["process.down"]


def test_cold_process_is_a_finding_with_reason() -> None:
    guarded = GuardedProcess("app-1", (tcp(8001),), Stage.FAILED, 0.0, closed=True, problem="is not warm: 500")
    (by_rollout,) = told(Process("app-1", "RUNNING", 1), stage=Stage.FAILED, why="is not warm: 500")
    (by_guard,) = told(Process("app-1", "RUNNING", 7), guarded=guarded)
    assert by_rollout == by_guard
    assert (by_rollout.code, by_rollout.text) == ("process.cold", "is not warm: 500 (kept closed)")
    assert by_rollout.fix.startswith("deploy a version that becomes warm, then supervisorctl rolling_restart app")


def test_cold_process_has_the_fix_of_its_problem() -> None:
    (finding,) = told(Process("app-1", "RUNNING", 1), stage=Stage.FAILED, why="is not warm: 404. Fix: correct the path")
    assert finding.text == "is not warm: 404 (kept closed)"
    assert finding.fix == "correct the path, then supervisorctl rolling_restart app, which replaces this process first"


def test_open_cold_process_is_accepting_traffic() -> None:
    guarded = GuardedProcess("app-1", (tcp(8001),), Stage.FAILED, 0.0, problem="is not warm: 500")
    (finding,) = told(Process("app-1", "RUNNING", 7), guarded=guarded)
    assert (finding.code, finding.text) == ("process.cold", "is not warm: 500 (accepting traffic)")


def test_orphan_on_the_port_is_an_error() -> None:
    left = Listening({8001: ("127.0.0.1",)}, holders={8001: Holder((41, 42), "python3", "app:app-1")})
    for process in (Process("app-1", "RUNNING", 7), Process("app-1", "FATAL")):
        finding = told(process, left)[-1]
        assert (finding.code, finding.is_error, finding.fix) == ("ports.orphan", True, "kill 41 42")
        assert finding.text == (
            "port 8001 is held by processes 41, 42 (python3), left by an earlier app:app-1: that one answers on the "
            "port, so a new process cannot become warm"
        )
    assert not told(Process("app-1", "STOPPED"), left, selected=False)[-1].is_error


def test_connections_of_an_earlier_process_are_no_orphan() -> None:
    left = Listening({8001: ()}, holders={8001: Holder((41,), "python3", "app:app-1", peer="10.0.0.5:443")})
    (finding,) = told(Process("app-1", "FATAL"), left)
    assert (finding.code, finding.text) == (
        "process.down",
        "is FATAL: it serves no traffic, and a rollout replaces it first",
    )


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (Holder((41,), "nginx"), "Its port 8001 is held by process 41 (nginx)"),
        (Holder((41,), "python3", "app:app-2"), "Its port 8001 is held by process 41 (python3), started as app:app-2"),
        (None, "Its port 8001 is held by a process that cannot be seen: ss -ltnp sport = :8001"),
    ],
)
def test_down_process_names_the_holder_of_its_port(holder: Holder | None, text: str) -> None:
    listening = Listening({8001: ("127.0.0.1",)}, holders={8001: holder} if holder else {})
    finding = told(Process("app-1", "FATAL"), listening)[0]
    assert finding.code == "process.down"
    assert finding.text.endswith(f"and a rollout replaces it first. {text}")


def test_proxy_of_a_container_is_no_finding() -> None:
    proxy = Listening({8001: ("0.0.0.0",)}, holders={8001: Holder((41,), "docker-proxy")})
    assert found(Process("app-1", "RUNNING", 7), proxy) == []


@pytest.mark.parametrize("process", [Process("app-1", "RUNNING", 7), Process("app-1", "FATAL")])
def test_foreign_process_on_the_port_is_an_error(process: Process) -> None:
    listening = Listening({8001: ("127.0.0.1",)}, holders={8001: Holder((41,), "node")})
    finding = told(process, listening)[-1]
    assert (finding.code, finding.is_error) == ("ports.foreign", True)
    assert (
        finding.text
        == "port 8001 is held by process 41 (node): that one answers on the port, so a new process cannot become warm"
    )
    assert finding.fix == "kill 41, or name node in warmup.proxies if it listens for app:app-1"


def test_outgoing_connection_on_the_port_is_named() -> None:
    listening = Listening({}, holders={8001: Holder((41,), "curl", peer="10.0.0.5:443")})
    (finding,) = told(Process("app-1", "FATAL"), listening)
    assert finding.text.endswith(
        "Its port 8001 is taken by an outgoing connection to 10.0.0.5:443 of process 41 (curl)"
    )


def test_booting_process_has_no_finding() -> None:
    assert found(Process("app-1", "STARTING", 1), Listening()) == []


def test_unix_socket_beside_the_port_is_no_finding() -> None:
    beside = Listening({8001: ("::",)}, {"app-1": (8001,)}, {"app-1": ("/run/stats.sock",)})
    assert found(Process("app-1", "RUNNING", 1), beside) == []
    assert found(Process("app-1", "RUNNING", 1), replace(beside, addresses={}, ports={})) == ["ports.unix"]


def test_process_stopped_by_failed_rollout_goes_first() -> None:
    failed = {"stage": Stage.FAILED, "why": "supervisord refused to start it: NO_FILE"}
    (finding,) = told(Process("app-1", "STOPPED"), Listening(), **failed)  # type: ignore[arg-type]
    assert (finding.code, finding.fix) == ("process.down", "supervisorctl start app:app-1")
    assert finding.text == (
        "is STOPPED since a rollout failed on it (supervisord refused to start it: NO_FILE): the next "
        "rollout replaces it first"
    )
    (stopped,) = told(Process("app-1", "STOPPED"), Listening(), selected=False)
    assert stopped.text == "is STOPPED: it serves no traffic, and a rollout leaves it stopped"


def test_unknown_listeners_are_no_finding() -> None:
    assert found(Process("app-1", "RUNNING", 1), Listening(addresses=None)) == []


# --- workers without a port


def of_worker(worker: Wrapper, drain_signal: str = "", **changes: Any) -> list[tuple[str, str]]:
    given = Settings((replace(SOUND, **{"stopsignal": "TERM", **changes}),))
    return [(one.code, one.text) for one in workers.findings("app", {"app-1": worker}, given, drain_signal)]


HANDLES = Wrapper("celery", frozenset({"TERM"}))
CHILD = Wrapper("python3")
SCRIPT = Wrapper("sh", program="dash", inner=(CHILD,))


@pytest.mark.parametrize(
    ("worker", "changes"),
    [
        (HANDLES, {}),
        (HANDLES, {"stopasgroup": True}),
        (replace(HANDLES, inner=(CHILD, CHILD)), {}),
        (replace(HANDLES, ignored=frozenset({"INT"})), {"stopsignal": ""}),
        (SCRIPT, {"stopasgroup": True}),
        (replace(HANDLES, caught=frozenset({"TERM", "USR1"})), {"drain_signal": "USR1"}),
    ],
)
def test_worker_that_finishes_its_job_is_no_finding(worker: Wrapper, changes: dict[str, Any]) -> None:
    assert of_worker(worker, **changes) == []


def test_worker_that_listens_is_a_finding() -> None:
    assert not list(workers.listening("app", {"app-1": ()}, {"app-1": HANDLES}))
    assert not list(workers.listening("app", {"app-1": (8001,)}, {})), "it has ports by rolling.yaml"
    (one,) = workers.listening("app", {"app-1": (8001, 9100)}, {"app-1": HANDLES})
    assert (one.code, one.is_error) == ("ports.none", False)
    assert one.text.startswith("listens on port 8001, 9100, which is not closed (ports: none)")


@pytest.mark.parametrize(
    ("worker", "changes", "expected"),
    [
        (
            Wrapper("w", ignored=frozenset({"TERM"})),
            {"stopwaitsecs": 10.0},
            "ignores SIGTERM, its stopsignal: supervisord",
        ),
        (Wrapper("w"), {}, "has no handler for SIGTERM, its stopsignal: a stop ends it at once"),
        (HANDLES, {"stopsignal": "USR1"}, "has no handler for SIGUSR1, its stopsignal"),
        (SCRIPT, {}, "runs the worker as a child of a shell (sh, run by dash > python3), and stopasgroup is off"),
        (
            replace(HANDLES, inner=(CHILD, CHILD)),
            {"stopasgroup": True},
            "has 2 child processes (python3), and stopasgroup is on: SIGTERM reaches them, too",
        ),
        (
            replace(SCRIPT, inner=(HANDLES, CHILD)),
            {"stopasgroup": True},
            "has 1 child process (python3), and stopasgroup is on: SIGTERM reaches them, too",
        ),
        (  # Celery's handle the signal, and end at once all the same
            replace(HANDLES, inner=(HANDLES,)),
            {"stopasgroup": True},
            "has 1 child process (celery), and stopasgroup is on: SIGTERM reaches them, too",
        ),
    ],
)
def test_worker_that_loses_its_job_is_a_finding(worker: Wrapper, changes: dict[str, Any], expected: str) -> None:
    ((code, text),) = of_worker(worker, **changes)
    assert text.startswith(expected)
    assert code == ("supervisor.stopasgroup" if "stopasgroup" in text else "supervisor.stopsignal")


@pytest.mark.parametrize(
    ("worker", "signal", "expected"),
    [
        (
            HANDLES,
            "USR1",
            "celery has no handler for SIGUSR1 (drain.signal): the signal ends it at once, in the middle",
        ),
        (HANDLES, "WINCH", "celery has no handler for SIGWINCH (drain.signal): the signal does not make it exit"),
        (
            replace(HANDLES, ignored=frozenset({"USR1"})),
            "USR1",
            "celery has no handler for SIGUSR1 (drain.signal): the signal does not make it exit",
        ),
    ],
)
def test_worker_deaf_to_drain_signal_is_a_finding(worker: Wrapper, signal: str, expected: str) -> None:
    ((code, text),) = of_worker(worker, signal)
    assert (code, text.startswith(expected)) == ("drain.signal", True), text


def test_drain_signal_does_not_pass_a_shell() -> None:
    found = dict(of_worker(Wrapper("sh", program="dash", inner=(Wrapper("python3"),)), "USR1"))
    assert found["drain.signal"].endswith("the signal does not reach python3, its child")


# --- wrappers


def found_of(wrapper: Wrapper, signal: str, stopasgroup: bool = False) -> list[Finding]:
    rollout = Rollout(1, "app", POLICY, (Member("app-1", (tcp(8001),)),), 1, GatePolicy())
    observed = Observation(0.0, {"app-1": Process("app-1", "RUNNING", 1)})
    given = Settings((replace(SOUND, stopasgroup=stopasgroup, stopsignal=signal),))
    return list(processes.findings(rollout, observed, Listening({8001: ("::",)}, wrappers={"app-1": wrapper}), given))


PLAIN = Wrapper("sh", frozenset({"INT", "CHLD"}), program="dash")
"""What a shell catches for itself."""

SCRIPT = replace(PLAIN, name="start.sh")
LAUNCHER = Wrapper("launch", frozenset({"INT"}), frozenset({"PIPE"}), "python3.11")
MASTER = Wrapper("web", frozenset({"TERM", "INT", "QUIT", "USR1"}), program="python3.11")
NPM = Wrapper("npm start", frozenset({"TERM", "INT"}), program="node")


def trapping(signal: str) -> Wrapper:
    return replace(PLAIN, caught=PLAIN.caught | {signal})


@pytest.mark.parametrize("wrapper", [PLAIN, SCRIPT, LAUNCHER])
def test_wrapper_with_stopasgroup_is_no_finding(wrapper: Wrapper) -> None:
    assert found_of(wrapper, "TERM", stopasgroup=True) == []


@pytest.mark.parametrize("signal", ["TERM", "USR1", "QUIT"])
@pytest.mark.parametrize("wrapper", [PLAIN, SCRIPT, LAUNCHER])
def test_wrapper_dying_of_stopsignal_is_an_error(wrapper: Wrapper, signal: str) -> None:
    (finding,) = found_of(wrapper, signal)
    assert (finding.code, finding.is_error) == ("supervisor.stopasgroup", True)
    assert f"SIG{signal} ends only the parent: the application keeps running" in finding.text


def test_wrapper_is_named_with_its_interpreter() -> None:
    assert [str(one) for one in (PLAIN, SCRIPT, LAUNCHER, replace(SCRIPT, name="dash"))] == [
        "sh, run by dash", "start.sh, run by dash", "launch, run by python3.11", "dash"
    ]  # fmt: skip


@pytest.mark.parametrize("signal", ["TERM", "USR1", "QUIT"])
def test_shell_with_a_trap_is_no_finding(signal: str) -> None:
    assert found_of(trapping(signal), signal) == []


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_master_catching_stopsignal_is_no_finding(signal: str) -> None:
    assert found_of(MASTER, signal) == []


def test_shell_below_a_passing_wrapper_is_a_warning() -> None:
    (finding,) = found_of(replace(NPM, inner=(PLAIN,)), "TERM")
    assert (finding.code, finding.is_error) == ("supervisor.stopasgroup", False)
    assert "(npm start, run by node > sh, run by dash)" in finding.text
    assert found_of(replace(NPM, inner=(trapping("TERM"),)), "TERM") == []


def test_trap_for_another_signal_is_an_error() -> None:
    assert [one.is_error for one in found_of(trapping("TERM"), "USR1")] == [True]


@pytest.mark.parametrize(
    ("wrapper", "signal"),
    [
        (PLAIN, "INT"),  # which it catches in any case
        (SCRIPT, "INT"),
        (replace(PLAIN, ignored=frozenset({"QUIT"})), "QUIT"),  # as bash does
        (PLAIN, "WINCH"),  # which ends no process
        (PLAIN, ""),  # an older supervisord
    ],
)
def test_unknown_effect_of_stopsignal_is_a_warning(wrapper: Wrapper, signal: str) -> None:
    (finding,) = found_of(wrapper, signal)
    assert (finding.code, finding.is_error) == ("supervisor.stopasgroup", False)
    assert f"Whether SIG{signal or 'TERM'} reaches the application cannot be seen" in finding.text


def test_trap_for_default_signal_suffices_if_unknown() -> None:
    assert found_of(trapping("TERM"), "") == []


# --- connection tracking


@pytest.mark.parametrize(
    ("tracked", "method", "expected"),
    [
        (Conntrack(0, 1000), "reject", []),
        (Conntrack(899, 1000), "redirect", []),
        (Conntrack(900, 1000), "reject", ["conntrack.full"]),
        (Conntrack(0, 1000), "redirect", ["conntrack.idle"]),
    ],
)
def test_full_or_needless_conntrack_is_a_finding(tracked: Conntrack, method: str, expected: list[str]) -> None:
    assert [one.code for one in conntrack.findings(tracked, GatePolicy(method=method))] == expected
