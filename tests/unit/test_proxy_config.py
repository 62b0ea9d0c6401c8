"""What is read of the configurations of HAProxy, Caddy, Apache and Varnish, and what is found in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core.checks.clients import findings, group_clients, unread
from supervisor_rolling.core.policy import BalancerPolicy, DrainPolicy, Policy, PortRule
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.proxy_config import Proxy, haproxy_gate, read

PORTS = frozenset({8000, 8001})
POLICY = Policy("app", PortRule(), min_ready_seconds=10.0)

DEFAULTS = "defaults\n mode http\n {}\nbackend app\n {}\n server a 127.0.0.1:8000 {}\n"
CADDY = ":80 {{\n reverse_proxy 127.0.0.1:8000 127.0.0.1:8001 {{\n {}\n }}\n}}\n"
APACHE = "<Proxy balancer://app>\n BalancerMember http://127.0.0.1:8000 {}\n</Proxy>\n"
VARNISH = 'vcl 4.1;\nbackend a {{ .host = "127.0.0.1"; .port = "8000"; {} }}\n{}\n'


def of(name: str, text: str) -> Proxy | None:
    return read(name, [("/c", text)], PORTS)


@pytest.mark.parametrize(
    ("defaults", "backend", "retries"),
    [
        ("", "", False),
        ("option redispatch", "", True),
        ("", "option redispatch 1", True),
        ("option redispatch", "no option redispatch", False),
        ("option redispatch", "retries 0", False),
        ("retries 3", "# option redispatch", False),
        ("", "retry-on conn-failure", False),
    ],
)
def test_haproxy_retries_with_redispatch_only(defaults: str, backend: str, retries: bool):
    found = of("haproxy", DEFAULTS.format(defaults, backend, ""))
    assert found == Proxy("/c:6", retries, keeps_connections=True)


@pytest.mark.parametrize(
    ("defaults", "backend", "keeps_connections"),
    [
        ("", "", True),
        ("", "http-reuse never", True),
        ("option http-server-close", "", False),
        ("", "option http-server-close", False),
        ("", "option httpclose", False),
        ("", "# option http-server-close", True),
        ("option http-server-close", "no option http-server-close", True),
        ("option http-server-close", "no option httpclose", False),
        ("option http-server-close", "option http-keep-alive", True),
        ("", "mode tcp", False),
        ("mode tcp", "mode http", True),
    ],
)
def test_haproxy_keeps_connections_without_a_close_option(defaults: str, backend: str, keeps_connections: bool):
    found = of("haproxy", DEFAULTS.format(defaults, backend, ""))
    assert found
    assert found.keeps_connections is keeps_connections


def test_haproxy_without_a_mode_is_tcp_and_pools_nothing():
    assert of("haproxy", "listen app\n server a 127.0.0.1:8000\n") == Proxy("/c:2", False)


@pytest.mark.parametrize(
    ("server", "seconds"),
    [
        ("", 0.0),
        ("check", 4.0),
        ("check inter 500 rise 3", 1.5),
        ("check inter 1s rise 5 downinter 3s", 15.0),
        ("inter 10s rise 5", 0.0),
    ],
)
def test_haproxy_is_unavailable_for_rise_checks(server: str, seconds: float):
    found = of("haproxy", DEFAULTS.format("option redispatch", "", server))
    assert found
    assert found.unavailable_for == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("global\n stats socket /run/h.sock mode 600 level admin\nbackend web\n server a 127.0.0.1:8000", "web"),
        ("global\n stats socket /run/h.sock level admin\nlisten x\n server a :8000\nbackend web\n server a :9", "x"),
        ("global\n stats socket /run/h.sock level user\nbackend web\n server a 127.0.0.1:8000", ""),
        ("global\n stats socket ipv4@127.0.0.1:99 level admin\nbackend web\n server a 127.0.0.1:8000", ""),
        ("global\n stats socket /run/h.sock level admin\nbackend web\n server a 10.0.0.9:8000", ""),
    ],
)
def test_haproxy_gate_needs_admin_socket_and_backend(text: str, gate: str):
    assert haproxy_gate([("haproxy.cfg", text)], [8000]) == (("/run/h.sock", gate) if gate else ())


def test_haproxy_sections_have_their_own_defaults():
    text = (
        "defaults one\n option redispatch\ndefaults\n retries 2\n"
        "backend a from one\n server a 10.0.0.1:8000\nbackend b\n server b 10.0.0.1:8001\n"
    )
    assert read("haproxy", [("/c", text)], {8000}) == Proxy("/c:6", True, is_here=False)
    assert read("haproxy", [("/c", text)], {8001}) == Proxy("/c:8", False, is_here=False)
    assert read("haproxy", [("/c", text)], PORTS) == Proxy("/c:8", False, is_here=False)
    assert read("haproxy", [("/c", text)], {80}) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", Proxy("/c:2", False, keeps_connections=True)),
        ("transport http {\n keepalive off\n }", Proxy("/c:2", False)),
        ("lb_retries 3", Proxy("/c:2", True, keeps_connections=True)),
        ("lb_try_duration 0s", Proxy("/c:2", False, keeps_connections=True)),
        ("lb_try_duration 500ms\n fail_duration 1m30s", Proxy("/c:2", True, 90.0, True)),
        ("lb_retries 3\n health_uri /\n health_interval 5s", Proxy("/c:2", True, 5.0, True)),
    ],
)
def test_caddy_retries_with_lb_retries_or_try_duration(lines: str, expected: Proxy):
    assert of("caddy", CADDY.format(lines)) == expected


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        (":8000", True),
        ("[::1]:8000", True),
        ("10.0.0.7:8000", False),
        ("[fd00::7]:8000", False),
        ("10.0.0.7:8000 127.0.0.1:9000", False),
        ("10.0.0.7:8000 127.0.0.1:8001", True),
    ],
)
def test_address_of_another_host_is_not_here(address: str, is_here: bool):
    found = of("caddy", f"a.example {{\n reverse_proxy {address}\n}}\n")
    assert found
    assert found.is_here == is_here


def test_number_in_other_digits_is_no_number():
    assert of("httpd", APACHE.format("retry=²")) == Proxy("/c:2", True, 60.0, True)


def test_caddy_addresses_in_a_range_or_the_block():
    assert of("caddy", "a.example {\n reverse_proxy /api/* :7990-8005\n}\n")
    assert of("caddy", "a.example {\n reverse_proxy {\n to localhost:8001\n lb_retries 2\n }\n}\n")
    assert of("caddy", "a.example {\n reverse_proxy localhost:9000\n respond :8000\n}\n") is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Proxy("/c:2", True, 60.0, True)),
        ("retry=5", Proxy("/c:2", True, 5.0, True)),
        ("retry=0 disablereuse=On", Proxy("/c:2", True)),
    ],
)
def test_apache_retries_and_is_unavailable_for_retry(words: str, expected: Proxy):
    assert of("httpd", APACHE.format(words)) == expected == of("apache2", APACHE.format(words))


@pytest.mark.parametrize(
    ("probe", "subs", "expected"),
    [
        ("", "", Proxy("/c:2", False)),
        ("", "sub vcl_backend_error {\n return (retry);\n}", Proxy("/c:2", True)),
        ("", "sub vcl_backend_error { return (retry); }", Proxy("/c:2", True)),
        ("", "sub vcl_backend_error {\nif (1) {\n}\n return (retry);\n}", Proxy("/c:2", True)),
        ("", "sub vcl_backend_error { }\nsub vcl_backend_response {\n return (retry);\n}", Proxy("/c:2", False)),
        ("", "sub vcl_backend_error {\n # return (retry);\n}", Proxy("/c:2", False)),
        ("", "sub vcl_backend_response {\n return (retry);\n}", Proxy("/c:2", False)),
        (".probe = { .interval = 2s; .threshold = 4; }", "", Proxy("/c:2", False, 8.0)),
    ],
)
def test_varnish_retries_in_vcl_backend_error_only(probe: str, subs: str, expected: Proxy):
    assert of("varnishd", VARNISH.format(probe, subs)) == expected


def codes(*clients: Client, nginx_is_known: bool = False, **changes: Any) -> dict[str, bool]:
    policy = replace(POLICY, **changes)
    return {one.code: one.is_error for one in findings(group_clients(clients, PORTS), policy, nginx_is_known)}


CLOSES = "option http-server-close"


def haproxy(text: str = DEFAULTS.format(CLOSES, "", ""), address: str = "127.0.0.1") -> Client:
    return Client("haproxy", 7, address, files=(("/c", text),))


SAFE = DEFAULTS.format(CLOSES, "option redispatch", "")
POOLED = DEFAULTS.format("", "option redispatch", "")
ELSEWHERE = DEFAULTS.replace("127.0.0.1", "10.0.0.7").format(CLOSES, "", "")
CURL = Client("curl", 8, "127.0.0.1")
NGINX = Client("nginx", 9, "127.0.0.1")
FAR = Client("", address="10.0.0.9", is_local=False)
VOUCHED = BalancerPolicy(retries=True)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (haproxy(), {"balancer.retries": True}),
        (haproxy(address=""), {"balancer.retries": True}),  # its file names the ports; nothing is connected just now
        (haproxy(DEFAULTS.replace("127.0.0.1", "app.example").format(CLOSES, "", ""), ""), {"balancer.retries": True}),
        (haproxy(ELSEWHERE, address=""), {"balancer.retries": False}),  # the same port, on another host
        (haproxy(ELSEWHERE), {"balancer.retries": True}),  # that is this host: it is connected
        (haproxy(SAFE), {}),
        (haproxy(POOLED), {"balancer.keepalive": True}),
        (Client("haproxy", 7, ""), {}),  # runs, and nothing shows that it has to do with the group
        (Client("haproxy", 7, "127.0.0.1"), {"balancer.retries": True}),
        (Client("envoy", 7, "127.0.0.1"), {"balancer.retries": True}),
        (Client("apache2", 7, "127.0.0.1"), {}),
        (Client("apache2", 7, "", files=(("/c", APACHE.format("disablereuse=On")),)), {"balancer.unavailable": False}),
        (NGINX, {}),
        (CURL, {"balancer.unknown": False}),
        (FAR, {"balancer.unknown": False}),
    ],
)
def test_balancer_that_does_not_retry_is_an_error(client: Client, expected: dict[str, bool]):
    assert codes(client) == expected


def test_balancer_retries_true_is_believed():
    assert codes(haproxy(), FAR, CURL, balancer=VOUCHED) == {}
    assert codes(FAR, balancer=VOUCHED) == {}


def test_unknown_clients_beside_known_balancer_are_no_finding():
    assert codes(CURL, FAR, nginx_is_known=True) == codes(CURL, FAR, NGINX) == codes(CURL, haproxy(SAFE)) == {}


def test_unconnected_nginx_hides_no_unknown_client():
    assert codes(CURL, replace(NGINX, address="")) == {"balancer.unknown": False}


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        ((("/srv/n.conf", ""),), "set groups.app.balancer: {nginx: /srv/n.conf}"),
        (
            (),
            "set groups.app.balancer: {nginx: FILE}; FILE: what this nginx was started with, or what its nginx -T "
            "prints",
        ),
    ],
)
def test_connected_nginx_that_was_not_read_is_found(files: tuple[tuple[str, str], ...], fix: str):
    policy = replace(POLICY, min_ready_auto=True)
    found = group_clients([replace(NGINX, files=files), replace(NGINX, pid=10, address=""), CURL], PORTS)
    (one,) = unread(found, policy, "/etc/nginx/nginx.conf")
    assert (one.code, one.is_error, one.fix) == ("balancer.unread", False, fix)
    assert one.text.startswith(
        "nginx (pid 9) sends requests to the group, and its configuration was not read: /etc/nginx/nginx.conf, which "
        "was read, has no server with a port of the group. "
    )
    assert "so min_ready_seconds: auto is 10" in one.text
    assert list(unread(found, replace(policy, balancer=VOUCHED), "")) == []


def test_fix_of_haproxy_pool_is_gate_or_option():
    (found,) = findings(group_clients([haproxy(POOLED)], PORTS), POLICY, nginx_is_known=False)
    assert found.fix.startswith(
        "gate: {backend: haproxy, socket: …, backend_name: …} in rolling.yaml, or `option http-server-close` in the "
        "backend and a reload of HAProxy; or"
    )


def test_nothing_connected_finds_nothing():
    assert codes() == {}


def test_kept_connections_are_an_error_unless_policy_closes_them():
    pooled = Client("caddy", 7, "127.0.0.1", files=(("/c", CADDY.format("lb_retries 3")),))
    assert codes(pooled) == {"balancer.keepalive": True}
    assert codes(pooled, drain=DrainPolicy(keepalive="application")) == {}
    assert codes(haproxy(SAFE), drain=DrainPolicy(keepalive="nginx")) == {"balancer.keepalive": True}


def test_unknown_peer_is_named_with_the_key():
    (found,) = findings(group_clients([FAR], PORTS), POLICY, nginx_is_known=False)
    assert found.text.startswith("another host (10.0.0.9) connects to the group. It is not known whether")
    assert "so min_ready_seconds: auto is 10" in found.text
    assert "balancer: {retries: true}" in found.fix


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [
        ([haproxy(DEFAULTS.format(CLOSES, "", "check"))], 4.0),
        ([haproxy(), haproxy(DEFAULTS.format("", "", "check"))], 4.0),
        ([haproxy(), Client("envoy", 7, "127.0.0.1")], None),
        ([CURL], None),
    ],
)
def test_unavailability_is_known_where_all_are_read(clients: list[Client], seconds: float | None):
    assert group_clients(clients, PORTS).unavailable_for == (seconds and (seconds, "HAProxy, /c:6"))
