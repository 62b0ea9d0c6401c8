"""Load balancers other than nginx, the real ones: which are refused, and that those that retry fail no request."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.balancers import CADDY, CADDY_NO_POOL, HAPROXY_NO_POOL, RETRYING, VARNISH_NO_POOL
from tests.support.look import all_open, assert_no_failures, pids, rolling, users
from tests.support.stack import Stack
from tests.support.variants import first

pytestmark = pytest.mark.needs("balancers")

REFUSED = {
    "Debian's haproxy.cfg": ("plain-haproxy", HAPROXY_NO_POOL, "HAProxy", "gate: {backend: haproxy"),
    "Caddy's defaults": ("caddy", CADDY_NO_POOL, "Caddy", "lb_retries 3, lb_try_duration 5s"),
    "Varnish's defaults": ("varnish", VARNISH_NO_POOL, "Varnish", "sub vcl_backend_error { return (retry); }"),
}


def behind(light: Callable[..., Stack], balancer: str, upstream: str, peer: str = "", **policy: object) -> Stack:
    """A group behind a load balancer of tests.support.balancers, with the min_ready_seconds that it needs."""
    setup = {"balancer": balancer, "upstream": upstream, "peer": peer}
    return light(setup=setup, **{"min_ready_seconds": "auto", **policy})


@pytest.mark.parametrize("name", first(1, reversed(REFUSED)))
def test_balancer_without_retry_refuses_the_rollout(light: Callable[..., Stack], name: str):
    balancer, upstream, title, fix = REFUSED[name]
    stack = behind(light, balancer, upstream)
    before = pids(stack)
    with users(stack, rate=40.0) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 1, done.stdout
    assert f"{title} sends requests to the group, and does not try another server" in done.stdout
    assert fix in done.stdout
    assert pids(stack) == before
    assert_no_failures(load.report())


@pytest.mark.parametrize("name", RETRYING)
def test_balancer_that_retries_fails_no_request(light: Callable[..., Stack], name: str):
    stack = behind(light, *RETRYING[name])
    before = pids(stack)
    with users(stack, rate=40.0, posts=0.3) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    assert not set(before) & set(pids(stack))


@pytest.mark.parametrize("balancer", first(1, ["caddy", "plain-haproxy"]))
def test_keepalive_nginx_behind_another_balancer_stops_and_opens(light: Callable[..., Stack], balancer: str):
    """Forced: a check refuses it. Both keep a connection after HTTP/1.0 where the application says keep-alive."""
    upstream = {
        "caddy": CADDY.replace(CADDY_NO_POOL, ""),
        "plain-haproxy": "option redispatch 1\n    http-reuse always",
    }[balancer]
    drain = {"timeout": 30, "keepalive": "nginx", "idle_after": 25}
    stack = behind(light, balancer, upstream, drain=drain)
    before = pids(stack)
    with users(stack, rate=60.0, posts=0.3) as load:
        done = stack.ctl("rolling_restart", "app", "--force")
    assert done.returncode == 1, done.stdout
    assert "connections that an HTTP/1.0 answer should have closed (from " in done.stdout
    assert rolling(stack)["seconds"] < 10.0
    assert pids(stack) == before
    assert_no_failures(load.report())
    assert all_open(stack)


def test_pool_of_another_balancer_is_named_with_fix(light: Callable[..., Stack]):
    stack = behind(light, "caddy", CADDY.replace(CADDY_NO_POOL, ""))
    with users(stack, rate=60.0):
        checked = stack.ctl("rolling_check", "app").stdout
        done = stack.ctl("rolling_restart", "app", "--force")
    assert "error: balancer.keepalive" in checked
    assert "from Caddy at 127.0.0.1:" in done.stdout
    assert "for Caddy: keepalive off in the block transport http of reverse_proxy" in done.stdout


@pytest.mark.soak
def test_operator_vouches_for_unreadable_balancer(light: Callable[..., Stack]):
    """Its configuration is moved away: nothing shows then that it retries."""
    stack = behind(light, "caddy", CADDY)
    (stack.directory / "caddy.conf").unlink()
    policy = stack.directory / "rolling.yaml"
    with users(stack, rate=40.0) as load:
        refused = stack.ctl("rolling_check", "app").stdout
        text = policy.read_text(encoding="utf-8")
        policy.write_text(text.replace("retries: false", "retries: true"), encoding="utf-8")
        checked = stack.ctl("rolling_check", "app").stdout
        done = stack.ctl("rolling_restart", "app", "--max-unavailable", "3")
    assert "error: balancer.retries: caddy (pid " in refused
    assert "balancer." not in checked
    assert done.returncode == 0, done.stdout
    assert re.search("never fewer than [1-3] of 4 open", done.stdout), done.stdout
    assert_no_failures(load.report())


@pytest.mark.parametrize(
    ("peer", "min_ready_seconds"), first(1, [("retry=2 disablereuse=On", 2), ("retry=0 disablereuse=On", 0)])
)
def test_rollout_waits_as_long_as_apache_shuns(light: Callable[..., Stack], peer: str, min_ready_seconds: int):
    stack = behind(light, "apache2", "", peer)
    with users(stack, rate=40.0) as load:
        done = stack.ctl("rolling_restart", "app")
    assert re.search("never fewer than [1-3] of 4 available", done.stdout), (
        done.stdout
    )  # the guard's process may not be counted yet
    assert min(process["ready"] for process in rolling(stack)["processes"]) >= min_ready_seconds
    assert_no_failures(load.report())
