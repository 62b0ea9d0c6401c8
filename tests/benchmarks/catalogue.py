"""The ways of restarting that are compared: add one here.

A way is the stack that it needs, what warms it, and what is run under load.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.benchmarks import ours
from tests.benchmarks.peers.registry import PEERS, Peer
from tests.support import ways
from tests.support.stack import Setup, Stack


@dataclass(frozen=True)
class Way:
    """``warm`` runs before the load begins, ``run`` under load. ``run`` may return the record of its rollout.

    ``side``: ours, or a peer's; none: no restart at all; extra: not compared, and measured only where
    it is named. ``deploys``: whether every process is of the new release afterwards. ``posts``: the share of POSTs in
    the load. ``is_own_master``: the processes are not supervisord's, but those of the one that it runs.
    """

    name: str
    about: str
    run: Callable[[Stack], Mapping[str, Any] | None]
    setup: Setup
    warm: Callable[[Stack], None]
    side: str = "peer"
    deploys: bool = True
    posts: float = 0.05
    is_own_master: bool = False


BACKENDS = ("iptables", "nftables", "haproxy")


def at_once(size: int) -> int:
    """How many go at a time where it is more than one: 2 of 8, 4 of 40."""
    return max(2, size // 10)


def all_ways(size: int, steady: float) -> list[Way]:
    """Of a group of so many, in the order of the table; ``steady``: seconds without a restart."""
    return [*_without_plugin(size, steady), *map(functools.partial(_of_peer, size), PEERS.items()), *_of_ours(size)]


def _without_plugin(size: int, steady: float) -> list[Way]:
    plain = Setup(processes=size)
    everywhere = replace(plain, address="0.0.0.0")
    haproxy = replace(plain, balancer="haproxy")
    serial = replace(plain, supervisor=ways.SERIAL_RESTART)

    def way(name: str, about: str, run: Callable[[Stack], None], setup: Setup = plain, **more: Any) -> Way:
        return Way(name, about, run, setup, Stack.warm, **more)

    post = {wait: functools.partial(ways.by_the_post, wait=wait) for wait in (1.0, 5.0)}
    return [
        way("steady", "no restart", functools.partial(_stay, steady), side="none", deploys=False),
        way("all", "supervisorctl restart app:*", ways.restart_all),
        way("each", "one restart after another", ways.restart_each, side="extra"),
        way("each-gets", "one restart after another, GETs alone", ways.restart_each, posts=0.0, side="extra"),
        way("serial", "supervisor-serialrestart", ways.serial_restart, serial),
        way("post-1s", "the post's script, 1 s", post[1.0], everywhere, side="extra"),
        way("post-5s", "the post's script, 5 s", post[5.0], everywhere),
        way("haproxy-each", "HAProxy, one restart after another", ways.restart_each, haproxy, side="extra"),
        way("haproxy-script", "a script that drains HAProxy", ways.by_haproxy, haproxy),
    ]


def _of_peer(size: int, named: tuple[str, Peer]) -> Way:
    name, peer = named
    return Way(name, peer.about, peer.reload, peer.setup(size), peer.prepare, is_own_master=True)


def _of_ours(size: int) -> list[Way]:
    def way(name: str, about: str, backend: str, many: int, run: Callable[..., Any] = ours.rollout, **more: Any) -> Way:
        setup = replace(ours.setup(backend), processes=size)
        rolled = functools.partial(run, at_a_time=many)
        return Way(name, about, rolled, setup, ours.warm, **{"side": "ours", **more})

    found = [
        way(f"ours-{backend}{suffix}", f"rolling_restart, {backend}, {many} at a time", backend, many)
        for backend in BACKENDS
        for suffix, many in (("", 1), ("-more", at_once(size)))
    ]
    alone = "rolling_restart, GETs alone, getState asked"
    extra = way("ours-gets", alone, "iptables", 1, ours.rollout_while_asked, posts=0.0, side="extra")
    return [*found, extra]


def _stay(seconds: float, _stack: Stack) -> None:
    time.sleep(seconds)
