"""supervisord over XML-RPC, as the listener needs it: one look, one record, two orders.

supervisor's own transport has no time-out and stays broken after a broken pipe, so every call here has a deadline
and a new connection follows any error. For one thread only.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.parse
import xmlrpc.client
from collections.abc import Mapping
from typing import Any
from xml.parsers.expat import ExpatError

from supervisor.options import make_namespec
from supervisor.xmlrpc import Faults, SupervisorTransport, UnixStreamHTTPConnection

from supervisor_rolling.errors import ConflictError, Fault, SupervisorError
from supervisor_rolling.model import Process, Request, Roll, World
from supervisor_rolling.wire import dump_roll, load_roll

CALL_TIMEOUT = 5.0
"""Seconds that supervisord has to answer: it answers in a millisecond, unless it is stopped or the host is on its
knees."""

PASSING_FAULTS = frozenset(
    {Faults.ALREADY_STARTED, Faults.NOT_RUNNING, Faults.SPAWN_ERROR, Faults.ABNORMAL_TERMINATION}
)
"""Answers to an order that say no more than the next look will: it came too late, or the process died at once."""


class XmlRpcSupervisor:
    """The ``Supervisor`` of ``contracts.py``: supervisord's own methods and our mailbox, with faults translated
    into ``errors.py``."""

    def __init__(self, environment: Mapping[str, str], timeout: float = CALL_TIMEOUT) -> None:
        self._environment = environment
        self._timeout = timeout
        self._proxy: xmlrpc.client.ServerProxy | None = None
        self._rolls: dict[str, tuple[int, Roll]] = {}

    def look(self) -> World:
        """Everything at once. Raises SupervisorError where there is no answer, or no plugin."""
        known = {group: version for group, (version, _) in self._rolls.items()}
        news = json.loads(self._call("rolling.listenerLook", os.getpid(), known))
        for group, (version, roll) in news["rolls"].items():
            self._rolls[group] = (version, load_roll(roll))
        self._rolls = {group: self._rolls[group] for group in news["groups"]}
        requests = tuple(_request(data) for data in news["requests"])
        processes = {g: {row[0]: Process(*row) for row in rows} for g, rows in news["processes"].items()}
        return World(dict(self._rolls), requests, processes, news.get("idle", 0.0))

    def record(self, roll: Roll, version: int, request: int = 0) -> None:
        """Write a roll on top of the version that was looked at. Raises ConflictError when somebody else wrote
        since."""
        version = self._call("rolling.listenerRecord", roll.group, version, dump_roll(roll), request)
        self._rolls[roll.group] = (version, roll)

    def refuse(self, request: int, code: int, text: str) -> None:
        """Tell whoever asked that it cannot be done, and why."""
        self._call("rolling.listenerAnswer", request, code, _ascii(text), "")

    def plan(self, request: int, roll: Roll) -> None:
        """Answer a dry run."""
        self._call("rolling.listenerAnswer", request, 0, "", dump_roll(roll))

    def stop(self, group: str, name: str) -> str:
        """Order a stop. Returns why supervisord refuses for good, or nothing."""
        return self._order("supervisor.stopProcess", group, name)

    def start(self, group: str, name: str) -> str:
        """Order a start. Returns why supervisord refuses for good, or nothing."""
        return self._order("supervisor.startProcess", group, name)

    def _order(self, method: str, group: str, name: str) -> str:
        try:
            self._call(method, make_namespec(group, name), False)
        except _FaultError as error:
            return "" if error.code in PASSING_FAULTS else str(error)
        return ""

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            if self._proxy is None:
                self._proxy = _proxy(self._environment, self._timeout)
            namespace, name = method.split(".")
            return getattr(getattr(self._proxy, namespace), name)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise _translated(method, fault) from None
        except xmlrpc.client.ProtocolError as error:
            self._proxy = None
            raise SupervisorError(_protocol_text(error)) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError, ValueError) as error:
            self._proxy = None
            url = self._environment["SUPERVISOR_SERVER_URL"]
            raise SupervisorError(f"supervisord does not answer at {url}: {error or type(error).__name__}") from None


class _FaultError(SupervisorError):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Transport(SupervisorTransport):
    """supervisor's transport, with a deadline for every read and write."""

    def __init__(self, username: str, password: str, url: str, timeout: float) -> None:
        SupervisorTransport.__init__(self, username, password, url)
        self._get_connection = lambda: _connection(url, timeout)


class _UnixConnection(UnixStreamHTTPConnection):
    """supervisor's connection over a unix socket, with the deadline that the original forgets."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socketfile)


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    if url.startswith("unix://"):
        connection = _UnixConnection("localhost", timeout=timeout)
        connection.socketfile = url[len("unix://") :]
        return connection
    parsed = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parsed.hostname or "", parsed.port or 80, timeout=timeout)


def _proxy(environment: Mapping[str, str], timeout: float) -> xmlrpc.client.ServerProxy:
    user, password = environment.get("SUPERVISOR_USERNAME", ""), environment.get("SUPERVISOR_PASSWORD", "")
    transport = _Transport(user, password, environment["SUPERVISOR_SERVER_URL"], timeout)
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport)  # the transport knows the real address


def _translated(method: str, fault: xmlrpc.client.Fault) -> SupervisorError:
    if fault.faultCode == Fault.CONFLICT:
        return ConflictError(fault.faultString)
    if fault.faultCode == Faults.UNKNOWN_METHOD and method.startswith("rolling."):
        return SupervisorError(
            "supervisord does not have the plugin: add [rpcinterface:rolling] to its configuration "
            "and restart it (supervisorctl reload)"
        )
    if fault.faultCode == Faults.SHUTDOWN_STATE:
        return SupervisorError("supervisord is shutting down")
    return _FaultError(fault.faultString, fault.faultCode)


def _protocol_text(error: xmlrpc.client.ProtocolError) -> str:
    if error.errcode == 401:
        return (
            "supervisord wants a user and a password: add environment = "
            'SUPERVISOR_USERNAME="…",SUPERVISOR_PASSWORD="…" to the section of the listener'
        )
    return f"supervisord answered HTTP {error.errcode} {error.errmsg}: see its log"


def _request(data: Mapping[str, Any]) -> Request:
    return Request(
        id=data["id"],
        kind=data["kind"],
        group=data["group"],
        processes=tuple(data.get("processes", ())),
        max_unavailable=data.get("max_unavailable", ""),
        force=data.get("force", False),
        by=data.get("by", ""),
    )


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
