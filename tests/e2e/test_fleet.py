"""Ansible restarts a fleet: six hosts, each with its own supervisord, nginx and group, behind one HAProxy.

The hosts are network namespaces, Ansible is the real one, with the playbooks and the role of ``conf/ansible``. The
tests share the fleet, which takes some seconds to start, and leave it as they found it: every host up, nothing closed.
"""

from __future__ import annotations

import configparser
import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jinja2
import pytest
import yaml

from tests.support import look, proc
from tests.support.fleet import CANARY, PLAYBOOKS, Fleet, Member, Played
from tests.support.load import Load
from tests.support.plugin import SECTIONS
from tests.support.stack import ROOT

HOSTS = 6
NAMES = [f"web{number}" for number in range(1, HOSTS + 1)]
ROLE = PLAYBOOKS / "roles" / "supervisor_rolling"

UNTOUCHED = ["not reached", "-", "-", "-", ""]
FIRST_THREE = ("--limit", "web1,web2,web3")
"""For what more hosts would not show any better."""

LATER_TWO = ("--limit", "web2,web3")
"""Without the canary: its supervisord has no plugin at first."""

DONE = 0
FAILED = 2  # exit statuses of ansible-playbook


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet as it starts: the canary has no plugin yet."""
    with Fleet(tmp_path_factory.mktemp("f"), HOSTS) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def installed(bare: Fleet) -> Played:
    """The run of the role that installs the plugin on the canary."""
    return bare.play("install.yml", "--limit", CANARY)


@pytest.fixture
def fleet(bare: Fleet, installed: Played) -> Iterator[Fleet]:
    """The fleet with the plugin everywhere, warm and open; whatever a test has deployed is taken back."""
    assert installed.status == DONE, installed.output
    if not (bare.members[0].stack.directory / "rolling.yaml").exists():  # a test has uninstalled it
        bare.play("install.yml", "--limit", CANARY)
    for member in bare.members:
        look.wait_open(member.stack)
    yield bare
    bare.inventory()
    for member in bare.members:
        member.stack.fault()
        member.stack.release("old")


def at_a_time(*hosts: int) -> tuple[str, ...]:
    """Arguments: how many hosts, batch after batch."""
    return ("-e", f'{{"rolling_serial": {list(hosts)}}}')


def deploying(fleet: Fleet, file: str, text: str) -> tuple[str, ...]:
    """Arguments with which a run deploys: this text in that file of each host."""
    return deploying_by(fleet, writing(file, text))


def writing(file: str, text: str) -> dict[str, Any]:
    """A task that deploys."""
    copied = {"content": text, "dest": "{{ here }}/" + file, "mode": "0644"}
    return {"name": "New code", "ansible.builtin.copy": copied}


def losing(name: str) -> dict[str, Any]:
    """A task after which that host is unreachable for the rest of the run."""
    return {"ansible.builtin.set_fact": {"ansible_netns": "/run/nowhere"}, "when": f"inventory_hostname == '{name}'"}


def deploying_by(fleet: Fleet, *tasks: dict[str, Any]) -> tuple[str, ...]:
    """Arguments with which a run deploys, by these tasks."""
    path = fleet.directory / "deploy.yml"
    path.write_text(yaml.safe_dump(list(tasks)), encoding="utf-8")
    return ("-e", f"rolling_deploy={path}")


def born(fleet: Fleet) -> dict[str, list[int]]:
    """When the processes of each host have started, in ticks."""
    found = {name: [proc.identity(pid) for pid in pids] for name, pids in fleet.pids().items()}
    return {name: [one.started for one in those if one] for name, those in found.items()}


def released(fleet: Fleet) -> dict[str, set[str]]:
    """The releases that the processes of each host are of."""
    return {member.name: set(_releases(member)) for member in fleet.members}


def _releases(member: Member) -> list[str]:
    with member.host.there():
        return [member.stack.ask(port, "/health").headers["x-release"] for port in member.stack.setup.ports]


def fix(member: Member) -> None:
    """Take the fault back, and go on where the rollout stopped."""
    member.stack.fault()
    done = member.stack.ctl("rolling_resume", "app")
    assert done.returncode == 0, done.stdout


def changed(played: Played) -> int:
    """How much the canary's recap says was changed."""
    found = re.search(rf"{CANARY} .*changed=(\d+) .*unreachable=0 .*failed=0 ", played.output)
    assert found, played.output
    return int(found.group(1))


@contextlib.contextmanager
def nobody_notices(fleet: Fleet) -> Iterator[Load]:
    """Users of the whole fleet, of whom no request fails while the block lasts."""
    with fleet.users() as users:
        yield users
    look.assert_no_failures(users.report())


# --- the role


def test_role_installs_the_plugin_and_supervisord_loads_it(bare: Fleet, installed: Played) -> None:
    assert installed.status == DONE, installed.output
    assert changed(installed) == 5  # the wheel, the package, rolling.yaml, supervisord.conf, and supervisord reloaded
    listener = proc.command(proc.Identity(look.listener_pid(bare.members[0].stack), 0))
    assert str(bare.venv / "bin" / "supervisor_rolling_listener") in listener
    policy = bare.members[0].stack.directory / "rolling.yaml"
    assert (policy.stat().st_uid, policy.stat().st_mode & 0o777) == (0, 0o644)


def test_second_run_of_the_role_changes_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    assert changed(fleet.play("install.yml", "--limit", CANARY)) == 0
    assert fleet.pids() == before


def test_role_restarts_nothing_unless_asked(fleet: Fleet) -> None:
    before, included = fleet.pids(), fleet.directory / "included.conf"
    fleet.inventory(**{CANARY: {"rolling_restart_supervisord": "", "rolling_include_file": str(included)}})
    dry = fleet.play("install.yml", "--limit", CANARY, "--check")
    assert (changed(dry), included.exists()) == (2, False), dry.output
    played = fleet.play("install.yml", "--limit", CANARY)
    assert (changed(played), included.exists()) == (2, True), played.output
    assert "The plugin is installed but not loaded" in played.output
    assert fleet.pids() == before


def test_invalid_policy_is_not_written(fleet: Fleet) -> None:
    policy = fleet.members[0].stack.directory / "rolling.yaml"
    good = policy.read_text(encoding="utf-8")
    fleet.inventory(**{CANARY: {"rolling_policy": {"groups": {"app": {"port": 8000}}}}})
    played = fleet.play("install.yml", "--limit", CANARY, "--start-at-task", "Write rolling.yaml, if it is valid")
    assert played.status == FAILED
    assert "port: unknown" in played.output
    assert policy.read_text(encoding="utf-8") == good


@pytest.mark.parametrize("parts", [["server", "client"], ["server"], ["client"]])
def test_sections_of_the_role_are_those_of_conf(parts: list[str]) -> None:
    example = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    example.read(ROOT / "conf" / "supervisord.conf")
    template = jinja2.Template((ROLE / "templates" / "sections.ini.j2").read_text(encoding="utf-8"))
    text = template.render(
        rolling_sections=parts,
        rolling_listener="/opt/x/bin/supervisor_rolling_listener",
        rolling_yaml="/etc/supervisor/rolling.yaml",
    )
    sections = configparser.RawConfigParser()
    sections.read_string(text.replace("/opt/x/bin/", ""))
    selected = {name: ("client" if name.startswith("ctlplugin") else "server") for name in SECTIONS}
    assert {name: dict(sections[name]) for name in sections.sections()} == {
        name: dict(example[name]) for name, part in selected.items() if part in parts
    }


# --- a rollout


def test_good_deploy_updates_canary_first_without_failure(fleet: Fleet) -> None:
    before = fleet.pids()
    with nobody_notices(fleet):
        played = fleet.play("rollout.yml", *at_a_time(1, 2, 3), *deploying(fleet, "release", "new"))
    assert played.status == DONE, played.output
    assert "warning: supervisor.startsecs: " in played.output  # which stops no host
    assert [row[:3] for row in played.table] == [[name, "done", "3 of 3"] for name in NAMES], played.output
    assert {row[4] for row in played.table} == {"2 of 3"}
    assert released(fleet) == {name: {"new"} for name in NAMES}
    assert not {pid for pids in before.values() for pid in pids} & {
        pid for pids in fleet.pids().values() for pid in pids
    }
    times = born(fleet)
    batches = [[times[name] for name in names] for names in (NAMES[:1], NAMES[1:3], NAMES[3:])]
    ends, begins = [max(map(max, batch)) for batch in batches], [min(map(min, batch)) for batch in batches]
    assert ends[0] < begins[1]
    assert ends[1] < begins[2]


def test_bad_deploy_stops_at_the_first_process(fleet: Fleet) -> None:
    before = fleet.pids()
    with nobody_notices(fleet):
        played = fleet.play("rollout.yml", *deploying(fleet, "fault", "500"))
        assert played.status == FAILED, played.output
        after = fleet.pids()
        fix(fleet.members[0])
    canary, *others = played.table
    assert canary[:3] == [CANARY, "failed", "0 of 3"]
    assert canary[5] == "app-8000 is not warm: GET / answered 500, expected 2xx"
    assert others == [[name, *UNTOUCHED] for name in NAMES[1:]]
    assert [old == new for old, new in zip(before[CANARY], after[CANARY])] == [False, True, True]
    assert {name: after[name] for name in NAMES[1:]} == {name: before[name] for name in NAMES[1:]}
    assert [member.name for member in fleet.members if _fault(member)] == []


def _fault(member: Member) -> str:
    path = member.stack.directory / "fault"
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.soak
def test_failure_in_a_batch_stops_later_batches(fleet: Fleet) -> None:
    before = fleet.pids()
    with nobody_notices(fleet):
        text = "{{ '500' if inventory_hostname == 'web2' else '' }}"
        played = fleet.play("rollout.yml", *at_a_time(2, 4), *deploying(fleet, "fault", text))
        assert played.status == FAILED, played.output
        after = fleet.pids()
        fix(fleet.members[1])
    assert [row[1] for row in played.table] == ["done", "failed", *["not reached"] * 4]
    assert {name: after[name] for name in NAMES[2:]} == {name: before[name] for name in NAMES[2:]}


def test_failed_deploy_starts_no_rollout(fleet: Fleet) -> None:
    before = fleet.pids()
    played = fleet.play("rollout.yml", *FIRST_THREE, *deploying(fleet, "no/such/folder", ""))
    assert played.status == FAILED
    assert [row[1] for row in played.table] == ["not deployed", "not reached", "not reached"], played.output
    assert played.table[0][5].startswith("New code: ")
    assert fleet.pids() == before


@pytest.mark.soak
def test_host_lost_before_its_rollout_ends_the_run(fleet: Fleet) -> None:
    before = fleet.pids()
    played = fleet.play("rollout.yml", *FIRST_THREE, *deploying_by(fleet, losing(CANARY)))
    assert played.status == FAILED, played.output
    assert [row[1] for row in played.table] == ["unreachable", "not reached", "not reached"], played.output
    assert fleet.pids() == before


@pytest.mark.soak
def test_host_lost_during_rollout_ends_only_the_run(fleet: Fleet) -> None:
    before, member, cut = fleet.pids(), fleet.members[1], fleet.directory / "cut"
    last = rollout_number(member)
    fleet.inventory(web2={"ansible_netns_cut": str(cut)})
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(fleet.play, "rollout.yml", *LATER_TWO, *deploying(fleet, "release", "new"))
        member.stack.wait_until(lambda: is_half_done(member, last), 60.0, "one is replaced")
        cut.touch()
        played = run.result()
    assert played.status == FAILED, played.output
    assert [row[1] for row in played.table] == ["unreachable", "not reached"], played.output
    assert played.table[0][5].endswith("A rollout that had started there continues: see rolling_status on that host")
    rollout = look.wait_ended(member.stack)
    assert (rollout["id"], rollout["status"], rollout["replaced"]) == (last + 1, "done", 3)
    assert released(fleet)["web2"] == {"new"}
    assert fleet.pids()["web3"] == before["web3"]
    cut.unlink()
    assert fleet.play("rollout.yml", *LATER_TWO).status == DONE, "a second run restarts both"


@pytest.mark.soak
def test_second_run_names_the_rollout_in_progress(fleet: Fleet) -> None:
    member = fleet.members[1]
    with member.host.there(), look.draining(member.stack):
        played = fleet.play("rollout.yml", *LATER_TWO)
    assert [row[1] for row in played.table] == ["error", "not reached"], played.output
    assert re.fullmatch(
        r"a rollout of app is already running: rollout \d+ by \S+ has replaced 0 of 3. Fix: .*", played.table[0][5]
    )
    assert look.wait_ended(member.stack)["status"] == "done"


def rollout_number(member: Member) -> int:
    """Of the last rollout of a host; 0: there was none."""
    rollouts: Any = member.stack.rpc().rolling.getAllRollouts()
    return max((rollout["id"] for rollout in rollouts), default=0)


def is_half_done(member: Member, last: int) -> bool:
    """Whether a rollout after that one has replaced a process, and goes on."""
    rollouts: Any = member.stack.rpc().rolling.getAllRollouts()
    return any(rollout["id"] > last and rollout["status"] == "running" and rollout["replaced"] for rollout in rollouts)


@pytest.mark.soak
def test_host_lost_in_deploy_ends_run_after_batch(fleet: Fleet) -> None:
    before = fleet.pids()
    deploy = deploying_by(fleet, losing("web2"), writing("release", "new"))
    played = fleet.play("rollout.yml", *FIRST_THREE, *at_a_time(2, 1), *deploy)
    assert played.status != DONE, played.output
    assert [row[1] for row in played.table] == ["done", "unreachable", "not reached"], played.output
    after = fleet.pids()
    assert {name: after[name] for name in NAMES[1:]} == {name: before[name] for name in NAMES[1:]}


def test_error_finding_on_one_host_touches_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    with a_wrong_nginx(fleet.members[4]):
        played = fleet.play("rollout.yml", *deploying(fleet, "release", "new"))
    assert played.status == FAILED, played.output
    assert [row[1] for row in played.table] == [*["not reached"] * 4, "refused", "not reached"], played.output
    assert played.table[4][5].startswith("nginx.max_fails: ")
    assert "error: nginx.max_fails" in played.output
    assert fleet.pids() == before
    assert {(member.stack.directory / "release").read_text(encoding="utf-8") for member in fleet.members} == {"old"}


@contextlib.contextmanager
def a_wrong_nginx(member: Member) -> Iterator[None]:
    """With nginx's defaults on disk, and a rollout that does not wait for it."""
    conf, policy = member.stack.nginx_conf, member.stack.directory / "rolling.yaml"
    good = {path: path.read_text(encoding="utf-8") for path in (conf, policy)}
    conf.write_text(good[conf].replace(" max_fails=0", ""), encoding="utf-8")
    policy.write_text(good[policy].replace("    ports:", "    min_ready_seconds: 0\n    ports:"), encoding="utf-8")
    yield
    for path, text in good.items():
        path.write_text(text, encoding="utf-8")


@pytest.mark.soak
def test_unreachable_host_touches_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    fleet.inventory(web6={"ansible_netns": "/run/nowhere"})
    played = fleet.play("rollout.yml")
    assert played.status == FAILED, played.output
    assert [row[1] for row in played.table] == [*["not reached"] * 5, "unreachable"], played.output
    assert fleet.pids() == before


def test_dry_run_lists_processes_and_touches_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    played = fleet.play("rollout.yml", "--check", "--limit", CANARY)
    assert played.status == DONE, played.output
    assert [row[:3] for row in played.table] == [[CANARY, "planned", "3 of 3"]], played.output
    assert fleet.pids() == before


def test_example_inventory_uses_only_known_variables() -> None:
    used = yaml.safe_load((PLAYBOOKS / "inventory.yml").read_text(encoding="utf-8"))["app"]["vars"]
    known = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    assert set(used) <= set(known)


# --- the end


def test_uninstall_keeps_programs_and_leaves_no_file(fleet: Fleet) -> None:
    member = fleet.members[0]
    before = fleet.pids()
    assert changed(fleet.play("uninstall.yml", "--limit", CANARY)) == 4  # the sections, the listener, the file, pip
    assert fleet.pids() == before
    with member.host.there():
        assert look.rules() == []
    left = [*fleet.venv.glob("lib/python*/site-packages/supervisor_rolling*"), *fleet.venv.glob("*.whl")]
    assert [*left, *member.stack.directory.glob("rolling.yaml")] == []
    assert "rolling" not in member.stack.ctl("status").stdout
