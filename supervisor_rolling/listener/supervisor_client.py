"""supervisord over XML-RPC: the ``Supervisor`` of ``contracts.py``.

supervisor's own transport has no time-out and stays broken after a broken pipe, so every call here has a deadline
and a new connection follows any error. A supervisord with many processes takes its time to answer, so the wait for the
answer is handed in: the loop closes ports meanwhile. For one thread.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
import urllib.parse
import xmlrpc.client
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from xml.parsers.expat import ExpatError

from supervisor.xmlrpc import Faults, SupervisorTransport, UnixStreamHTTPConnection

from supervisor_rolling import __version__
from supervisor_rolling.codec import dump, dump_changes, load, struct_of
from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.errors import ConflictError, Fault, FaultError, NoKeyError, SupervisorError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.plugin_version import RESTART, version_problem
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Request, Snapshot, SnapshotQuery
from supervisor_rolling.core.text import plain, readable
from supervisor_rolling.packing import pack, unpack

T = TypeVar("T")
Wait = Callable[[int, float], bool]

CALL_TIMEOUT = 5.0
"""Seconds that supervisord has to answer. It takes a millisecond, unless it is stopped or the host is overloaded."""

HELLOS = 10
"""Requests for the key, one a second, before the log says that it does not come."""

PASSING_FAULTS = frozenset({Faults.ALREADY_STARTED, Faults.SPAWN_ERROR, Faults.ABNORMAL_TERMINATION})
"""Answers to an action that say no more than the next observation will: it came too late, or the process died."""


def nap(fd: int, seconds: float) -> bool:
    """Wait, and do nothing meanwhile."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class XmlRpcSupervisor:
    """supervisord's own methods and our mailbox, with faults translated into ``core/errors.py``."""

    def __init__(
        self,
        environment: Mapping[str, str],
        sent_key: Callable[[], str],  # the key in supervisord's last event with one; empty: there was none
        timeout: float = CALL_TIMEOUT,
        wait: Wait = nap,  # returns whether the descriptor became readable in so many seconds
        problem: Callable[[], str] = str,  # what is wrong with rolling.yaml, for rolling_status; empty: nothing
        groups: Callable[[], Iterable[str]] = tuple,  # those of rolling.yaml, in its order
    ) -> None:
        self._environment = environment
        self._sent_key = sent_key
        self._key = ""
        self._refused_key = ""
        self._hellos = 0
        self._has_same_version = False  # as the plugin, which stays the same for as long as this listener runs
        self._timeout = timeout
        self._wait = wait
        self._problem = problem
        self._groups = groups
        self._proxy: xmlrpc.client.ServerProxy | None = None
        self._rollouts: dict[str, tuple[int, Rollout]] = {}
        self._guard_states: dict[str, tuple[int, GuardState]] = {}
        self._table = _Table()

    def observe(self, guarded: Collection[str]) -> Snapshot:
        """See ``Supervisor.observe``."""
        self._check_version()
        known = SnapshotQuery(
            _versions(self._rollouts),
            _versions(self._guard_states),
            self._table.number,
            tuple(sorted(guarded)),
            plain(self._problem()),
            tuple(self._groups()),
        )
        news = json.loads(unpack(self._own("listenerObserve", struct_of(known))))
        self._rollouts = _updated(self._rollouts, news["rollouts"], news["rollout_groups"], partial(load, Rollout))
        self._guard_states = _updated(
            self._guard_states, news["guard_states"], news["guarded_groups"], partial(load, GuardState)
        )
        requests = load(tuple[Request, ...], news["requests"])
        processes = self._table.updated(news["table"], news["processes"], time.monotonic())
        guard_states = {group: guard_state for group, (_, guard_state) in self._guard_states.items()}
        return Snapshot(dict(self._rollouts), requests, processes, news["idle"], guard_states)

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        """See ``Supervisor.record``."""
        known = self._rollouts.get(rollout.group)
        text = dump_changes(rollout, known[1]) if known and known[0] == version else dump(rollout)
        version = self._own("listenerRecord", rollout.group, version, pack(text), request)
        self._rollouts[rollout.group] = (version, rollout)

    def guard(self, guard_state: GuardState) -> None:
        """See ``Supervisor.guard``."""
        self._guard_states[guard_state.group] = (
            self._own("listenerGuard", guard_state.group, pack(dump(guard_state))),
            guard_state,
        )

    def unguard(self, group: str) -> None:
        """See ``Supervisor.unguard``."""
        self._own("listenerGuard", group, "")
        self._guard_states.pop(group, None)

    def refuse(self, request: int, code: int, text: str) -> None:
        """See ``Supervisor.refuse``."""
        self._own("listenerAnswer", request, code, plain(text), "")

    def plan(self, request: int, rollout: Rollout) -> None:
        """Answer a dry run."""
        self._own("listenerAnswer", request, 0, "", pack(dump(rollout)))

    def report(self, request: int, report: Report) -> None:
        """Answer a check."""
        self._own("listenerAnswer", request, 0, "", pack(dump(report)))

    def answer(self, request: int, answer: RolloutView | Sequence[RolloutView]) -> None:
        """Answer a request for a record or a history."""
        self._own("listenerAnswer", request, 0, "", pack(dump(answer)))

    def action(self, group: str, actions: Sequence[Action]) -> Sequence[Outcome]:
        """See ``Supervisor.action``. One call for a few: each costs supervisord a pass over all its processes."""
        given = [struct_of(one) for one in actions]
        return [_outcome(answer["code"], answer["text"]) for answer in self._own("listenerAct", group, given)]

    def _own(self, method: str, *arguments: Any) -> Any:
        """Call a method that is the listener's own. Raises NoKeyError until supervisord has sent the key."""
        if not self._key:
            self._take_key()
        try:
            return self._call(f"rolling.{method}", self._key, *arguments)
        except FaultError as error:
            if error.fault != Fault.LISTENER_ONLY:
                raise
            self._key, self._refused_key = "", self._key
            raise NoKeyError("supervisord has another key than this listener") from None

    def _check_version(self) -> None:
        """Raise SupervisorError where supervisord has another version of the plugin loaded: it has other fields. Before
        the first observation, so that this listener does not count as running."""
        if self._has_same_version:
            return
        loaded = str(self._call("rolling.getListener").get("version", ""))
        problem = version_problem(loaded, __version__, "listener", is_stalled=True)
        if problem:
            raise SupervisorError(f"{problem}. Fix: {RESTART}", "plugin.version")
        self._has_same_version = True

    def _take_key(self) -> None:
        """A key that works is kept, whatever comes later: other programs can write where events come from."""
        sent = self._sent_key()
        if sent and sent != self._refused_key:
            self._key, self._hellos = sent, 0
            return
        self._call("rolling.listenerHello")
        self._hellos += 1
        if self._hellos > HELLOS:
            raise SupervisorError(
                "supervisord sends this listener no key, so rollouts and the crash guard are stalled. Fix: add "
                "ROLLING_REQUEST to events= in its section; if it is there, supervisorctl restart rolling",
                "listener.key",
            )
        raise NoKeyError("supervisord has not sent the key yet")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            if self._proxy is None:
                self._proxy = _proxy(self._environment, self._timeout, self._wait)
            namespace, name = method.split(".")
            return getattr(getattr(self._proxy, namespace), name)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise _translated(method, fault) from None
        except xmlrpc.client.ProtocolError as error:
            self._proxy = None
            raise SupervisorError(_protocol_text(error), "listener.password" if error.errcode == 401 else "") from None
        except PermissionError:
            self._proxy = None
            url = self._environment["SUPERVISOR_SERVER_URL"]
            raise SupervisorError(
                f"the listener's user has no permission for supervisord's socket {url}. Fix: chown = root:GROUP and "
                "chmod = 0770 in [unix_http_server], with a group of that user",
                "listener.socket",
            ) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError, ValueError) as error:
            self._proxy = None
            url = self._environment["SUPERVISOR_SERVER_URL"]
            raise SupervisorError(f"supervisord does not answer at {url}: {error or type(error).__name__}") from None


class _Table:
    """The process table, put together from the changes in each observation. Between two, a process that is not RUNNING
    ages."""

    def __init__(self) -> None:
        self.number = 0
        self._groups: dict[str, dict[str, Process]] = {}
        self._down: dict[str, dict[str, tuple[float, Process]]] = {}

    def updated(
        self, number: int, news: Mapping[str, tuple[bool, list[list[Any]]]], now: float
    ) -> dict[str, dict[str, Process]]:
        """The table after the observation of this number. ``news``: ``{group: [is the whole group, rows]}``."""
        self.number = number
        groups = {group: ({} if whole else dict(self._groups[group])) for group, (whole, _) in news.items()}
        down = {group: ({} if whole else self._down[group]) for group, (whole, _) in news.items()}
        for group, (_, rows) in news.items():
            for process in (Process(*row) for row in rows):
                groups[group][process.name] = process
                down[group].pop(process.name, None)
                if process.state != "RUNNING":
                    down[group][process.name] = (now, process)
            groups[group].update({name: _aged(process, now - at) for name, (at, process) in down[group].items()})
        self._groups, self._down = groups, down
        return groups


def _aged(process: Process, seconds: float) -> Process:
    return replace(
        process,
        down_for=process.down_for + seconds if process.down_for else 0.0,
        running_in=max(0.0, process.running_in - seconds),
        up_for=process.up_for + seconds,
        stop_took=process.stop_took + (seconds if process.state == "STOPPING" else 0.0),
    )


def _versions(records: Mapping[str, tuple[int, Any]]) -> dict[str, int]:
    return {group: version for group, (version, _) in records.items()}


def _updated(
    known: Mapping[str, tuple[int, T]], news: Mapping[str, tuple[int, Any]], there: list[str], load: Callable[[Any], T]
) -> dict[str, tuple[int, T]]:
    """The records after an observation: the new ones, and those of the others that are still there."""
    fresh = {group: (version, load(data)) for group, (version, data) in news.items()}
    return {group: fresh[group] if group in fresh else known[group] for group in there}


class _Transport(SupervisorTransport):
    """supervisor's transport, with a deadline for every read and write, and a wait of ours."""

    def __init__(self, username: str, password: str, url: str, timeout: float, wait: Wait) -> None:
        SupervisorTransport.__init__(self, username, password, url)
        self._get_connection = lambda: _connection(url, timeout, wait)


class _TcpConnection(http.client.HTTPConnection):
    wait: Wait = staticmethod(nap)

    def getresponse(self) -> http.client.HTTPResponse:
        if not self.wait(self.sock.fileno(), self.timeout or CALL_TIMEOUT):
            raise TimeoutError("timed out")
        return super().getresponse()


class _UnixConnection(UnixStreamHTTPConnection, _TcpConnection):
    """supervisor's connection over a unix socket, with the deadline that the original lacks."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socketfile)


def _connection(url: str, timeout: float, wait: Wait) -> http.client.HTTPConnection:
    connection: Any
    if url.startswith("unix://"):
        connection = _UnixConnection("localhost", timeout=timeout)
        connection.socketfile = url[len("unix://") :]
    else:
        parsed = urllib.parse.urlsplit(url)
        connection = _TcpConnection(parsed.hostname or "", parsed.port or 80, timeout=timeout)
    connection.wait = wait
    return connection


def _proxy(environment: Mapping[str, str], timeout: float, wait: Wait) -> xmlrpc.client.ServerProxy:
    user, password = environment.get("SUPERVISOR_USERNAME", ""), environment.get("SUPERVISOR_PASSWORD", "")
    transport = _Transport(user, password, environment["SUPERVISOR_SERVER_URL"], timeout, wait)
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport)  # the transport knows the real address


def _translated(method: str, fault: xmlrpc.client.Fault) -> SupervisorError:
    if fault.faultCode == Fault.CONFLICT:
        return ConflictError(fault.faultString)
    if fault.faultCode == Faults.UNKNOWN_METHOD and method.startswith("rolling."):
        return SupervisorError(
            "supervisord has not loaded the plugin, or an older version. Fix: add [rpcinterface:rolling] to its "
            "configuration and restart it (supervisorctl reload; after an update of the plugin, stop and start it)",
            "plugin.missing",
        )
    if fault.faultCode == Faults.SHUTDOWN_STATE:
        return SupervisorError("supervisord is shutting down")
    return FaultError(readable(fault.faultString, "utf-8"), fault.faultCode)


def _outcome(code: int, text: str) -> Outcome:
    """Of one action; ``code`` 0: it was carried out."""
    return Outcome(
        "" if code in PASSING_FAULTS else readable(text, "utf-8"), already_stopped=code == Faults.NOT_RUNNING
    )


def _protocol_text(error: xmlrpc.client.ProtocolError) -> str:
    if error.errcode == 401:
        return (
            "supervisord requires a user and a password. Fix: add environment = "
            'SUPERVISOR_USERNAME="…",SUPERVISOR_PASSWORD="…" to the section of the listener'
        )
    return f"supervisord answered HTTP {error.errcode} {error.errmsg}: see its log"
