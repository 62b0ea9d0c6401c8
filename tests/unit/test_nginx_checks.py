"""What is found in nginx's configuration: files that nginx itself takes, read as a check reads them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor_rolling.codec import dump as dump_json
from supervisor_rolling.core.checks.nginx import findings, group_in_nginx, min_ready_for, min_ready_why, unreadable
from supervisor_rolling.core.endpoint import tcp, unix
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.policy import BalancerPolicy, DrainPolicy, Policy, PortRule
from supervisor_rolling.listener import balancer_config
from supervisor_rolling.listener.balancer_config import NginxConfigurations, UnreadableError, read_nginx
from supervisor_rolling.listener.system import nginx_program

PORTS = {tcp(8000): "app-8000", tcp(8001): "app-8001"}
POOLED = 'proxy_http_version 1.1; proxy_set_header Connection "";'
SERVERS = "server 127.0.0.1:8000 max_fails=0; server 127.0.0.1:8001 max_fails=0;"

MAIN = """\
pid {here}/nginx.pid;
error_log {here}/error.log;
events {{}}
{more}
http {{
    access_log off;
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
    upstream other {{ server 127.0.0.1:9000; keepalive 8; }}
    upstream app {{ {upstream} }}
    {http}
    server {{ listen 127.0.0.1:8080; {server} location / {{ proxy_pass {target}; {location} }} }}
    server {{ listen 127.0.0.1:8081; proxy_next_upstream off; location / {{ proxy_pass http://other; }} }}
}}
"""

Conf = Callable[..., Path]


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    """Writes a configuration that nginx takes; the places are those of ``MAIN``."""

    def conf(upstream: str = SERVERS, target: str = "http://app", **places: str) -> Path:
        path = tmp_path / "nginx.conf"
        rest = {"more": "", "http": "", "server": "", "location": "", **places}
        path.write_text(MAIN.format(here=tmp_path, upstream=upstream, target=target, **rest), encoding="utf-8")
        tested = subprocess.run(["nginx", "-t", "-c", str(path)], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        return path

    return conf


def a_policy(min_ready_seconds: float = 0.0, drain: dict[str, str] | None = None) -> Policy:
    told = DrainPolicy(**(drain or {}))  # type: ignore[arg-type]
    return Policy("app", PortRule(), min_ready_seconds=min_ready_seconds, min_ready_auto=False, drain=told)


def codes(nginx: Nginx, policy: Policy | None = None, limit: int = 1) -> list[str]:
    """Of all findings; a ! stands before those that refuse a rollout."""
    found = findings(group_in_nginx(nginx, PORTS, is_named=True), policy or a_policy(), limit, PORTS)
    return [f"{'!' if one.is_error else ''}{one.code.removeprefix('nginx.')}" for one in found]


def test_unix_socket_is_read_like_a_port(conf: Conf) -> None:
    servers = "server unix:/run/a.sock; server unix:/run/b.sock max_fails=0; keepalive 4;"
    kept = 'proxy_http_version 1.1; proxy_set_header Connection "";'
    nginx = read_nginx(str(conf(servers, location=kept)))
    group = group_in_nginx(nginx, [unix("/run/a.sock"), unix("/run/b.sock")], is_named=False)
    assert (group.is_certain, min_ready_for(group)) == (True, 11.0)
    owners = {unix("/run/a.sock"): "app-1", unix("/run/b.sock"): "app-2", unix("/run/c.sock"): "app-3"}
    found = {one.code: one for one in findings(group, a_policy(), 1, owners)}
    assert set(found) == {"nginx.absent", "nginx.max_fails", "nginx.keepalive"}
    assert "app-3 (unix socket /run/c.sock)" in found["nginx.absent"].text


def test_valid_configuration_has_no_finding(conf: Conf) -> None:
    nginx = read_nginx(str(conf()))
    assert codes(nginx) == []
    assert min_ready_for(group_in_nginx(nginx, PORTS, is_named=False)) == 0


# --- for how long a process is shunned


@pytest.mark.parametrize(
    ("server", "seconds"),
    [
        ("", 11),
        ("max_fails=3", 11),
        ("max_fails=0", 0),
        ("max_fails=0 fail_timeout=30s", 0),
        ("fail_timeout=30", 31),
        ("fail_timeout=1m30s", 91),
        ("fail_timeout=0", 1),
        ("max_fails=1 fail_timeout=5s weight=2 max_conns=100", 6),
    ],
)
def test_unavailable_seconds_follow_server_parameters(conf: Conf, server: str, seconds: float) -> None:
    nginx = read_nginx(str(conf(f"server 127.0.0.1:8000 {server}; server 127.0.0.1:8001 max_fails=0;")))
    assert min_ready_for(group_in_nginx(nginx, PORTS, is_named=False)) == seconds
    assert codes(nginx, a_policy(min_ready_seconds=seconds)) == []
    if seconds > 1:
        assert codes(nginx, a_policy(min_ready_seconds=seconds - 1)) == ["max_fails"], "the rest of a second is advice"
        assert codes(nginx, a_policy(min_ready_seconds=seconds - 2)) == ["!max_fails"]


def test_min_ready_auto_warns_with_its_cost(conf: Conf) -> None:
    nginx = read_nginx(str(conf("server 127.0.0.1:8000; server 127.0.0.1:8001;")))
    group = group_in_nginx(nginx, PORTS, is_named=False)
    (finding,) = findings(group, replace(a_policy(min_ready_seconds=11.0), min_ready_auto=True), 1, PORTS)
    assert (finding.code, finding.is_error) == ("nginx.min_ready_seconds", False)
    assert min_ready_why(group) == "max_fails=1, fail_timeout=10s, which are the defaults"
    assert finding.text == (
        "each process waits 11 s after it opens (min_ready_seconds: auto), because nginx sends nothing to a "
        f"port for so long after it refused a connection ({min_ready_why(group)})"
    )
    assert finding.fix == (
        "set max_fails=0 at each server of the upstream: saves 11 s for each process, 22 s for the whole rollout"
    )


def test_max_fails_zero_needs_no_min_ready(conf: Conf) -> None:
    group = group_in_nginx(read_nginx(str(conf())), PORTS, is_named=False)
    assert min_ready_why(group) == ""
    assert list(findings(group, replace(a_policy(), min_ready_auto=True), 1, PORTS)) == []


def test_last_part_of_a_second_is_a_warning(conf: Conf) -> None:
    servers = "server 127.0.0.1:8000 fail_timeout=0; server 127.0.0.1:8001 fail_timeout=0;"
    assert codes(read_nginx(str(conf(servers)))) == ["max_fails"]


def test_large_group_is_never_wholly_unavailable(conf: Conf) -> None:
    """Five seconds of fail_timeout: with min_ready_seconds: 3 a process is shunned for two turns more."""

    def found(processes: int) -> list[str]:
        servers = " ".join(f"server 127.0.0.1:{8000 + n} fail_timeout=5s;" for n in range(processes))
        group = group_in_nginx(read_nginx(str(conf(servers))), PORTS, is_named=False)
        return [one.code for one in findings(group, a_policy(min_ready_seconds=3.0), 1, PORTS) if one.is_error]

    assert (found(3), found(4)) == (["nginx.max_fails"], [])


def test_longest_time_counts_without_down_servers(conf: Conf) -> None:
    servers = "server 127.0.0.1:8000 fail_timeout=7s; server 127.0.0.1:8001 down;"
    assert min_ready_for(group_in_nginx(read_nginx(str(conf(servers))), PORTS, is_named=False)) == 8


def test_finding_names_defaults_and_line(conf: Conf) -> None:
    path = conf("server 127.0.0.1:8000; server 127.0.0.1:8001;")
    (finding,) = findings(group_in_nginx(read_nginx(str(path)), PORTS, is_named=False), a_policy(), 1, PORTS)
    assert finding.where == f"{path}:10"
    assert (
        "for up to 11 s after it refused a connection (max_fails=1, fail_timeout=10s, which are the defaults)"
        in finding.text
    )


# --- what else


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"upstream": f"{SERVERS} keepalive 32;", "location": POOLED}, ["!keepalive"]),
        ({"upstream": f"{SERVERS} keepalive 32;", "http": POOLED}, ["!keepalive"]),
        ({"upstream": f"{SERVERS} keepalive 32;"}, []),  # before 1.29.7 each request says Connection: close
        ({"upstream": f"{SERVERS} keepalive 32;", "location": "proxy_http_version 1.1;"}, []),
        ({"upstream": f"{SERVERS} keepalive 32;", "location": "proxy_set_header Connection close;"}, []),
        ({"upstream": f"{SERVERS} keepalive 32;", "http": POOLED, "location": "proxy_set_header Host x;"}, []),
        (
            {"upstream": f"{SERVERS} keepalive 32;", "location": POOLED, "target": "HTTP://App$request_uri"},
            ["!keepalive"],
        ),
        ({"upstream": f"{SERVERS} keepalive 32;", "location": POOLED, "target": "http://$arg_to"}, []),
        ({"upstream": f"{SERVERS} keepalive 32;", "location": 'proxy_set_header Connection "";'}, []),  # HTTP/1.0
        ({"location": "", "server": "location /debug { proxy_pass http://127.0.0.1:8000; }"}, ["lone"]),
        (  # the map that everybody has for WebSockets says close to all others
            {"upstream": f"{SERVERS} keepalive 32;", "location": "proxy_set_header Connection $http_x;"},
            [],
        ),
        ({"location": "proxy_next_upstream off;"}, ["!next_upstream"]),
        ({"http": "proxy_next_upstream off;"}, ["!next_upstream"]),
        ({"http": "proxy_next_upstream off;", "server": "proxy_next_upstream error;"}, []),
        ({"location": "proxy_next_upstream timeout http_503;"}, ["!next_upstream"]),
        ({"location": "proxy_next_upstream error timeout non_idempotent;"}, []),
        ({"location": "proxy_next_upstream_tries 1;"}, ["!tries"]),
        ({"location": "proxy_next_upstream_tries 2;"}, []),
        ({"server": "proxy_next_upstream_tries 1;"}, ["!tries"]),
        ({"upstream": "server 127.0.0.1:8000;"}, ["absent", "!lone"]),
        ({"upstream": "server 127.0.0.1:8000; server 127.0.0.1:8001 down;"}, ["!max_fails", "!lone", "down"]),
        ({"upstream": "server 127.0.0.1:8000 max_fails=0; server 127.0.0.1:9 max_fails=0 backup;"}, ["absent"]),
        ({"upstream": "server localhost:8000 max_fails=0; server [::1]:8001 max_fails=0;"}, ["localhost"]),
        ({"target": "http://127.0.0.1:8000/x"}, ["absent", "!lone"]),
        ({"target": "http://$host"}, []),
        ({"location": "if ($arg_x) { proxy_pass http://127.0.0.1:8001; }"}, ["lone"]),
    ],
)
def test_each_problem_has_its_finding(conf: Conf, places: dict[str, str], expected: list[str]) -> None:
    assert codes(read_nginx(str(conf(**places)))) == expected


@pytest.mark.parametrize(
    "drain", [{"keepalive": word} for word in ("application", "nginx", "ignore")] + [{"signal": "USR1"}]
)
def test_pool_closed_by_policy_is_no_finding(conf: Conf, drain: dict[str, str]) -> None:
    nginx = read_nginx(str(conf(f"{SERVERS} keepalive 32;", location=POOLED)))
    assert codes(nginx, a_policy(drain=drain)) == []


@pytest.mark.parametrize(
    ("version", "upstream", "expected"),
    [
        ((1, 29, 6), SERVERS, []),
        ((1, 29, 7), SERVERS, ["!keepalive"]),
        ((1, 31, 0), f"{SERVERS} keepalive 0;", []),
        ((), SERVERS, []),
    ],
)
def test_later_versions_keep_a_pool_by_default(
    conf: Conf, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], upstream: str, expected: list[str]
) -> None:
    path = conf(SERVERS)  # ``keepalive 0`` is an error in this version
    path.write_text(path.read_text().replace(SERVERS, upstream))
    monkeypatch.setattr(balancer_config, "_version", lambda program: version)
    assert codes(read_nginx(str(path))) == expected


def test_fewer_tries_than_closed_ports_is_an_error(conf: Conf) -> None:
    nginx = read_nginx(str(conf(location="proxy_next_upstream_tries 3;")))
    assert (codes(nginx, limit=2), codes(nginx, limit=3)) == ([], ["!tries"])


STREAM = """\
load_module modules/ngx_stream_module.so;
stream {{
    upstream app {{ server 127.0.0.1:8000 max_fails=0; server 127.0.0.1:8001 max_fails=0; }}
    server {{ listen 127.0.0.1:8090; proxy_pass app; {} }}
}}
"""


@pytest.mark.parametrize(("more", "expected"), [("", []), ("proxy_next_upstream off;", ["!next_upstream"])])
def test_stream_block_is_read(tmp_path: Path, more: str, expected: list[str]) -> None:
    """The module for it may be missing here, so nginx itself is not asked."""
    path = tmp_path / "stream.conf"
    path.write_text(STREAM.format(more), encoding="utf-8")
    assert codes(read_nginx(str(path))) == expected


# --- which servers are those of the group


def test_server_on_another_host_is_ignored(conf: Conf) -> None:
    nginx = read_nginx(str(conf("server 127.0.0.1:8000 max_fails=0; server 192.0.2.7:8001 fail_timeout=60s;")))
    assert min_ready_for(group_in_nginx(nginx, PORTS, is_named=False)) == 0
    assert codes(nginx) == ["absent"]


def test_named_file_without_own_host_matches_by_port(conf: Conf) -> None:
    nginx = read_nginx(str(conf("server 192.0.2.7:8000 fail_timeout=60s; server 192.0.2.7:8001;")))
    assert min_ready_for(group_in_nginx(nginx, PORTS, is_named=True)) == 61
    assert codes(nginx, a_policy(min_ready_seconds=0.0)) == ["max_fails"], "what only the ports tell refuses nothing"
    assert min_ready_for(group_in_nginx(nginx, PORTS, is_named=False)) is None


def test_unused_upstream_is_ignored_without_a_variable(conf: Conf) -> None:
    left_over = "upstream old { server 127.0.0.1:8000; server 127.0.0.1:8001; }"
    assert codes(read_nginx(str(conf(http=left_over)))) == []
    variable = "location /x { proxy_pass http://$arg_to; }"
    assert codes(read_nginx(str(conf(http=left_over, server=variable)))) == ["!max_fails"]


# --- how it is read


def test_output_of_nginx_T_equals_the_files(conf: Conf, tmp_path: Path) -> None:
    parts = tmp_path / "conf.d"
    parts.mkdir()
    (parts / "pool.conf").write_text("keepalive 32;\n")
    (parts / "servers.inc").write_text("server 127.0.0.1:8000 max_fails=0;\nserver localhost:8001 max_fails=0;\n")
    path = conf("include conf.d/*.inc; include conf.d/pool.conf;", location=POOLED)
    dump = tmp_path / "dump"
    command = ["nginx", "-T", "-c", str(path)]
    dump.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout)
    assert dump.read_text(encoding="utf-8").startswith("nginx: ")
    whole, dumped = read_nginx(str(path)), read_nginx(str(dump))
    assert (codes(whole), codes(dumped)) == (["!keepalive", "localhost"], ["keepalive", "localhost"])
    assert [one.where for _, one in group_in_nginx(dumped, PORTS, is_named=True).servers] == [
        f"{dump}: {parts}/servers.inc:1",
        f"{dump}: {parts}/servers.inc:2",
    ]
    assert (dumped.version, dumped.own) == ((), frozenset()), "it may be of another host"
    said = dump_json(replace(dumped, source="")).replace(f"{dump}: ", "")
    assert said == dump_json(replace(whole, source="", version=(), own=frozenset()))


def test_name_with_a_variable_hides_no_upstream(conf: Conf) -> None:
    blue = "upstream app-blue { server 127.0.0.1:8000; server 127.0.0.1:8001; }"
    assert codes(read_nginx(str(conf(http=blue, location="", target="http://app-$arg_to")))) == ["!max_fails"]


def test_http_1_0_keeps_no_pool(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_config, "_version", lambda program: (1, 29, 7))
    assert codes(read_nginx(str(conf(location="proxy_http_version 1.0;")))) == []
    assert codes(read_nginx(str(conf(location="proxy_http_version 1.1;")))) == ["!keepalive"]


def test_self_include_ends(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    files = {"/a/nginx.conf": "http { include b.conf; }", "/a/b.conf": "include b.conf;"}
    dump.write_text("".join(f"# configuration file {name}:\n{text}\n" for name, text in files.items()))
    assert read_nginx(str(dump)).upstreams == ()


def test_without_a_file_nginx_T_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, conf: Conf) -> None:
    script = tmp_path / "nginx"
    script.write_text(f'#!/bin/sh\n[ "$1" = -v ] && exec /usr/sbin/nginx -v\nexec /usr/sbin/nginx -c {conf()} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = read_nginx("")
    assert found.source == str(tmp_path / "nginx.conf")
    assert codes(found) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http {", "unexpected end of file"),
        ("include nginx.conf;", "a file includes itself"),
        ("http { include /no/such/file.conf; }", "No such file or directory: '/no/such/file.conf'"),
        ("# configuration file /a/nginx.conf:\nhttp {", 'unexpected end of file, expecting "}" in /a/nginx.conf:1'),
    ],
)
def test_unreadable_configuration_raises_with_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnreadableError) as error:
        read_nginx(str(path))
    assert why in str(error.value)


def test_finding_has_the_fix_of_the_problem_at_its_end() -> None:
    failed = Nginx((), (), problem="/usr/sbin/nginx -T fails: it is wrong. Fix: correct that")
    finding = unreadable(failed, Policy("app", PortRule(), min_ready_auto=False))
    assert (
        finding.text
        == "/usr/sbin/nginx -T fails: it is wrong, so it is not known what nginx does while a port is closed"
    )
    assert finding.fix == "correct that"


def test_failing_nginx_T_raises_with_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "nginx"
    script.write_text(
        "#!/bin/sh\nexec >&2\necho 'nginx: [warn] x'\n"
        "printf 'nginx: [emerg] host not\\033[2J found in upstream\\n'; exit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(balancer_config, "_version", lambda program: ())
    with pytest.raises(UnreadableError, match=r"-T fails: nginx: \[emerg\] host not\\x1b\[2J found in upstream"):
        read_nginx("")


def test_host_without_nginx_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(nginx_program, "SBIN", "/nowhere")
    with pytest.raises(UnreadableError, match="nginx is not installed on this host"):
        read_nginx("")


def test_older_reading_is_repeated(conf: Conf) -> None:
    path, now, rung = conf(), [100.0], []
    configurations = NginxConfigurations(lambda: now[0], lambda: rung.append(now[0]))

    def read(since: float) -> Nginx:
        while True:
            found = configurations.read(BalancerPolicy(str(path)), since)
            if found is not None:
                return found

    assert codes(read(0.0)) == []
    conf("server 127.0.0.1:8000; server 127.0.0.1:8001;")
    assert codes(read(100.0)) == []
    now[0] = 101.0
    assert codes(read(100.5)) == ["!max_fails"]
    assert len(rung) == 2


def test_last_reading_holds_during_the_next(conf: Conf) -> None:
    path, now = conf(), [100.0]
    configurations = NginxConfigurations(lambda: now[0])
    policy = BalancerPolicy(str(path))
    while configurations.last_read(policy) is None:
        pass
    now[0] = 101.0
    assert configurations.read(policy, 100.5) is None
    found = configurations.last_read(policy)
    assert found is not None
    assert found == read_nginx(str(path))


def test_slow_reader_is_killed(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_config, "READ_TIMEOUT", 0.01)
    configurations = NginxConfigurations(lambda: 0.0)
    policy = BalancerPolicy(str(conf()))
    while (found := configurations.last_read(policy)) is None:
        pass
    assert found.problem.startswith("cannot be read within 0.01 s. Fix: name a file")


def test_missing_file_has_a_problem() -> None:
    configurations = NginxConfigurations(lambda: 0.0)
    found = None
    while found is None:
        found = configurations.read(BalancerPolicy("/no/such/file"), 0.0)
    assert found.problem == "cannot be read: No such file or directory"
