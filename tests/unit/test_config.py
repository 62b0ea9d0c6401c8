"""What rolling.yaml may say, and what an operator is told when it says something else."""

from __future__ import annotations

import contextlib
import re
import signal
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling import skel
from supervisor_rolling.core.endpoint import unix
from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    Config,
    DrainPolicy,
    GatePolicy,
    GuardPolicy,
    HistoryPolicy,
    Hook,
    HooksPolicy,
    MetricsPolicy,
    Policy,
    PortRule,
    Ready,
    RestartPolicy,
    Share,
    SocketRule,
    WarmupPolicy,
    WarmupRequest,
)
from supervisor_rolling.core.ports import endpoints_for, ports_for
from supervisor_rolling.listener.config import load, parse
from supervisor_rolling.listener.config.parser import keys_of

EXAMPLE = Path(skel.__file__).with_name("rolling.yaml")
MINIMAL = "groups:\n  app:\n    ports: auto\n"
PROBLEM = re.compile(r"rolling\.yaml:[1-9][0-9]*: \S.*")


def problems(text: str) -> list[str]:
    """All that is wrong with a file, whether it is everybody's or one group's."""
    try:
        config = parse(text, "rolling.yaml")
    except ConfigError as error:
        return str(error).split("\n")
    return [line for found in config.invalid.values() for line in found.split("\n")]


def app(keys: str) -> str:
    """A file with these keys of group app, from line 4 on."""
    return MINIMAL + textwrap.indent(textwrap.dedent(keys).strip("\n"), "    ")


def policy(keys: str) -> Policy:
    return parse(app(keys), "rolling.yaml").groups["app"]


def ports(value: str) -> str:
    return f"groups: {{app: {{ports: {value}}}}}"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    def too_late(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- what is right


def test_example_is_valid_and_shows_the_defaults() -> None:
    config = parse(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE))  # a checkout may be anybody's
    got = config.groups["app"]
    assert config.gate == GatePolicy()
    assert list(config.groups) == ["app"]
    assert got == Policy(group="app")
    requests = parse(app(f"warmup: {{requests: {shown_requests()}}}"), "f").groups["app"].warmup.requests
    assert requests == (WarmupRequest(), WarmupRequest(path="/search?q=warm"))


def shown_requests() -> list[Any]:
    """The list of requests that stands in the comment at ``requests: []``."""
    lines = re.findall(
        r"^      #(  .*)$", EXAMPLE.read_text(encoding="utf-8").partition("requests: []")[2], re.MULTILINE
    )
    found: list[Any] = yaml.safe_load("\n".join(lines))
    return found


def sections() -> dict[str, tuple[Any, Any]]:
    """The dataclass of each section by its path, with what the example has there."""
    tree = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    group = tree["groups"]["app"]
    of_group = {
        "drain": DrainPolicy,
        "restart": RestartPolicy,
        "warmup": WarmupPolicy,
        "guard": GuardPolicy,
        "balancer": BalancerPolicy,
        "hooks": HooksPolicy,
    }
    return {
        "": (Config, tree),
        "gate.": (GatePolicy, tree["gate"]),
        "history.": (HistoryPolicy, tree["history"]),
        "metrics.": (MetricsPolicy, tree["metrics"]),
        "….": (Policy, group),
        "….warmup.requests.": (WarmupRequest, shown_requests()[1]),
        **{f"….{name}.": (kind, group[name]) for name, kind in of_group.items()},
    }


def test_example_shows_every_key() -> None:
    for path, (kind, shown) in sections().items():
        assert set(shown) == set(keys_of(kind)), path
    assert f"{Policy.min_ready_seconds:g} where it cannot be read" in EXAMPLE.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["groups: {app: {}}", "groups:\n  app:\n"])
def test_group_needs_no_key(text: str) -> None:
    assert parse(text, "f") == parse(MINIMAL, "f")


def test_empty_groups_are_none_yet() -> None:
    assert parse("groups:\n", "f") == parse("groups: {}", "f") == Config(GatePolicy(), {})


def test_missing_keys_have_their_defaults() -> None:
    expected = Policy(group="app", ports=PortRule(auto=True))
    assert parse(MINIMAL, "f") == Config(GatePolicy(), {"app": expected})
    assert policy("drain: {}\nrestart: {}\nwarmup: {}\nguard: {}") == expected
    assert policy("warmup: {requests: [{}]}").warmup.requests == (WarmupRequest(),)


def test_ready_may_be_a_command() -> None:
    found = policy("warmup: {ready: {command: [/srv/app/ready, 1], timeout: 5}}").warmup.ready
    assert found == Ready(hook=Hook(("/srv/app/ready", "1"), 5.0))
    assert policy("warmup: {ready: ''}").warmup.ready == Ready()


def test_group_may_have_no_ports() -> None:
    group = "groups: {app: {ports: none, drain: {signal: USR1}, warmup: {ready: {command: [/bin/true]}}}}"
    found = parse(group, "f").groups["app"]
    assert (found.ports, found.is_guarded) == (PortRule(none=True), False)


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("drain: {request: /drain}", "drain"),
        ("warmup: {ready: /health}", "warmup"),
        ("warmup: {requests: [/]}", "warmup"),
    ],
)
def test_group_without_ports_cannot_be_sent_requests(key: str, where: str) -> None:
    (found,) = problems(f"groups: {{app: {{ports: none, {key}}}}}")
    assert found.startswith(
        f"rolling.yaml:1: groups.app.{where}: sends a request, and with ports: none no process has a port of its own. "
    )


@pytest.mark.parametrize(
    "key",
    [
        "drain: {keepalive: nginx}",
        "drain: {idle_after: 3}",
        "drain: {min_seconds: 3}",
        "warmup: {headers: {Host: a}}",
        "warmup: {proxies: [conmon]}",
        "guard: {max_closed: 1}",
        "balancer: {retries: true}",
    ],
)
def test_key_for_ports_is_refused_without_ports(key: str) -> None:
    (found,) = problems(f"groups: {{app: {{ports: none, {key}}}}}")
    name = key.replace(": {", ".", 1).partition(":")[0]
    assert found == f"rolling.yaml:1: groups.app.{name}: has no effect with ports: none. Fix: remove it"


@pytest.mark.parametrize("key", ["timeout: 600", "on_timeout: fail"])
def test_drain_time_of_workers_needs_a_signal(key: str) -> None:
    (found,) = problems(f"groups: {{app: {{ports: none, drain: {{{key}}}}}}}")
    assert "has no effect with ports: none without drain.signal: its stop is the drain. Fix: " in found
    assert found.endswith("set stopwaitsecs in supervisord.conf to the longest job")
    assert problems(f"groups: {{app: {{ports: none, drain: {{signal: USR1, {key}}}}}}}") == []


def test_shared_ports_take_a_warm_up_inside_the_process() -> None:
    text = "groups: {app: {ports: shared, warmup: {socket: '/run/{name}.sock', ready: /health, headers: {Host: a}}}}"
    found = parse(text, "f").groups["app"]
    assert (found.ports, found.is_guarded, found.warmup.socket) == (PortRule(shared=True), False, "/run/{name}.sock")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("ports: shared, drain: {keepalive: nginx}", "drain.keepalive: has no effect with ports: shared"),
        ("ports: shared, drain: {request: /drain}", "drain: sends a request, and with ports: shared no process has"),
        ("ports: shared, drain: {timeout: 5}", "drain.timeout: has no effect with ports: shared without drain.signal"),
        ("ports: none, warmup: {socket: /run/a}", "warmup.socket: is used with ports: shared only"),
        ("ports: 'app-(.*)', warmup: {socket: /run/a}", "warmup.socket: is used with ports: shared only"),
    ],
)
def test_key_that_shared_ports_cannot_use_is_refused(key: str, text: str) -> None:
    (found,) = problems(f"groups: {{app: {{{key}}}}}")
    assert text in found


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("auto", SocketRule(auto=True)),
        ("''", SocketRule()),
        ("/run/app/{name}.sock", SocketRule(template="/run/app/{name}.sock")),
        ("{app-1: /run/a, app-2: /run/b}", SocketRule(by_name={"app-1": "/run/a", "app-2": "/run/b"})),
    ],
)
def test_sockets_are_named_by_a_template_or_a_map(value: str, rule: SocketRule) -> None:
    found = policy(f"sockets: {value}")
    assert found.sockets == rule
    assert endpoints_for(found, "app-1") == (
        (unix("/run/a" if rule.by_name else "/run/app/app-1.sock"),) if rule.by_name or rule.template else ()
    )
    assert found.is_auto == (not (rule.by_name or rule.template))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            "sockets: run/a.sock",
            "sockets: 'run/a.sock' is not the full path of a unix socket. Fix: write the full path",
        ),
        ("sockets: {a: b}", "sockets.a: 'b' is not the full path of a unix socket"),
        ("sockets: {a: /run/a, b: /run/a}", "sockets.b: /run/a is that of a already. Fix: give each process its own"),
        ("sockets: [1]", "sockets: is a list"),
        ("sockets: auto, ports: 'app-(.*)'", "sockets: says where the processes listen, and so does ports"),
        ("sockets: auto, drain: {keepalive: nginx}", "drain.keepalive: nginx works on ports only. Fix: remove"),
    ],
)
def test_invalid_sockets_are_one_problem(keys: str, text: str) -> None:
    (found,) = problems(f"groups: {{app: {{{keys}}}}}")
    assert text in found


def test_guard_that_is_off_may_stay_without_ports() -> None:
    assert problems("groups: {app: {ports: none, guard: false}}") == []


def test_every_key_is_read() -> None:
    config = parse(
        r"""
        gate: {backend: iptables, method: redirect, lease: 17.5, bypass: address}
        groups:
          web:
            ports: {web-a: 8000, web-b: [8001, 8002], 00: 8003}
            max_unavailable: 2
            canary: 0
            max_failures: 3
            drain:
              timeout: 10
              min_seconds: .5
              on_timeout: fail
              signal: sigusr2
              request: {method: post, path: /x}
              keepalive: nginx
              idle_after: 7
            restart: {timeout: 90, on_kill: continue}
            warmup:
              timeout: 20
              ready: /health
              headers: {Host: example.org, X-Number: 7, X-Version: 1.10, X-Empty: ""}
              requests:
                - /a?b=c
                - {method: post, path: /login, headers: {A: b}, body: "x\ny", expect: [200, 302], count: 5}
                - {path: /, expect: 404}
            min_ready_seconds: 1
            guard: {max_closed: 3}
            balancer: {nginx: /etc/nginx/app.conf, retries: true}
        """,
        "f",
    )
    assert config == Config(
        GatePolicy("iptables", "redirect", 17.5, "address"),
        {
            "web": Policy(
                group="web",
                ports=PortRule(by_name={"web-a": (8000,), "web-b": (8001, 8002), "00": (8003,)}),
                max_unavailable=Share(number=2),
                canary=0,
                max_failures=3,
                drain=DrainPolicy(10.0, 0.5, "fail", "USR2", "POST /x", "nginx", 7.0),
                restart=RestartPolicy(90.0, "continue"),
                warmup=WarmupPolicy(
                    20.0,
                    Ready("/health"),
                    {"Host": "example.org", "X-Number": "7", "X-Version": "1.10", "X-Empty": ""},
                    (
                        WarmupRequest(path="/a?b=c"),
                        WarmupRequest("POST", "/login", {"A": "b"}, "x\ny", (200, 302), 5),
                        WarmupRequest(expect=(404,)),
                    ),
                ),
                min_ready_seconds=1.0,
                guard=GuardPolicy(max_closed=Share(number=3)),
                min_ready_auto=False,
                balancer=BalancerPolicy("/etc/nginx/app.conf", True),
            )
        },
    )


def test_durations_are_always_floats() -> None:
    assert [type(policy(f"min_ready_seconds: {text}").min_ready_seconds) for text in ("3", "3.0", "+3", "3.e+0")] == [
        float
    ] * 4


def test_guard_takes_a_number_or_a_percentage() -> None:
    assert policy("guard: {max_closed: 2}").guard == GuardPolicy(max_closed=Share(number=2))
    assert policy("guard: {max_closed: 12.5%}").guard == GuardPolicy(max_closed=Share(percent=12.5))


@pytest.mark.parametrize("word", ["false", "False", "FALSE", "no", "off", "Off", "!!bool 'no'"])
def test_guard_false_turns_it_off(word: str) -> None:
    assert policy(f"guard: {word}").guard == GuardPolicy(enabled=False)


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "yes", "on", "{}"])
def test_guard_true_or_empty_has_the_defaults(word: str) -> None:
    assert policy(f"guard: {word}").guard == GuardPolicy()
    assert GuardPolicy().enabled


def test_own_guard_wins_over_a_merged_one() -> None:
    groups = parse(
        "groups:\n  a: &a {ports: auto, guard: false}\n  b: {<<: *a, guard: on}\n  c: {<<: *a}\n", "f"
    ).groups
    assert [groups[name].guard.enabled for name in "abc"] == [False, True, False]


def test_group_takes_keys_by_alias_and_merge() -> None:
    text = """
    groups:
      a: &a {ports: 'a-(.*)', min_ready_seconds: 1, drain: &d {timeout: 5}}
      b: {<<: *a, min_ready_seconds: 2}
      c: {<<: [{canary: 3}, *a], ports: auto, drain: {<<: *d, min_seconds: 1}}
    """
    groups = parse(text, "f").groups
    assert groups["b"] == Policy(
        "b", PortRule(pattern="a-(.*)"), min_ready_seconds=2.0, min_ready_auto=False, drain=DrainPolicy(5.0)
    )
    assert (groups["c"].canary, groups["c"].min_ready_seconds, groups["c"].drain) == (3, 1.0, DrainPolicy(5.0, 1.0))


def test_min_ready_seconds_is_auto_by_default() -> None:
    found = [policy(text) for text in ("min_ready_seconds: auto", "guard: {}", "min_ready_seconds: 0")]
    assert [(one.min_ready_seconds, one.min_ready_auto) for one in found] == [(10.0, True), (10.0, True), (0.0, False)]


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rolling.yaml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert load(str(path)) == parse(MINIMAL, "f")


# --- every problem at once, with its line


def test_all_problems_come_in_the_file_order() -> None:
    text = """\
        gate: {method: rejct, lease: 3}
        groups:
          app:
            drian: {timeout: 3}
            ports: 'app-(\\d+)'
            min_ready_seconds: 30s
          web:
            canary: -1
        """
    assert problems(textwrap.dedent(text)) == [
        "rolling.yaml:1: gate.method: 'rejct' is unknown (did you mean reject?)",
        "rolling.yaml:1: gate.lease: '3' is out of range. Fix: write a number of seconds from 15 to 3600",
        "rolling.yaml:4: groups.app.drian: unknown key (did you mean drain?)",
        "rolling.yaml:6: groups.app.min_ready_seconds: '30s' is text. Fix: write a number of seconds: 30",
        "rolling.yaml:8: groups.web.canary: '-1' is not a whole number in range. "
        "Fix: write a whole number from 0 to 65535",
    ]


def test_problems_of_combinations_come_with_problems_of_values() -> None:
    found = problems(app("drain: {timeout: 1, min_seconds: 2, on_timeout: no}"))
    assert {text.split(": ")[1] for text in found} == {"groups.app.drain.on_timeout", "groups.app.drain.min_seconds"}
    assert len(problems(ports("{a: 1, b: 1, c: 0, d: []}"))) == 3


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        # keys
        ("drian: {}", "drian: unknown key (did you mean drain?)"),
        (
            "proxy: {nginx: /etc/nginx.conf}",
            "proxy: unknown key. Fix: use one of ports, sockets, max_unavailable, canary, max_failures, drain, "
            "restart, warmup, min_ready_seconds, guard, balancer",
        ),
        ("gaurd: false", "gaurd: unknown key (did you mean guard?)"),
        (
            "drain: {lasting: 3}",
            "drain.lasting: unknown key. Fix: use one of timeout, min_seconds, on_timeout, signal, request, keepalive, "
            "idle_after",
        ),
        ("balancer: {haproxy: /x}", "balancer.haproxy: unknown key. Fix: use one of nginx, retries"),
        ("balancer: {retries: maybe}", "balancer.retries: 'maybe'"),
        (
            "balancer: {nginx: x}",
            "balancer.nginx: 'x' is not a full path. Fix: write the full path of a file, beginning with /",
        ),
        (
            "min_ready_seconds: automatic",
            "min_ready_seconds: 'automatic' is text. Fix: write a number of seconds, such as 30",
        ),
        ("min_ready_seconds: -1", "min_ready_seconds: '-1' is out of range"),
        (
            "drain: {keepalive: nginx, idle_after: 30}",
            "drain.idle_after: with keepalive: nginx, idle_after (30) must be below the timeout (30). Fix: lower",
        ),
        (
            "drain: {keepalive: nginx, timeout: 5}",
            "drain.keepalive: with keepalive: nginx, idle_after (10) must be below the timeout (5)",
        ),
        ("drain: {keepalive: 8}", "drain.keepalive: "),
        ("restart: {time: 3}", "restart.time: unknown key (did you mean timeout?)"),
        ("guard: {max_close: 1}", "guard.max_close: unknown key (did you mean max_closed?)"),
        ("guard: {enabled: false}", "guard.enabled: unknown key"),
        ("warmup: {request: []}", "warmup.request: unknown key (did you mean requests?)"),
        ("warmup: {requests: [/, {paht: /}]}", "warmup.requests[1].paht: unknown key (did you mean path?)"),
        ("? [a]\n: 1", "*a key is a list or a mapping"),
        ("'a\\n  b': 1", "*unknown key"),
        # kinds
        ("drain:", "drain: has no value. Fix: write a mapping"),
        ("drain: 30", "drain: '30' is a number. Fix: write a mapping"),
        ("drain: [30]", "drain: is a list. Fix: write a mapping"),
        ("drain:\n  - 30", "drain: is a list. Fix: write a mapping"),
        ("drain: !thing {}", "drain: is tagged '!thing'. Fix: write a mapping"),
        ("warmup: {requests: {a: b}}", "warmup.requests: is a mapping. Fix: write a list"),
        ("warmup: {requests: /}", "warmup.requests: '/' is text. Fix: write a list"),
        ("warmup: {requests: [7]}", "warmup.requests[0]: '7' is a number. Fix: write a path, such as /"),
        # durations
        ("min_ready_seconds: 30s", "min_ready_seconds: '30s' is text. Fix: write a number of seconds: 30"),
        ("min_ready_seconds: '30'", "min_ready_seconds: '30' is text. Fix: write a number of seconds: 30"),
        ("min_ready_seconds: 1.5 min", "min_ready_seconds: '1.5 min' is text. Fix: write a number of seconds: 90"),
        ("min_ready_seconds: 250ms", "min_ready_seconds: '250ms' is text. Fix: write a number of seconds: 0.25"),
        (
            "min_ready_seconds: a while",
            "min_ready_seconds: 'a while' is text. Fix: write a number of seconds, such as 30",
        ),
        (
            "min_ready_seconds: yes",
            "min_ready_seconds: 'yes' is true or false. Fix: write a number of seconds, such as 30",
        ),
        ("min_ready_seconds:", "min_ready_seconds: has no value. Fix: write a number of seconds"),
        ("min_ready_seconds: 2024-01-01", "min_ready_seconds: '2024-01-01' is a date. Fix: write a number of seconds"),
        (
            "min_ready_seconds: -1",
            "min_ready_seconds: '-1' is out of range. Fix: write a number of seconds from 0 to 604800",
        ),
        ("min_ready_seconds: 604801", "min_ready_seconds: '604801' is out of range"),
        ("min_ready_seconds: 1.0e+400", "min_ready_seconds: '1.0e+400' is out of range"),
        ("min_ready_seconds: 9.0e+307", "min_ready_seconds: '9.0e+307' is out of range"),
        ("min_ready_seconds: .nan", "min_ready_seconds: '.nan' is not a decimal number"),
        ("min_ready_seconds: -.inf", "min_ready_seconds: '-.inf' is not a decimal number"),
        ("min_ready_seconds: 1:30", "min_ready_seconds: '1:30' is not a decimal number"),
        ("min_ready_seconds: 010", "min_ready_seconds: '010' is not a decimal number"),
        ("min_ready_seconds: 0x10", "min_ready_seconds: '0x10' is not a decimal number"),
        ("min_ready_seconds: " + "9" * 6000, "min_ready_seconds: '99999"),
        ("min_ready_seconds: !!int {a: b}", "min_ready_seconds: is a number"),
        (
            "restart: {timeout: 0}",
            "restart.timeout: '0' is out of range. Fix: write a number of seconds from 0.1 to 604800",
        ),
        ("warmup: {timeout: 0}", "warmup.timeout: '0' is out of range"),
        ("drain: {timeout: 5, min_seconds: 6}", "drain.min_seconds: 6 is more than the timeout of 5. Fix: lower it"),
        ("drain: {min_seconds: 31}", "drain.min_seconds: 31 is more than the timeout of 30. Fix: lower it"),
        ("drain: {on_timeout: contniue}", "drain.on_timeout: 'contniue' is unknown (did you mean continue?)"),
        ("restart: {on_kill: contniue}", "restart.on_kill: 'contniue' is unknown (did you mean continue?)"),
        ("drain: {keepalive: ngnix}", "drain.keepalive: 'ngnix' is unknown (did you mean nginx?)"),
        (
            "drain: {idle_after: 0}",
            "drain.idle_after: '0' is out of range. Fix: write a number of seconds from 0.1 to 604800",
        ),
        ("drain: {on_timeout: no}", "drain.on_timeout: 'no' is true or false. Fix: write continue or fail"),
        (
            "drain: {signal: KILL}",
            "drain.signal: 'KILL' would end or stop the process. Fix: write USR1",
        ),
        (
            "drain: {signal: SIGTERM}",
            "drain.signal: 'SIGTERM' would end or stop the process",
        ),
        ("drain: {signal: STOP}", "drain.signal: 'STOP' would end or stop the process"),
        (
            "drain: {signal: USR3}",
            "drain.signal: 'USR3' is unknown. Fix: write USR1, USR2, HUP, WINCH, URG, TTIN or TTOU",
        ),
        ("drain: {request: drain}", "drain.request: 'drain' is not a path. Fix: write one that begins with /"),
        ("drain: {request: 1}", "drain.request: '1' is a number. Fix: write a path, such as /drain, or a mapping"),
        ("drain: {request: {body: x}}", "drain.request.body: unknown key. Fix: use one of method, path"),
        ("drain: {signal: 10}", "drain.signal: '10' is a number. Fix: write USR1, USR2"),
        # numbers
        ("canary: 1.0", "canary: '1.0' is not a whole number in range"),
        ("canary: -1", "canary: '-1' is not a whole number in range"),
        ("canary: '1'", "canary: '1' is text. Fix: write a whole number"),
        ("canary: yes", "canary: 'yes' is true or false. Fix: write a whole number"),
        ("canary: " + "9" * 30, "canary: '9999"),
        ("max_failures: -1", "max_failures: '-1' is not a whole number in range"),
        ("max_unavailable: 0", "max_unavailable: a number of processes is from 1 to 65535"),
        ("max_unavailable: -1", "max_unavailable: '-1' is neither a number of processes nor a percentage"),
        ("max_unavailable: 1.5", "max_unavailable: '1.5' is neither"),
        ("max_unavailable: 0%", "max_unavailable: a percentage is more than 0% and at most 100%"),
        ("max_unavailable: 101%", "max_unavailable: a percentage is more than 0% and at most 100%"),
        ("max_unavailable: yes", "max_unavailable: 'yes' is true or false. Fix: write a number of processes"),
        ("max_unavailable: [1]", "max_unavailable: is a list. Fix: write a number of processes"),
        # the guard
        ("guard:", "guard: has no value. Fix: write a mapping with the key max_closed, or false to turn it off"),
        ("guard: 50%", "guard: '50%' is text. Fix: write a mapping with the key max_closed, or false to turn it off"),
        ("guard: 'off'", "guard: 'off' is text. Fix: write a mapping with the key max_closed"),
        ("guard: 0", "guard: '0' is a number. Fix: write a mapping with the key max_closed"),
        ("guard: 0.5", "guard: '0.5' is a number. Fix: write a mapping with the key max_closed"),
        ("guard: [50%]", "guard: is a list. Fix: write a mapping with the key max_closed"),
        ("guard:\n  - false", "guard: is a list. Fix: write a mapping with the key max_closed"),
        (
            "guard: !!bool maybe",
            "guard: 'maybe' is neither true nor false. Fix: write a mapping with the key max_closed",
        ),
        ("guard: !!map a", "guard: 'a' is a mapping. Fix: write a mapping with the key max_closed"),
        ("guard: !!bool {}", "guard: is true or false. Fix: write a mapping with the key max_closed"),
        ("guard: {max_closed: 0}", "guard.max_closed: a number of processes is from 1 to 65535"),
        ("guard: {max_closed: 101%}", "guard.max_closed: a percentage is more than 0% and at most 100%"),
        ("guard: {max_closed: half}", "guard.max_closed: 'half' is neither a number of processes nor a percentage"),
        ("guard: {max_closed: no}", "guard.max_closed: 'no' is true or false. Fix: write a number of processes"),
        ("guard: {max_closed: }", "guard.max_closed: has no value. Fix: write a number of processes"),
        # the warm-up
        ("warmup: {ready: [/health]}", "warmup.ready: "),
        ("warmup: {ready: {command: true}}", "warmup.ready.command: "),
        ("warmup: {ready: {timeout: 5}}", "warmup.ready.command: is missing"),
        ("warmup: {ready: health}", "warmup.ready: 'health' is not a path. Fix: write one that begins with /"),
        ("warmup: {ready: /a b}", "warmup.ready: '/a b' is not a path"),
        ('warmup: {ready: "/a\\r\\nb"}', r"warmup.ready: '/a\r\nb' is not a path"),
        ("warmup: {requests: ['']}", "warmup.requests[0]: '' is not a path"),
        ("warmup: {requests: [{path: ''}]}", "warmup.requests[0].path: '' is not a path"),
        ("warmup: {requests: [{method: GET 1}]}", "warmup.requests[0].method: 'GET 1' is not an HTTP method"),
        ("warmup: {requests: [{method: ''}]}", "warmup.requests[0].method: '' is not an HTTP method"),
        ("warmup: {requests: [{body: 5}]}", "warmup.requests[0].body: '5' is a number. Fix: put it in quotes"),
        ('warmup: {requests: [{body: "\\ud800"}]}', "warmup.requests[0].body: '\\ud800' has half a character"),
        ("warmup: {requests: [{expect: 99}]}", "warmup.requests[0].expect: '99' is not a whole number in range"),
        ("warmup: {requests: [{expect: [200, 600]}]}", "warmup.requests[0].expect[1]: '600' is not a whole number"),
        ("warmup: {requests: [{expect: 2xx}]}", "warmup.requests[0].expect: '2xx' is text. Fix: write a whole number"),
        ("warmup: {requests: [{count: 0}]}", "warmup.requests[0].count: '0' is not a whole number in range"),
        ("warmup: {requests: [{count: 10001}]}", "warmup.requests[0].count: '10001' is not a whole number in range"),
        ('warmup: {headers: {A: "a\\r\\nB: c"}}', r"warmup.headers.A: 'a\r\nB: c' is not the value of a header"),
        ('warmup: {headers: {A: "a\\n"}}', r"warmup.headers.A: 'a\n' is not the value of a header"),
        ("warmup: {headers: {A: €}}", "warmup.headers.A: '€' is not the value of a header"),
        ("warmup: {headers: {A: yes}}", "warmup.headers.A: 'yes' is true or false. Fix: put it in quotes"),
        ("warmup: {headers: {A: }}", "warmup.headers.A: has no value. Fix: put it in quotes"),
        ("warmup: {headers: {'A b': c}}", "warmup.headers.'A b': is not the name of a header"),
        ("warmup: {headers: {'': c}}", "warmup.headers.'': is not the name of a header"),
        ("warmup: {requests: [{headers: [a]}]}", "warmup.requests[0].headers: is a list. Fix: write a mapping"),
    ],
)
def test_invalid_key_is_one_problem_with_its_path(keys: str, problem: str) -> None:
    (found,) = problems(app(keys))
    if problem.startswith("*"):
        assert found.startswith("rolling.yaml:4: groups.app")
        assert problem[1:] in found
    else:
        assert found.startswith(f"rolling.yaml:4: groups.app.{problem}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            "'app-\\d+'",
            r": 'app-\d+' has 0 groups. Fix: write a regex with one group around the port, such as 'app-(\d+)'",
        ),
        ("'(a)-(b)'", ": '(a)-(b)' has 2 groups. "),
        ("'app-('", ": 'app-(' is not a regex: missing ), unterminated subpattern at position 4. "),
        ("'(a{99999999999})'", ": '(a{99999999999})' is not a regex: "),
        ("'(?L)(a)'", ": '(?L)(a)' is not a regex: "),
        ("'(a{" + "9" * 5000 + "})'", ": '(a{99999"),
        ("''", ": '' has 0 groups. "),
        ("Auto", ": 'Auto' has 0 groups. "),
        ("8000", ": '8000' is a number. Fix: write a regex"),
        ("[8000]", ": is a list. Fix: write a regex"),
        ("", ": has no value. Fix: write a regex"),
        ("{}", ": is empty. Fix: write a regex"),
        ("{a: 0}", ".a: '0' is not a whole number in range. Fix: write a whole number from 1 to 65535"),
        ("{a: 65536}", ".a: '65536' is not a whole number in range"),
        ("{a: '8000'}", ".a: '8000' is text. Fix: write a whole number"),
        ("{a: []}", ".a: is empty. Fix: write the port"),
        ("{a: [1, yes]}", ".a[1]: 'yes' is true or false"),
        ("{a: 1, b: [2, 1]}", ".b: port 1 is that of a already. Fix: give each port to one process"),
        ("{a: [1, 1]}", ".a: port 1 is that of a already"),
        ("{'a:b': 1}", ".a:b: is not a name in supervisord"),
        ("{a: 1, 'a': 2}", ".a: the key stands in line 1 already"),
    ],
)
def test_invalid_ports_are_one_problem(value: str, problem: str) -> None:
    (found,) = problems(ports(value))
    assert found.startswith(f"rolling.yaml:1: groups.app.ports{problem}")


@pytest.mark.parametrize("name", ["''", "'a:b'", "'*'", "'a b'", "'a\tb'", '"a\\u2003"', '"\\0"', '"\\udfff"', "a/b"])
def test_name_impossible_in_supervisord_is_a_problem(name: str) -> None:
    (found,) = problems(f"groups:\n  {name}: {{ports: auto}}\n")
    assert found.startswith("rolling.yaml:2: groups.")
    assert found.endswith(": is not a name in supervisord. Fix: write one without : * / and white space")


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ("backend: nftable", "backend: 'nftable' is unknown (did you mean nftables?)"),
        ("{backend: nftables, method: redirect}", "method: redirect needs iptables. Fix: write reject, or backend"),
        ("method: drop", "method: 'drop' is unknown. Fix: use one of reject, redirect"),
        ("bypass: 127.0.0.2", "bypass: '127.0.0.2' is unknown. Fix: use one of mark, address"),
        ("lease: 14.9", "lease: '14.9' is out of range. Fix: write a number of seconds from 15 to 3600"),
        ("lease: 3601", "lease: '3601' is out of range"),
        ("leese: 30", "leese: unknown key (did you mean lease?)"),
        ("backend: haprxy", "backend: 'haprxy' is unknown (did you mean haproxy?)"),
        ("soket: /a", "soket: unknown key (did you mean socket?)"),
        ("socket: /a", "socket: is used with `backend: haproxy` only. Fix: remove it, or set"),
        ("backend_name: app", "backend_name: is used with `backend: haproxy` only. Fix: remove it, or set"),
        (
            "{backend: haproxy, backend_name: app, socket: a.sock}",
            "socket: 'a.sock' is not a full path. Fix: write",
        ),
        *(
            (
                f"{{backend: haproxy, backend_name: a, socket: /a, {key}: {value}}}",
                f"{key}: has no effect with backend: h",
            )
            for key, value in (("method", "redirect"), ("lease", 60), ("bypass", "address"))
        ),
        (
            "{backend: haproxy, backend_name: app, socket: ''}",
            "backend: haproxy needs gate.socket. Fix: write gate.socket: the path of HAProxy's",
        ),
        (
            "{backend: haproxy, backend_name: a;b, socket: /a}",
            "backend_name: 'a;b' is not a name in HAProxy. Fix: write",
        ),
        ("{backend: haproxy, backend_name: app, socket: [/a]}", "socket: is a list. Fix: write the full path"),
    ],
)
def test_invalid_gate_is_one_problem(gate: str, problem: str) -> None:
    (found,) = problems(f"{MINIMAL}gate:\n  {gate}\n")
    assert found.startswith(f"rolling.yaml:5: gate.{problem}")


def test_keepalive_nginx_with_haproxy_is_a_problem() -> None:
    gate = "gate: {backend: haproxy, socket: /a, backend_name: app}\n"
    text = f"{gate}groups:\n  app:\n    ports: auto\n    drain:\n      keepalive: nginx\n"
    (found,) = problems(text)
    assert found.startswith(
        "rolling.yaml:6: groups.app.drain.keepalive: nginx is not possible with gate.backend: haproxy"
    )


def test_haproxy_needs_socket_and_backend_name() -> None:
    gate = "gate:\n  backend: haproxy\n"
    assert sorted(line.partition(". ")[0] for line in problems(MINIMAL + gate)) == [
        "rolling.yaml:5: gate.backend: haproxy needs gate.backend_name",
        "rolling.yaml:5: gate.backend: haproxy needs gate.socket",
    ]
    given = "  socket: /run/haproxy/admin.sock\n  backend_name: app\n  method: reject\n"
    found = parse(MINIMAL + gate + given, "f").gate
    assert (found.socket, found.backend_name) == ("/run/haproxy/admin.sock", "app")
    assert found.bypass == "none", "nothing has to be passed"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: the file: is empty. Fix: start"),
        ("# nothing\n\n", "1: the file: is empty. Fix: start"),
        ("---\n", "1: the file: is empty. Fix: start"),
        ("\n- groups", "2: the file: is a list. Fix: write a mapping"),
        ("groups", "1: the file: 'groups' is text. Fix: write a mapping"),
        ("{}", "1: groups: is missing. Fix: name a group"),
        ("gate: {}\n", "1: groups: is missing. Fix: name a group"),
        ("groups: [app]", "1: groups: is a list. Fix: write a mapping"),
        ("groups:\n  app: auto\n", "2: groups.app: 'auto' is text. Fix: write a mapping"),
        (MINIMAL + "guard: {}\n", "4: guard: unknown key. Fix: use one of gate, groups, history, metrics"),
        (MINIMAL + "groups: {}\n", "4: groups: the key stands in line 1 already. Fix: keep one of the two"),
        (MINIMAL + "  app: {}\n", "4: groups.app: the key stands in line 2 already"),
        (MINIMAL + "    ports: auto\n", "4: groups.app.ports: the key stands in line 3 already"),
        (MINIMAL + "  web: {<<: 3, ports: auto}\n", "4: groups.web: << takes a mapping or a list of mappings"),
    ],
)
def test_invalid_top_level_is_one_problem(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"rolling.yaml:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c", "1: column 5: not valid YAML: mapping values are not allowed here"),
        ("a: [1, 2\nb: 3\n", "2: column 2: not valid YAML: expected ',' or ']', but got ':'"),
        ("groups:\n\t- b", "2: column 1: not valid YAML: found character '\\t' that cannot start any token"),
        ('groups:\n  a: "app-(\\d+)"', "2: column 13: not valid YAML: found unknown escape character 'd'"),
        ("max_unavailable: %10", "1: column 18: not valid YAML: found character '%' that cannot start any token"),
        ("[*foo]", "1: column 2: not valid YAML: found undefined alias 'foo'"),
        ("---\na: 1\n---\nb: 1", "3: column 1: not valid YAML: "),
        ("a: 1\nb: \x07", "2: the character '\\x07' is not allowed in YAML. Fix: remove it"),
        ('a: 1\nb: "\\UFFFFFFFF"', "2: not valid YAML: a number in it is too large"),
        ("a:\n" + "[" * 1000, "2: nested too deeply"),
        ("a: 1\n" * 30_000, "1: the file: is larger than 128 KiB"),
    ],
)
def test_yaml_syntax_error_has_line_and_column(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"rolling.yaml:{problem}")


def test_common_syntax_errors_have_a_fix() -> None:
    assert problems('a: "\\d"')[0].endswith(r". Fix: put a regex in single quotes: 'app-(\d+)'")
    assert problems("a:\n\t- b")[0].endswith(". Fix: indent with spaces, not tabs")
    assert problems("a: %10")[0].endswith(". Fix: put the value in quotes")


def test_problem_behind_an_alias_points_to_the_value() -> None:
    text = "groups:\n  a: {ports: auto,\n    min_ready_seconds: &s never}\n  b: {ports: auto, min_ready_seconds: *s}\n"
    assert [found.split(" '")[0] for found in problems(text)] == [
        "rolling.yaml:3: groups.a.min_ready_seconds:",
        "rolling.yaml:3: groups.b.min_ready_seconds:",
    ]


# --- which group has the problem

OTHER = "  web:\n    ports: auto\n"


@pytest.mark.parametrize(
    "mistake",
    [
        "  app:\n    ports: auto\n    drian: {}\n",
        "  app: 7\n",
        "  app:\n    ports: auto\n  app: {}\n",
        "  app:\n    ports: auto\n    drain: {timeout: 1s, min_seconds: 2s}\n",
        "  app:\n    warmup: {requests: [/, {count: x}]}\n",
        "  app: {<<: 3, ports: auto}\n",
    ],
    ids=["unknown key", "no mapping", "twice", "two keys together", "in a list", "merge"],
)
def test_problem_in_one_group_leaves_others_valid(mistake: str) -> None:
    config = parse(f"groups:\n{mistake}{OTHER}", "rolling.yaml")
    assert list(config.groups) == ["web"]
    assert list(config.invalid) == ["app"]
    assert ": groups.app" in config.invalid["app"]


def test_group_names_with_dots_keep_problems_apart() -> None:
    config = parse("groups:\n  app: {ports: auto, x: 1}\n  app.x: {ports: auto}\n", "f")
    assert (list(config.groups), list(config.invalid)) == (["app.x"], ["app"])


def test_key_contradicting_the_gate_invalidates_its_group() -> None:
    gate = "gate: {backend: haproxy, socket: /s, backend_name: b}\n"
    config = parse(f"{gate}groups:\n  app:\n    ports: auto\n    drain: {{keepalive: nginx}}\n{OTHER}", "f")
    assert (list(config.groups), list(config.invalid)) == (["web"], ["app"])


@pytest.mark.parametrize(
    "listen", ["9180", "localhost:9180", "::1:9180", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:²"]
)
def test_invalid_listen_address_is_one_problem(listen: str) -> None:
    (found,) = problems(f"{MINIMAL}metrics: {{listen: '{listen}'}}\n")
    assert found.endswith(
        f"metrics.listen: '{listen}' is not an address and port. Fix: write one such as 127.0.0.1:9180"
    )


@pytest.mark.parametrize("top", ["gate: {lease: 3}\n", "metrics: {listen: x}\n", "gaet: {}\n"])
def test_problem_in_a_top_level_key_raises_all(top: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"groups:\n  app: {{x: 1}}\n{OTHER}{top}", "f")
    assert len(str(caught.value).splitlines()) == 2


# --- files


def test_unreadable_file_raises_with_fix(tmp_path: Path) -> None:
    not_for_reading = "/proc/sys/net/ipv4/route/flush"  # not even for root
    for path, said in {
        str(tmp_path / "none.yaml"): "does not exist. Fix: create it, or name another file with --config",
        str(tmp_path): "is a directory. Fix: name another file with --config",
        not_for_reading: "permission denied. Fix: let the listener's user read it",
        "/proc/self/mem": "cannot be read: Input/output error. Fix: name another file with --config",
        "/dev/zero": "is not a regular file. Fix: name another file with --config",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) in (f"{path}: {said}", f"{path}:{said}")


def test_file_name_with_nul_raises() -> None:
    with pytest.raises(ConfigError, match="the name has a NUL"):
        load("/nowhere/\0")


def test_byte_that_is_not_utf8_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rolling.yaml"
    path.write_bytes(MINIMAL.encode() + "# für".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert str(caught.value) == f"{path}:4: the byte 0xfc is not UTF-8. Fix: save it as UTF-8"


# --- what must not hang


def layers(merge: str) -> str:
    """Ten mappings, each of which holds ten times the one before."""
    lines = ["groups:", "  g0: &a0 {ports: auto}"]
    for layer in range(1, 11):
        lines.append(f"  g{layer}: &a{layer} {{{merge}: [{', '.join([f'*a{layer - 1}'] * 10)}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "groups: &g {app: *g}",
        "groups: &g\n  app: {ports: *g, warmup: {requests: &r [*r, {headers: *g, expect: *r}]}}",
        "groups: &g {<<: *g}",
        "groups: {a: &a {<<: [{<<: *a}]}}",
        layers("ports"),
        "groups: {a: {ports: auto, warmup: &w {requests: [" + "/," * 9000 + "]}},\n"
        + ",\n".join(f"g{index}: {{ports: auto, warmup: *w}}" for index in range(1500))
        + "}",
        "groups:\n  g0: &a0 {ports: auto}\n"
        + "\n".join(f"  g{index}: &a{index} {{<<: *a{index - 1}}}" for index in range(1, 2000)),
        "x:\n- &a0 {}\n"
        + "\n".join(f"- &a{index} {{<<: *a{index - 1}}}" for index in range(1, 2000))
        + "\ngroups: {app: *a1999}",
        "groups: {" + ", ".join(f"'{index}{'x' * 500}': 1" for index in range(200)) + "}",
        "groups: {a: {ports: " + "(" * 60_000 + "}}",
    ],
    ids=["itself", "deeper", "merge", "merge of merge", "bomb", "square", "chain", "deep chain", "long names", "regex"],
)  # fmt: skip
def test_self_reference_and_alias_bombs_end_soon(text: str) -> None:
    with within(8):
        found = problems(text)
    assert all(PROBLEM.fullmatch(line) for line in found)


def test_merge_bomb_is_cut_off() -> None:
    with within(8):
        assert any("more than 20000 values once aliases are expanded" in line for line in problems(layers("<<")))


# --- whatever stands in the file

WORDS = [
    "gate", "groups", "app", "ports", "auto", "'app-(\\d+)'", "max_unavailable", "10%", "canary", "drain", "timeout",
    "min_seconds", "on_timeout", "warmup", "ready", "/", "headers", "requests", "expect", "count", "body", "method",
    "min_ready_seconds",
    "lease", "0", "-1", "1.5", "yes", "~", ".nan", "1:30", "&a ", "*a", "<<", "!!int ", "!x ", "%YAML 1.1", "---",
    ": ", ":", "- ", "? ", "{", "}", "[", "]", ", ", "\n", "\n  ", "\n    ", "\n      ", '"', "'", "|\n", ">\n", "#",
    "...", "\t", "\r\n", "\\", "\\x", "\\U", "\x00", "\ud800", "\x85", "\u2028", "\ufeff", "ä", "😀",
    "guard", "max_closed",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4),
    st.sampled_from(["auto", "10%", "/health", r"app-(\d+)", "30s", "mark", "fail", "GET", 0, 1, 30, 8000, 200]),
)  # fmt: skip
KEYS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        [field.name for kind in (Config, GatePolicy, Policy, DrainPolicy, GuardPolicy) for field in fields(kind)]
    ),
    st.sampled_from([field.name for kind in (WarmupPolicy, WarmupRequest) for field in fields(kind)]),
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


def check_that_it_is_a_config_or_a_list_of_problems(text: str) -> None:
    try:
        config = parse(text, "rolling.yaml")
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert PROBLEM.fullmatch(line), line
            line.encode()
    else:
        assert isinstance(config, Config)
        for line in "\n".join(config.invalid.values()).splitlines():
            assert PROBLEM.fullmatch(line), line


@settings(max_examples=300, deadline=2000)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_gives_config_or_problems(text: str) -> None:
    check_that_it_is_a_config_or_a_list_of_problems(text)


@settings(max_examples=200, deadline=2000)
@given(TREES)
def test_any_structure_gives_config_or_problems(tree: object) -> None:
    check_that_it_is_a_config_or_a_list_of_problems(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=200, deadline=2000)
@given(st.data())
def test_example_with_one_change_gives_config_or_problems(data: st.DataObject) -> None:
    tree = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    place: Any = tree
    key = data.draw(st.sampled_from(sorted(tree)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 5)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(TREES)
    check_that_it_is_a_config_or_a_list_of_problems(yaml.safe_dump(tree))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of re, on "[[" and the like
@settings(max_examples=200, deadline=2000)
@given(st.text(max_size=12) | st.from_regex(r"[(\[{?*+|)\\a-z:<>!=0-9]{0,12}", fullmatch=True))
def test_any_ports_give_a_regex_or_a_problem(pattern: str) -> None:
    text = yaml.safe_dump({"groups": {"app": {"ports": pattern}}})
    check_that_it_is_a_config_or_a_list_of_problems(text)
    with contextlib.suppress(ConfigError):
        for found in parse(text, "f").groups.values():
            assert isinstance(ports_for(found.ports, "app-8000"), tuple)


def test_place_of_each_group_is_known() -> None:
    text = "gate: {}\ngroups:\n  app: {ports: auto}\n  web:\n    ports: auto\n"
    assert parse(text, "rolling.yaml").places == {"app": "rolling.yaml:3", "web": "rolling.yaml:4"}
