"""The event listener: the program that rollouts.

Here the parts are put together, and here is the only loop: wait for a death, an event, the end of a warm-up or until
the next turn is due; close what has died or what the event says; then take a turn. Between two turns what is closed is
looked at, because another program may flush the firewall. At the end of standard input
(supervisord is gone) and on SIGTERM all gates are opened.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from supervisor_rolling import __version__
from supervisor_rolling.core.policy import Config, GatePolicy
from supervisor_rolling.core.text import printable_lines
from supervisor_rolling.listener.death_watch import PidfdDeaths
from supervisor_rolling.listener.event_protocol import Channel, Event, changes_in
from supervisor_rolling.listener.policy_file import Policies
from supervisor_rolling.listener.reconciler import Reconciler

log = logging.getLogger("supervisor_rolling")

DEFAULT_CONFIG = "/etc/supervisor/rolling.yaml"
USAGE = 2  # exit status

LONG_TURN = 0.03
"""Seconds on the processor of a turn after which it is left to others for as long. Less, and the turn that begins a
rollout would be among them: the look after it would come late, and take for old who got through a gate just closed."""

NICENESS = -15
"""Of the listener. When a process dies, supervisord wants the processor to start the next one in the same moment as we
want it to close the gate: at equal rank the gate closes after 3 ms, so after 1.6 (medians; measured on two cores)."""

SWITCH_EVERY = 0.001
"""Seconds that a warm-up's thread may go on while the turn's thread waits for the interpreter; Python has 5 ms."""

AGAIN_AFTER = 1.0
"""Seconds to wait before an end with an error: with ``startsecs = 0`` supervisord starts the listener again at once."""

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
        log.error("%s", _not_importable(error))  # noqa: TRY400 - a traceback tells no more
        status = 1
    except Exception:  # the end of the program: nobody is left to catch it, and supervisord would start it at once
        log.exception("the listener cannot go on")
        status = 1
    if status and not os.isatty(0):
        time.sleep(AGAIN_AFTER)
    return status


def _not_importable(error: ImportError) -> str:
    """The sentence for the log."""
    library = LIBRARIES.get((error.name or "").partition(".")[0], "supervisor_rolling again")
    return f"the listener cannot start: {error}. Fix: install {library} for {sys.executable}"


def _run(arguments: Sequence[str] | None) -> int:
    options = _parse(arguments)
    url = os.environ.get("SUPERVISOR_SERVER_URL")
    if not url:
        sys.stderr.write(
            "supervisor_rolling_listener is started by supervisord, from an [eventlistener:rolling] section, and talks "
            "to its [unix_http_server] or [inet_http_server]: SUPERVISOR_SERVER_URL is not set, so one is missing\n"
        )
        return USAGE
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLog("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=options.loglevel.upper(), handlers=[handler])
    _make_haste()
    with _alarm_clock() as alarm:
        channel = Channel(0, _own_stdout(), time.monotonic)
        deaths = PidfdDeaths()
        reconciler = _reconciler(options.config, url, alarm.ring, deaths, channel)
        log.info("supervisor_rolling %s listens, policy in %s", __version__, options.config)
        return _listen(channel, reconciler, alarm, deaths)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="supervisor_rolling_listener", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="the policy (default: %(default)s)")
    parser.add_argument("--loglevel", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def _reconciler(
    config_path: str, url: str, ring: Callable[[], None], deaths: PidfdDeaths, channel: Channel
) -> Reconciler:
    # Imported here: where a library is missing, ``main`` says so.
    from supervisor_rolling.listener import config
    from supervisor_rolling.listener.balancer_config import NginxConfigurations
    from supervisor_rolling.listener.client_discovery import ConnectedClients
    from supervisor_rolling.listener.drain_flags import FileFlags
    from supervisor_rolling.listener.drain_notification import HttpNotifications
    from supervisor_rolling.listener.gate_probe import RealGateProbes
    from supervisor_rolling.listener.gatekeeper import Gatekeeper
    from supervisor_rolling.listener.gates import make_gate
    from supervisor_rolling.listener.history_file import FileHistory
    from supervisor_rolling.listener.hook_runner import CommandHooks
    from supervisor_rolling.listener.keepalive_closer import StatusLineRewriter
    from supervisor_rolling.listener.kernel_sockets import KernelSockets
    from supervisor_rolling.listener.prometheus import PrometheusMetrics
    from supervisor_rolling.listener.request_sniffer import PacketSniffer
    from supervisor_rolling.listener.supervisor_client import XmlRpcSupervisor
    from supervisor_rolling.listener.warmup import HttpWarmups

    sockets = KernelSockets()
    owner = f"{os.uname().nodename} {url}"
    policies = Policies(config_path, config.load, config.mark)

    def wait(fd: int, seconds: float) -> bool:
        """For supervisord's answer; who dies meanwhile is closed meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            readable = _readable([fd, deaths.fileno()], end - time.monotonic())
            if deaths.fileno() in readable:
                reconciler.notice_deaths()
            if fd in readable:
                return True
        return False

    reconciler = Reconciler(
        supervisor=XmlRpcSupervisor(os.environ, lambda: channel.key, wait=wait, problem=lambda: policies.problem),
        sockets=sockets,
        warmups=HttpWarmups(sockets, ring),
        gatekeeper=Gatekeeper(lambda policy: make_gate(policy, owner, time.monotonic)),
        load_config=policies.fresh,
        latest_config=policies.latest,
        deaths=deaths,
        clock=time.monotonic,
        notifications=HttpNotifications(sockets, ring),
        keepalive_closer=StatusLineRewriter(owner),
        flags=FileFlags(os.environ, url),
        request_sniffer=PacketSniffer(time.monotonic),
        balancers=NginxConfigurations(time.monotonic, ring),
        gate_probes=RealGateProbes(),
        hooks=CommandHooks(ring),
        history=FileHistory(url, lambda: _latest(policies).history),
        metrics=PrometheusMetrics(lambda: _latest(policies).metrics.listen),
        clients=ConnectedClients(time.monotonic, ring),
    )
    return reconciler


def _latest(policies: Policies) -> Config:
    """The last good one; where there has been none, what holds where nothing is said."""
    return policies.latest() or Config(GatePolicy(), {})


def _readable(fds: Sequence[int], seconds: float) -> list[int]:
    """Those that are, at once or when one is; ``select`` itself knows no file descriptor above 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)]


def _make_haste() -> None:
    sys.setswitchinterval(SWITCH_EVERY)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except OSError as error:
        log.info("runs at the usual priority, so gates close a little later: %s (CAP_SYS_NICE would allow it)", error)


def _own_stdout() -> int:
    """A file descriptor for the protocol alone: what a library prints by mistake goes to the log instead."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    return protocol


class PlainLog(logging.Formatter):
    """Entries without control characters. Only the first line of an entry begins at the margin, so that a text that
    another program sent cannot look like an entry."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return printable_lines(super().format(record)).replace("\n", "\n    ")


class Alarm:
    """Ends the loop's wait: from a signal handler or another thread. ``is_over`` says that it is time to go."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self._writing = writing
        self.is_over = False

    def ring(self) -> None:
        """End the wait."""
        with contextlib.suppress(BlockingIOError):  # full: it rings already
            os.write(self._writing, b"!")

    def end(self, *_: object) -> None:
        """End the program, after the turn that runs."""
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
    reconciler.begin()
    is_orphan = False
    try:
        is_orphan = _loop(channel, reconciler, alarm, deaths)
    finally:
        reconciler.release(is_orphan)
    return 0


def _loop(channel: Channel, reconciler: Reconciler, alarm: Alarm, deaths: PidfdDeaths) -> bool:
    """Until it is time to go. Whether that is because supervisord is gone."""
    due = rested = looked = time.monotonic()
    while not alarm.is_over:
        if time.monotonic() >= max(due, rested):
            due, rested = _turned(reconciler)
            looked = time.monotonic()
        elif time.monotonic() >= looked + reconciler.gate_pause():
            reconciler.look_at_gate()
            looked = time.monotonic()
        wait = min(max(due, rested), looked + reconciler.gate_pause()) - time.monotonic()
        readable = _readable([deaths.fileno(), channel.fileno(), alarm.reading], wait)
        if deaths.fileno() in readable:
            due = min(due, time.monotonic() + reconciler.notice_deaths())
        if alarm.reading in readable:
            alarm.quiet()
            due = 0.0
        events = channel.receive() if channel.fileno() in readable else channel.overdue()
        if events is None:
            log.info("supervisord has closed the connection: all gates are opened")
            return True
        if events:
            due = min(due, time.monotonic() + _due_after(reconciler, events))
    return False


def _turned(reconciler: Reconciler) -> tuple[float, float]:
    """Take a turn. When the next one is due, and when the earliest may be: with a thousand processes a turn is long,
    and the priority of the listener is higher than that of supervisord, which it waits for."""
    used = time.thread_time()
    pause = reconciler.turn()
    used = time.thread_time() - used
    return time.monotonic() + pause, time.monotonic() + (used if used >= LONG_TURN else 0.0)


def _due_after(reconciler: Reconciler, events: list[Event]) -> float:
    """Seconds until a turn is due because of these events: at once, but where they only tell of processes."""
    changes = list(changes_in(events))
    soon = reconciler.hear(changes)
    return soon if len(changes) == len(events) else 0.0


if __name__ == "__main__":
    sys.exit(main())
