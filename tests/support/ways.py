"""The ways of restarting that there were before: what an operator or a script does with a running stack.

Each takes the stack and returns when it is done. They check as little as such scripts do, except that a restart that
supervisorctl reports as failed raises StackError: the numbers of a way that did not restart would be void.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import time
from collections.abc import Iterator

from tests.support import haproxy
from tests.support.stack import GROUP, Process, Stack, StackError, answers

WARM_ADDRESS = "127.0.0.2"
"""Where the post's script reaches a process that is closed on 127.0.0.1; the application binds 0.0.0.0 for it."""

DISABLE_PORT = 9
"""The post's "known unused port" (discard)."""

SERVE_WITHIN = 30.0
DRAIN_WITHIN = 30.0
SERIAL_WITHIN = 900.0

SERIAL_RESTART = """\
[ctlplugin:serialrestart]
supervisor.ctl_factory = supervisorserialrestart.controllerplugin:make_serialrestart_controllerplugin
"""
"""The section that supervisor-serialrestart wants, by its README."""


def restart_all(stack: Stack) -> None:
    """``supervisorctl restart app:*``."""
    _restart(stack, f"{GROUP}:*")


def restart_each(stack: Stack) -> None:
    """One ``supervisorctl restart app:X`` after another."""
    for process in stack.processes():
        _restart(stack, process.name)


def serial_restart(stack: Stack) -> None:
    """``supervisorctl serialrestart app:*``, of the plugin of that name; in whatever order it takes."""
    done = stack.ctl("serialrestart", f"{GROUP}:*", timeout=SERIAL_WITHIN)
    if done.returncode != 0 or "ERROR" in done.stdout or done.stdout.count(": started") != stack.setup.processes:
        raise StackError(f"supervisorctl serialrestart: {done.stdout}{done.stderr}")


def by_haproxy(stack: Stack) -> None:
    """What a script does with HAProxy's runtime API, one process after another: ``set server … state drain``, wait
    until ``show stat`` has no request of it, restart, warm up, ``state ready``."""
    for process in stack.processes():
        server = f"{haproxy.BACKEND}/{process.name.partition(':')[2]}"
        haproxy.ask(stack, f"set server {server} state drain")
        stack.wait_until(functools.partial(_has_none, stack, process), DRAIN_WITHIN, f"{server} is drained")
        _restart(stack, process.name)
        serves = functools.partial(answers, process.port)
        stack.wait_until(serves, SERVE_WITHIN, f"port {process.port} serves")
        stack.warm([process.port])
        haproxy.ask(stack, f"set server {server} state ready")


def _has_none(stack: Stack, process: Process) -> bool:
    found = haproxy.statistics(stack)[process.name.partition(":")[2]]
    return found["scur"] == found["qcur"] == "0"


def by_the_post(stack: Stack, wait: float) -> None:
    """The post's steps, one process after another: close the port, wait, restart, warm up, open.

    ``wait`` seconds for what is in flight: the post reckons with 1 and takes 5. It needs a stack whose application
    binds 0.0.0.0.
    """
    for process in stack.processes():
        with closed(process.port):
            time.sleep(wait)
            _restart(stack, process.name)
            serves = functools.partial(answers, process.port, WARM_ADDRESS)
            stack.wait_until(serves, SERVE_WITHIN, f"{WARM_ADDRESS}:{process.port} serves")
            stack.warm([process.port], WARM_ADDRESS)


@contextlib.contextmanager
def closed(port: int) -> Iterator[None]:
    """The post's rule, word for word, while the block lasts."""
    rule = f"OUTPUT --src 0/0 --dst 127.0.0.1 -p tcp --dport {port} -j REDIRECT --to-ports {DISABLE_PORT}".split()
    _iptables("-I", *rule)
    try:
        yield
    finally:
        _iptables("-D", *rule)


def _restart(stack: Stack, name: str) -> None:
    done = stack.ctl("restart", name)
    if done.returncode != 0 or "ERROR" in done.stdout:
        raise StackError(f"supervisorctl restart {name}: {done.stdout}{done.stderr}")


def _iptables(*arguments: str) -> None:
    program = shutil.which("iptables-legacy") or "iptables"
    done = subprocess.run(
        [program, "-w", "5", "-t", "nat", *arguments], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode != 0:
        raise StackError(f"{program} -t nat {' '.join(arguments)}: {done.stderr}")
