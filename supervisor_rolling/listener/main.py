"""The event listener: the program that does the rollouts.

Here is the only loop: wait for a death, an event, the end of something in the background, or until the next reconcile
is due; close what the deaths and events ask for; then reconcile. Between two reconciles the gate is checked, because
another program may flush the firewall. All gates are opened at the end of standard input (supervisord is gone) and on
SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from supervisor_rolling import __version__
from supervisor_rolling.core.policy import DEFAULT_FILE, Config, GatePolicy
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.text import printable_lines
from supervisor_rolling.listener.death_watch import PidfdDeaths
from supervisor_rolling.listener.event_protocol import Channel, Event, changes_in
from supervisor_rolling.listener.reconciler import Reconciler

log = logging.getLogger("supervisor_rolling")

USAGE = 2  # exit status

LONG_RECONCILE = 0.03
"""Seconds of CPU of a reconcile after which the next one waits for as long. Less, and the one that starts a rollout
would be among them: the next observation would come late, and take a client that got through the gate just closed for
an old one."""

NICENESS = -15
"""Of the listener. When a process dies, supervisord needs the CPU to start the next one while we need it to close the
gate. At equal priority the gate closes after 3 ms, with this one after 1.6 (medians, measured on two cores)."""

SWITCH_EVERY = 0.001
"""Seconds that another thread may run while the loop's thread waits for the interpreter. Python's default is 5 ms."""

EXIT_DELAY = 5.0
"""Seconds to wait before exiting with an error, unless supervisord exits: with ``startsecs = 0`` it starts the listener
at once. Where the plugin is loaded, it has a brake of its own (``plugin/listener_brake.py``)."""

LIBRARIES = {
    "iptc": "python-iptables (Debian: python3-iptables)",
    "requests": "requests (Debian: python3-requests)",
    "supervisor": "supervisor (Debian: supervisor)",
    "yaml": "PyYAML (Debian: python3-yaml)",
}
"""What to install for a module that cannot be imported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program ``supervisor_rolling_listener``. Returns its exit status."""
    try:
        status = _run(arguments)
    except SystemExit as exit_:  # argparse
        status = int(exit_.code or 0)
    except ImportError as error:
        log.error("%s", _not_importable(error), extra={"code": "listener.library"})  # noqa: TRY400 - a traceback tells no more
        status = 1
    except Exception:
        log.exception("a bug in supervisor_rolling: the listener exits, and supervisord starts it again")
        status = 1
    if status and not os.isatty(0):
        poll = select.poll()
        poll.register(0, 0)  # not for events, only for its end
        poll.poll(EXIT_DELAY * 1000)
    return status


def _not_importable(error: ImportError) -> str:
    """The sentence for the log."""
    library = LIBRARIES.get((error.name or "").partition(".")[0], "supervisor_rolling again")
    return f"the listener cannot start: {error}. Fix: install {library} for {sys.executable}"


def _run(arguments: Sequence[str] | None) -> int:
    options = _parse(arguments)
    if options.inspect:
        from supervisor_rolling.listener.inspection import answer

        print(answer(sys.stdin.read()))
        return 0
    url = os.environ.get("SUPERVISOR_SERVER_URL")
    if not url:
        sys.stderr.write(
            "SUPERVISOR_SERVER_URL is not set: supervisord starts this program, and sets it. Fix: add an "
            "[eventlistener:rolling] section, and a [unix_http_server] or [inet_http_server] section\n"
        )
        return USAGE
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=options.loglevel.upper(), handlers=[handler])
    _raise_priority()
    with _alarm_clock() as alarm:
        channel = Channel(0, _own_stdout(), time.monotonic)
        deaths = PidfdDeaths()
        reconciler = _reconciler(options.config, url, alarm.ring, deaths, channel)
        log.info("supervisor_rolling %s is running with %s", __version__, options.config)
        return _listen(channel, reconciler, alarm, deaths)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="supervisor_rolling_listener", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=DEFAULT_FILE, help="the policy (default: %(default)s)")
    parser.add_argument("--loglevel", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--inspect", action="store_true", help="look at this host for supervisor_rolling setup")
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def _reconciler(
    config_path: str, url: str, wake: Callable[[], None], deaths: PidfdDeaths, channel: Channel
) -> Reconciler:
    # Imported here, so that ``main`` can name a library that is missing.
    from supervisor_rolling.listener import config
    from supervisor_rolling.listener.assembly import Adapters, assemble
    from supervisor_rolling.listener.background import Threads
    from supervisor_rolling.listener.balancer_config import NginxConfigurations
    from supervisor_rolling.listener.client_discovery import ConnectedClients
    from supervisor_rolling.listener.drain_flags import FileFlags
    from supervisor_rolling.listener.drain_notification import HttpNotifications
    from supervisor_rolling.listener.gate_probe import ProbedPorts, RealGateProbes
    from supervisor_rolling.listener.gates import make_gate
    from supervisor_rolling.listener.gates.path import PathGate
    from supervisor_rolling.listener.history_file import FileHistory
    from supervisor_rolling.listener.hook_runner import CommandHooks
    from supervisor_rolling.listener.keepalive_closer import StatusLineRewriter
    from supervisor_rolling.listener.kernel_sockets import KernelSockets
    from supervisor_rolling.listener.policy_file import Policies
    from supervisor_rolling.listener.prometheus import PrometheusMetrics
    from supervisor_rolling.listener.request_sniffer import PacketSniffer
    from supervisor_rolling.listener.supervisor_client import XmlRpcSupervisor
    from supervisor_rolling.listener.warmup import HttpWarmups

    clock, sockets = time.monotonic, KernelSockets()
    owner = f"{os.uname().nodename} {url}"
    background = functools.partial(Threads, wake)
    policies = Policies(config_path, config.load, config.mark, background())

    def latest() -> Config:
        return policies.latest() or Config(GatePolicy(), {})

    def wait(fd: int, seconds: float) -> bool:
        """For supervisord's answer. What dies meanwhile is closed meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            readable = _readable([fd, deaths.fileno()], end - time.monotonic())
            if deaths.fileno() in readable:
                reconciler.on_deaths()
            if fd in readable:
                return True
        return False

    reconciler = assemble(
        Adapters(
            supervisor=XmlRpcSupervisor(
                os.environ, lambda: channel.key, wait=wait, problem=lambda: policies.problem, groups=policies.groups
            ),
            make_gate=lambda policy: make_gate(policy, owner, clock),
            path_gate=PathGate(url, clock),
            sockets=sockets,
            deaths=deaths,
            warmups=HttpWarmups(sockets, wake),
            notifications=HttpNotifications(sockets, wake),
            hooks=CommandHooks(wake),
            keepalive_closer=StatusLineRewriter(owner),
            request_sniffer=PacketSniffer(clock),
            drain_flags=FileFlags(os.environ, url),
            balancers=NginxConfigurations(clock, wake),
            clients=ConnectedClients(clock, wake),
            gate_probes=RealGateProbes(),
            spare_ports=ProbedPorts(wake),
            history=FileHistory(url, lambda: latest().history),
            metrics=PrometheusMetrics(lambda: latest().metrics.listen),
            load_config=policies.fresh,
            latest_config=policies.latest,
            background=background,
            clock=clock,
        )
    )
    return reconciler


def _readable(fds: Sequence[int], seconds: float) -> list[int]:
    """Wait for one of them, and return those that are readable. ``select`` itself knows no descriptor above 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)]


def _raise_priority() -> None:
    sys.setswitchinterval(SWITCH_EVERY)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except OSError as error:
        log.info(
            "running at the usual priority, so gates close a little later: %s. Fix: give the listener CAP_SYS_NICE",
            error,
        )


def _own_stdout() -> int:
    """A file descriptor for the protocol alone: what a library prints goes to the log instead."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    return protocol


class PlainFormatter(logging.Formatter):
    """Entries without control characters. Only the first line of an entry begins at the margin, so that a text from
    another program cannot look like an entry. One with ``extra={"code": …}`` names what explains it, as a bug does."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return with_see(super().formatMessage(record), getattr(record, "code", "bug" if record.exc_info else ""))

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return printable_lines(super().format(record)).replace("\n", "\n    ")


class Alarm:
    """Ends the loop's wait, from a signal handler or another thread."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self._writing = writing
        self.is_over = False  # the program is to exit

    def ring(self) -> None:
        """End the wait."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it rings already
            os.write(self._writing, b"!")

    def end(self, *_: object) -> None:
        """End the program, after the reconcile that runs."""
        self.is_over = True
        self.ring()

    def quiet(self) -> None:
        """Take note of all rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.reading, 4096)


@contextlib.contextmanager
def _alarm_clock() -> Iterator[Alarm]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    alarm = Alarm(reading, writing)
    previous = {number: signal.signal(number, alarm.end) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield alarm
    finally:  # a signal that comes later finds the pipe closed
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _listen(channel: Channel, reconciler: Reconciler, alarm: Alarm, deaths: PidfdDeaths) -> int:
    channel.begin()
    is_orphan = False
    try:
        is_orphan = _loop(channel, reconciler, alarm, deaths)
    finally:
        reconciler.release(is_orphan)
    return 0


def _loop(channel: Channel, reconciler: Reconciler, alarm: Alarm, deaths: PidfdDeaths) -> bool:
    """Until the program is to exit. Whether that is because supervisord is gone."""
    due = earliest = checked = time.monotonic()
    while not alarm.is_over:
        if time.monotonic() >= max(due, earliest):
            due, earliest = _reconciled(reconciler)
            checked = time.monotonic()
        elif time.monotonic() >= checked + reconciler.gate_interval():
            reconciler.check_gate()
            checked = time.monotonic()
        wait = min(max(due, earliest), checked + reconciler.gate_interval()) - time.monotonic()
        readable = _readable([deaths.fileno(), channel.fileno(), alarm.reading], wait)
        if deaths.fileno() in readable:
            due = min(due, time.monotonic() + reconciler.on_deaths())
        if alarm.reading in readable:
            alarm.quiet()
            due = 0.0
        events = channel.receive() if channel.fileno() in readable else channel.overdue()
        if events is None:
            log.info("supervisord has exited: opening all ports")
            return True
        if events:
            due = min(due, time.monotonic() + _due_after(reconciler, events))
    return False


def _reconciled(reconciler: Reconciler) -> tuple[float, float]:
    """Reconcile. When the next one is due, and the earliest that it may be: with a thousand processes a reconcile is
    long, and the listener's priority is higher than that of supervisord, for which it waits."""
    used = time.thread_time()
    pause = reconciler.reconcile()
    used = time.thread_time() - used
    return time.monotonic() + pause, time.monotonic() + (used if used >= LONG_RECONCILE else 0.0)


def _due_after(reconciler: Reconciler, events: list[Event]) -> float:
    """Seconds until a reconcile is due after these events: at once, unless they are only about processes."""
    changes = list(changes_in(events))
    soon = reconciler.on_events(changes)
    return soon if len(changes) == len(events) else 0.0


if __name__ == "__main__":
    sys.exit(main())
