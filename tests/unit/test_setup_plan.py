"""The plan of ``supervisor_rolling setup``: from what was seen of a host to files, advice and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from supervisor_rolling import skel
from supervisor_rolling.codec import dump, load
from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.core.setup_facts import (
    CTLPLUGIN,
    LISTENER,
    RPCINTERFACE,
    Host,
    InspectedGroup,
    Inspection,
    Section,
)
from supervisor_rolling.core.setup_plan import (
    Place,
    is_ours,
    make_plan,
    place_of_sections,
    signed,
    split_ours,
    unfit,
    verified,
)
from supervisor_rolling.listener import config

MAIN = "/etc/supervisor/supervisord.conf"
DROP_IN, POLICY = "/etc/supervisor/conf.d/rolling.conf", "/etc/supervisor/rolling.yaml"
APP = InspectedGroup("app", {"app-0": (8000,), "app-1": (8001,)}, ready="/health", root_status=200)
WORKER = InspectedGroup("worker", {"worker": ()})
SEEN = Inspection("1.0", gate="nftables", groups=(APP, WORKER))
HOST = Host(
    pid=7,
    user="root",
    is_root=True,
    python="/usr/bin/python3",
    plugin_problem="",
    plugin_version="1.0",
    version="1.0",
    listener="/usr/local/bin/supervisor_rolling_listener",
    listener_problem="",
    main_file=MAIN,
    includes=("/etc/supervisor/conf.d/*.conf",),
    defaults=skel.sections(RPCINTERFACE, LISTENER),
    running={"app": ("app-0", "app-1"), "worker": ("worker",)},
)
WRITTEN = {change.path: change.text for change in make_plan(HOST, SEEN, []).files}
SECTIONS = {
    RPCINTERFACE: Section(DROP_IN),
    LISTENER: Section(DROP_IN, POLICY),
}
AFTER = replace(HOST, files=WRITTEN, sections=SECTIONS)
SEEN_AFTER = replace(SEEN, policy_groups=("app",))


def problem(host: Host = HOST, seen: Inspection | None = SEEN, *groups: str) -> str:
    """The problems of a plan that writes nothing."""
    plan = make_plan(host, seen, groups)
    assert plan.problems
    assert plan.files == ()
    return "\n".join(plan.problems)


# --- what is written


def test_sections_and_policy_are_written() -> None:
    assert list(WRITTEN) == [DROP_IN, POLICY]
    assert f"command = {HOST.listener} --config {POLICY}\n" in WRITTEN[DROP_IN]
    assert CTLPLUGIN not in WRITTEN[DROP_IN]
    policy = config.parse(WRITTEN[POLICY].encode(), POLICY).groups["app"]
    assert (policy.ports.auto, policy.warmup.ready.path, [one.path for one in policy.warmup.requests]) == (
        True,
        "/health",
        ["/"],
    )


def test_group_without_http_has_no_warmup() -> None:
    seen = replace(SEEN, groups=(replace(APP, ready="", root_status=0),))
    assert "warmup" not in make_plan(HOST, seen, []).files[1].text


@pytest.mark.parametrize("name", ["app", "no", "8000", "it's", "web-2", "ü"])
def test_any_name_of_a_group_is_read_back(name: str) -> None:
    text = make_plan(HOST, replace(SEEN, groups=(replace(APP, name=name),)), []).files[1].text
    assert list(config.parse(text.encode(), POLICY).groups) == [name]


def test_second_run_changes_nothing() -> None:
    plan = make_plan(AFTER, SEEN_AFTER, [])
    assert (plan.files, plan.problems, plan.groups) == ((), (), ("app",))


def test_new_group_is_added_below() -> None:
    other = replace(APP, name="api", ports={"api-0": (9000,), "api-1": (9001,)})
    plan = make_plan(AFTER, replace(SEEN_AFTER, groups=(APP, other)), ["api"])
    (change,) = plan.files
    assert (change.path, change.before, bool(split_ours(change.text))) == (POLICY, WRITTEN[POLICY], True)
    assert list(config.parse(change.text.encode(), POLICY).groups) == ["app", "api"]


def test_moved_listener_is_written_anew() -> None:
    (change,) = make_plan(replace(AFTER, listener="/venv/bin/listener"), SEEN_AFTER, []).files
    assert (change.path, "command = /venv/bin/listener --config" in change.text) == (DROP_IN, True)


def test_supervisord_of_a_user_gets_no_user() -> None:
    text = make_plan(replace(HOST, is_root=False, user="web"), SEEN, []).files[0].text
    assert "user =" not in text


def test_percent_in_a_path_is_escaped() -> None:
    text = make_plan(replace(HOST, listener="/a%b/listener"), SEEN, []).files[0].text
    assert "command = /a%%b/listener" in text


def test_sections_of_the_operator_stay() -> None:
    elsewhere = {RPCINTERFACE: Section(MAIN), LISTENER: Section(MAIN, "/srv/rolling.yaml")}
    (change,) = make_plan(replace(HOST, sections=elsewhere, files={MAIN: "[supervisord]\n"}), SEEN, []).files
    assert change.path == "/srv/rolling.yaml"


def test_package_drop_in_stays() -> None:
    host = replace(HOST, sections=SECTIONS, files={DROP_IN: "; of the package\n"})
    assert [change.path for change in make_plan(host, SEEN, []).files] == [POLICY]


def test_sections_stay_where_they_are_when_include_changes() -> None:
    host = replace(AFTER, includes=("/srv/*.conf", *(HOST.includes or ())), listener="/venv/bin/listener")
    assert [change.path for change in make_plan(host, SEEN_AFTER, []).files] == [DROP_IN]
    assert place_of_sections(host) == Place(DROP_IN)


def test_path_with_a_blank_is_one_argument() -> None:
    host = replace(HOST, main_file="/etc/my conf/supervisord.conf")
    assert (
        f"command = {HOST.listener} --config '/etc/my conf/rolling.yaml'\n" in make_plan(host, SEEN, []).files[0].text
    )


@pytest.mark.parametrize("path", ["/a ;b/listener", "/a #b/listener", "/a\nb/listener"])
def test_path_that_supervisord_would_cut_is_refused(path: str) -> None:
    assert "supervisord.conf cannot have the command" in problem(replace(HOST, listener=path))


def test_other_file_of_nginx_is_named() -> None:
    group = replace(APP, nginx="/srv/it's/nginx.conf")
    text = make_plan(HOST, replace(SEEN, groups=(group,)), []).files[1].text
    assert config.parse(text.encode(), POLICY).groups["app"].balancer.nginx == group.nginx


def test_without_rights_haproxy_drains_the_group() -> None:
    found = Finding("balancer.keepalive", "haproxy.cfg:3", "keeps connections", "")
    group = replace(APP, haproxy=("/run/haproxy/admin.sock", "web"), findings=(found,))
    seen = replace(SEEN, gate="", gate_problem="no rights", groups=(group,))
    plan = make_plan(HOST, seen, [])
    gate = config.parse(plan.files[1].text.encode(), POLICY).gate
    assert (gate.backend, gate.socket, gate.backend_name, plan.advice) == ("haproxy", *group.haproxy, ())
    assert "gate: haproxy, because no port can be closed: no rights" in plan.seen
    assert "gate:" not in make_plan(HOST, replace(seen, gate="nftables"), []).files[1].text
    with_worker = make_plan(HOST, replace(seen, groups=(group, WORKER)), ["app", "worker"]).files[1].text
    assert config.parse(with_worker.encode(), POLICY).gate.backend == "haproxy", "the worker needs no gate"


# --- where


@pytest.mark.parametrize(
    ("includes", "path"),
    [
        (("/etc/supervisor/conf.d/*.conf",), "/etc/supervisor/conf.d/rolling.conf"),
        (("/a/x.conf", "/a/b/*.ini"), "/a/b/rolling.ini"),
        (("/a/*/x.conf", "/a/prog-*.conf"), "/a/prog-rolling.conf"),
        (("/etc/supervisor/rolling.conf",), "/etc/supervisor/rolling.conf"),
    ],
)
def test_drop_in_is_where_include_reads(includes: tuple[str, ...], path: str) -> None:
    place = place_of_sections(replace(HOST, includes=includes))
    assert (place.path, place.to_add) == (path, "")


def test_without_include_lines_to_add_are_named() -> None:
    plan = make_plan(replace(HOST, includes=None), SEEN, [])
    assert plan.files[0].path == "/etc/supervisor/rolling.conf"
    assert plan.advice[0].endswith("\n[include]\nfiles = /etc/supervisor/rolling.conf")


def test_include_without_pattern_gets_one_more_file() -> None:
    place = place_of_sections(replace(HOST, includes=("/a/x.conf",)))
    assert place.to_add == "files = /a/x.conf /etc/supervisor/rolling.conf"


# --- what refuses it


def test_plugin_that_cannot_be_imported_refuses() -> None:
    text = problem(replace(HOST, plugin_problem="ModuleNotFoundError: No module named 'supervisor_rolling'"), None)
    assert "supervisord would exit at its next reload. Fix: install supervisor_rolling for /usr/bin/python3." in text


def test_other_version_in_supervisord_refuses() -> None:
    assert "has supervisor_rolling 0.9, and this program is 1.0" in problem(replace(HOST, plugin_version="0.9"))


def test_listener_that_cannot_start_refuses() -> None:
    assert "the listener cannot start" in problem(replace(HOST, listener_problem="No module named 'yaml'"), None)


def test_unknown_group_refuses() -> None:
    assert problem(HOST, SEEN, "ap").startswith("supervisord has no group ap (the groups are: app, worker)")


def test_group_that_listens_on_nothing_is_taken_where_it_is_named() -> None:
    plan = make_plan(HOST, replace(SEEN, gate="", gate_problem="no rights"), ["worker"])
    assert (plan.problems, plan.groups) == ((), ("worker",))
    assert config.parse(plan.files[1].text.encode(), POLICY).groups["worker"].ports.none
    assert "worker: 1 process, listening on nothing, as queue workers do" in plan.seen
    assert not [line for line in plan.advice if "setup.gate" in line], "it needs no gate"


def test_no_fitting_group_refuses() -> None:
    text = problem(HOST, replace(SEEN, groups=(WORKER,)))
    assert "\n  worker: it listens on nothing, as queue workers do. Fix: " in text
    assert text.endswith("supervisor_rolling setup worker")


def test_foreign_drop_in_is_not_overwritten() -> None:
    assert f"{DROP_IN} was not written by setup" in problem(replace(HOST, files={DROP_IN: "[program:x]\n"}))


def test_invalid_policy_refuses() -> None:
    assert "rolling.yaml:1: bad" in problem(AFTER, replace(SEEN_AFTER, policy_problem="rolling.yaml:1: bad"))


def test_invalid_policy_without_its_groups_refuses() -> None:
    text = problem(replace(HOST, files={POLICY: "groups: [\n"}), replace(SEEN, policy_problem="rolling.yaml:2: bad"))
    assert text.startswith("rolling.yaml:2: bad")


def test_policy_that_only_lacks_groups_gets_them() -> None:
    host = replace(HOST, files={POLICY: "gate: {}\n"})
    plan = make_plan(host, replace(SEEN, policy_problem="rolling.yaml:1: groups: is missing"), [])
    assert [change.path for change in plan.files] == [DROP_IN, POLICY]


def test_half_of_the_sections_refuses() -> None:
    text = problem(replace(HOST, sections={RPCINTERFACE: Section(MAIN)}))
    assert f"{MAIN} has [{RPCINTERFACE}] but no [{LISTENER}]" in text


def test_shared_socket_needs_no_gate() -> None:
    web = InspectedGroup("web", {"web-0": (80,), "web-1": (80,)})
    plan = make_plan(HOST, replace(SEEN, gate="", groups=(web,)), [])
    assert "    ports: shared          # they accept on one socket, so nothing is closed\n" in plan.files[-1].text
    assert [line for line in plan.seen if line.startswith("web: ")] == ["web: 2 processes, which share their socket"]
    assert not any("gates" in line for line in plan.advice)


@pytest.mark.parametrize(
    ("group", "why"),
    [
        (APP, ""),
        (InspectedGroup("x"), "no process runs"),
        (InspectedGroup("x", problem="hidden"), "hidden"),
        (InspectedGroup("x", {"a": (80,)}), "it has one process"),
        (InspectedGroup("x", {"a": (80,), "b": (80, 81)}), ""),
        (InspectedGroup("x", {"a": (), "b": ()}, {"a": ("/run/x",), "b": ("/run/x",)}), ""),
        (InspectedGroup("x", {"a": (80,), "b": ()}, {"b": ("/run/b",)}), ""),
    ],
)
def test_group_that_does_not_fit_says_why(group: InspectedGroup, why: str) -> None:
    assert unfit(group).startswith(why)
    assert bool(unfit(group)) == bool(why)


# --- what is said


def test_findings_of_the_balancer_are_advice() -> None:
    found = Finding("nginx.max_fails", "nginx.conf:3", "slow", "set max_fails=0")
    (line,) = make_plan(HOST, replace(SEEN, groups=(replace(APP, findings=(found,)),)), []).advice
    assert line.startswith("warning: nginx.max_fails: nginx.conf:3: slow. Fix: set max_fails=0")


def test_missing_rights_are_advice() -> None:
    plan = make_plan(HOST, replace(SEEN, gate="", gate_problem="no rights"), [])
    assert ("gate: none: no rights" in plan.seen, "no port can be closed" in plan.advice[0]) == (True, True)


@pytest.mark.parametrize(("status", "hint"), [(400, "ALLOWED_HOSTS"), (301, "a redirect (301)")])
def test_answer_that_warms_nothing_is_advice(status: int, hint: str) -> None:
    plan = make_plan(HOST, replace(SEEN, groups=(replace(APP, root_status=status),)), [])
    assert hint in plan.advice[0]
    assert "requests" not in plan.files[1].text


def test_broken_ctlplugin_is_advice() -> None:
    host = replace(HOST, sections={CTLPLUGIN: Section(MAIN)}, ctl_problem="supervisorctl cannot import the plugin")
    assert "supervisorctl cannot import the plugin" in make_plan(host, SEEN, []).advice[0]


def test_group_left_out_is_named() -> None:
    assert make_plan(HOST, SEEN, []).seen[-1].startswith("left out: worker: it listens on nothing")


# --- what the operator wrote stays


def test_signature_tells_changes() -> None:
    text = signed("a\n", "#")
    assert (is_ours(text), split_ours(text)) == (True, ("", "a\n"))
    assert split_ours("mine\n" + text) == ("mine\n", "a\n")
    assert (is_ours(text + "b\n"), split_ours(text + "b\n")) == (True, None)
    assert (is_ours("a\n"), split_ours("a\n")) == (False, None)
    assert split_ours(text + "\udce9\n") is None  # a byte that is no UTF-8


@pytest.mark.parametrize(
    "mine",
    [
        "# all of it is a comment",
        "gate:\n  backend: nftables\n",
        "gate: {}\ngroups:\n",
        "groups:\n    api: {}  # mine\n    # more\n",
        "gate: {lease: 20}\ngroups: # mine\n api:\n   ports: auto",
    ],
)
def test_groups_are_added_below_what_is_there(mine: str) -> None:
    (change,) = make_plan(replace(AFTER, files={**WRITTEN, POLICY: mine}), SEEN, []).files
    groups = config.parse(change.text.encode(), POLICY).groups
    assert (list(groups)[-1], groups["app"].warmup.ready.path) == ("app", "/health")
    parts = split_ours(change.text)
    assert parts
    assert parts[0].rstrip("\n") == mine.rstrip("\n")


@pytest.mark.parametrize("mine", ["groups:\n  api: {}\ngate: {}\n", "groups: {api: {}}\n", "{groups: {}, gate: {}}\n"])
def test_other_forms_of_the_file_are_left(mine: str) -> None:
    plan = make_plan(replace(AFTER, files={**WRITTEN, POLICY: mine}), SEEN, [])
    if plan.files:  # the listener reads the new text, and refuses it
        with pytest.raises(ConfigError):
            config.parse(plan.files[0].text.encode(), POLICY)
    else:
        assert f"{POLICY} was not written by setup" in plan.problems[0]


def test_text_that_the_listener_cannot_read_is_refused() -> None:
    plan = make_plan(HOST, SEEN, [])
    assert verified(plan, POLICY, ["app"], "") == plan
    assert "rolling.yaml:2: bad" in verified(plan, POLICY, [], "rolling.yaml:2: bad").problems[0]
    assert verified(plan, POLICY, ["app", "x"], "").files == ()


def test_inspection_is_sent_as_json() -> None:
    group = replace(APP, haproxy=("/run/h.sock", "web"), unix={"app-0": ("/run/x",)}, problem="ü")
    seen = replace(SEEN, groups=(group,))
    assert load(Inspection, json.loads(dump(seen))) == seen
