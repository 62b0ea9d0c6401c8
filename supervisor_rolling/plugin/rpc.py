"""The ``rolling`` XML-RPC namespace: a mailbox with methods, inside supervisord.

supervisord is one thread and somebody's init: nothing here blocks, starts a thread or a child, or imports more than the
standard library and supervisor. What is asked is put into the mailbox, a doorbell event wakes the listener, and
answers that take time are deferred: they observe, they never drive, so a client that goes away stops nothing.

Over XML-RPC come names of groups and processes that supervisord has, numbers and truth values, and who asks. What could
lead the listener to a path, a port or an address are the records that it writes itself: its own methods want the key of
the mailbox, which nobody is told but by the doorbell event.
"""

from __future__ import annotations

import hmac
import json
import re
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.events import notify
from supervisor.http import NOT_DONE_YET
from supervisor.options import make_namespec, split_namespec
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.states import ProcessStates, SupervisorStates, getProcessStateDescription
from supervisor.xmlrpc import Faults, RPCError

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.share import parse_share
from supervisor_rolling.core.text import ascii_only, plain, readable
from supervisor_rolling.packing import pack
from supervisor_rolling.plugin import shapes
from supervisor_rolling.plugin.client_identity import asker
from supervisor_rolling.plugin.event_subscriptions import hear
from supervisor_rolling.plugin.events import RollingAskedEvent, events_between
from supervisor_rolling.plugin.fault_barrier import Defects, contained
from supervisor_rolling.plugin.mailbox import ACTIVE, RESUMABLE, Mailbox
from supervisor_rolling.plugin.supervisor_settings import hears_the_doorbell, settings_of
from supervisor_rolling.plugin.views import (
    head_view,
    holder_text,
    holds_ports,
    packed,
    report_view,
    rollout_view,
    standings_of,
)
from supervisor_rolling.plugin.wakeup import install as install_wakeup

API_VERSION = "1.0"

PACKABLE = ("restart", "resume", "pause", "abort", "getRollout", "getAllRollouts", "getProcesses")
"""The methods whose answers callPacked packs."""

ANSWER_WITHIN = 10.0
"""Seconds that the listener has to accept or refuse a request before its client is told that it does not answer."""

HEARTBEAT = 15.0
"""Seconds in which a listener that lives has looked: TICK_5 wakes it every five."""

GONE_FOR_GOOD = 60.0
"""Seconds without a listener after which the client that waits for the end of a rollout is told that it is stalled:
longer than a restart of the listener, or of everything, takes."""

COMING_BACK = (ProcessStates.EXITED, ProcessStates.BACKOFF, ProcessStates.STARTING)

OPTIONS = ("max_unavailable", "force", "processes", "dry_run", "by")

LONGEST_NAME = 64
"""Characters of who asks, and of a wrong name in an answer."""

LONGEST_PROBLEM = 1000
"""Characters of what is wrong with rolling.yaml."""

ROLLED_BY = ("restart", "resume")
"""The kinds of requests that a rollout answers: an older listener would take any other for one of these."""

MAX_ROLLOUTS = 500
"""Of the history, in one answer."""

STALLED = "rollouts are stalled, and closed ports reopen when their lease expires (30 s; HAProxy has none)"

ADD_LISTENER = (
    "no event listener hears ROLLING_ASKED: add [eventlistener:rolling] to supervisord.conf, or that word to its "
    "events, and restart supervisord (echo_rolling_conf sections prints the section)"
)

ABORTING = "%s: the rollout is being aborted. Fix: wait until it has ended, then supervisorctl rolling_resume %s"

FAULTS = frozenset(value for value in vars(Fault).values() if isinstance(value, int))

_mailboxes: weakref.WeakKeyDictionary[Any, Mailbox] = weakref.WeakKeyDictionary()


def make_rolling_rpcinterface(supervisord: Any, wakeup: str = "true", **unknown: str) -> Any:
    """What ``supervisor.rpcinterface_factory`` names. supervisord calls it once for each of its HTTP servers.

    ``wakeup = false`` in the section leaves supervisord as slow to notice an exit as it is by itself. Never raises:
    supervisord would not start, and after a ``reload`` it would be gone.
    """
    logger = supervisord.options.logger
    try:
        for option in sorted(unknown):  # a supervisord that does not start for a typing error would be worse
            logger.warn("rolling: [rpcinterface:rolling] has no option %s (it has: wakeup)" % option)
        if wakeup.strip().lower() not in ("false", "no", "off", "0"):
            install_wakeup(supervisord)
        if supervisord not in _mailboxes:
            mailbox = Mailbox()
            hear(supervisord, mailbox)
            _mailboxes[supervisord] = mailbox
        return RollingNamespaceRPCInterface(supervisord, _mailboxes[supervisord])
    except Exception as error:  # noqa: BLE001 - see above
        Defects(logger).tell("its factory", error)
        return NoNamespace()


class NoNamespace:
    """Stands in for the namespace where it could not be made: it has no method."""


class RollingError(RPCError):
    """A fault of this namespace, with its name in the text as supervisor's own have it."""

    def __init__(self, code: int, text: str) -> None:
        RPCError.__init__(self, code)
        names = {value: name for name, value in vars(Fault).items() if isinstance(value, int)}
        self.text = f"{names[code]}: {plain(text)}"


def _packed(answer: Any) -> Any:
    """What a deferred answer is now, packed once it is there."""
    return answer if answer is NOT_DONE_YET else packed(answer)


def _incorrect(text: str) -> RPCError:
    return RPCError(Faults.INCORRECT_PARAMETERS, plain(text))


@contained
class RollingNamespaceRPCInterface:
    """Rolling restarts: restart, watch, pause, resume and abort them."""

    def __init__(
        self,
        supervisord: Any,
        mailbox: Mailbox,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.supervisord = supervisord
        self.mailbox = mailbox
        self.clock = clock
        self.wall = wall
        self._defects = Defects(supervisord.options.logger)
        self._supervisor = SupervisorNamespaceRPCInterface(supervisord)

    def _update(self, text: str) -> None:
        self.update_text = text  # for unit tests, mainly
        if self.supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)

    # --- for everybody

    def getAPIVersion(self):
        """Return the version of this namespace's API

        @return string version id
        """
        self._update("getAPIVersion")
        return API_VERSION

    def restart(self, name, wait=True, options=None):
        """Replace the processes of a group, a few at a time

        @param string name     The group ('app' or 'app:*'), or one process of it ('app:web_1')
        @param boolean wait    Answer when the rollout has ended (else: when it has begun)
        @param struct options  max_unavailable: number or 'N%'; force: boolean; processes: array of process names;
                               dry_run: boolean, answers with the plan and touches nothing; by: who asks, for others
                               to see
        @return struct rollout    The rollout, see getRollout. Refused, failed or aborted ones answer with a fault
        """
        self._update("restart")
        wait, options = _truth("wait", wait), _checked_options({} if options is None else options)
        group, processes = self._named(name, options["processes"])
        self._require_listener()
        self._require_free(group)
        details = {**options, **self._asker(), "processes": processes, "settings": settings_of(self.supervisord, group)}
        return self._ask("plan" if details.pop("dry_run") else "restart", group, details, wait)

    def resume(self, group, wait=False):
        """Go on with a rollout that was paused, failed or was aborted; what is new already is not replaced again

        @param string group    The group
        @param boolean wait    Answer when the rollout has ended (else: when it goes on)
        @return struct rollout    The rollout, see getRollout
        """
        self._update("resume")
        group, wait = self._group(group), _truth("wait", wait)
        self._require_listener()
        rollout = self.mailbox.rollouts.get(group)
        if rollout is not None and rollout["status"] in RESUMABLE:
            self._require_free(group)
            return self._ask("resume", group, {"by": rollout["by"]}, wait)
        answer = self._flag(group, "to resume", paused=False)
        end = self._end_of(group)
        return self._deferred("resume", lambda: end(answer["id"])) if wait else answer

    def check(self, group):
        """Look for what is wrong with the set-up of a group; touches no process, and needs the listener

        @param string group    The group
        @return struct report  group; ok: boolean, no finding is an error; findings: an array of structs of code, where,
                               text, fix (what to do) and severity (error: a rollout is refused; warning); checked and skipped: arrays of strings
        """
        self._update("check")
        group = self._group(group)
        self._require_listener()
        return self._ask("check", group, {"settings": settings_of(self.supervisord, group)}, False)

    def pause(self, group):
        """Let no further process leave; those that have left are brought back

        @param string group    The group
        @return struct rollout    The rollout, see getRollout
        """
        self._update("pause")
        return self._flag(self._group(group), "to pause", paused=True)

    def abort(self, group):
        """End the rollout: no further process leaves, those that have left are brought back

        @param string group    The group
        @return struct rollout    The rollout, see getRollout
        """
        self._update("abort")
        return self._flag(self._group(group), "to abort", aborting=True)

    def getRollout(self, group):
        """Return the rollout of a group that runs, or its last one

        @param string group    The group
        @return struct rollout    id, group, status (running, done, failed, aborted), paused, aborting, force, by, limit,
                               why, seconds, settle (seconds), min_ready_auto (boolean, not told by rolling.yaml),
                               min_ready_why, min_ready_known (whether settle was given or read, so that those that count as
                               available get requests), canary, forecast (seconds; 0: none), hook (the one that it
                               waits for), waits (for what it waits; empty:
                               nothing), waits_long (boolean, for 5 s or more), total, replaced, least_available, and
                               processes: an array of structs with name, ports, stage, seconds (in that stage), pid,
                               why, the duration of each stage over, lingering_connections at the drain's deadline and the
                               oldest_lingering of them (structs of peer, age, idle, last, state), …
        """
        self._update("getRollout")
        rollout = self.mailbox.rollouts.get(group) if isinstance(group, str) else None  # of a group that is gone, too
        if rollout is None:
            group = self._group(group)
            rollout = self.mailbox.rollouts.get(group)
        if rollout is None:
            raise RollingError(Fault.NOT_ROLLING, "no rollout of %s is known" % group)
        return self._view(rollout)

    def getAllRollouts(self):
        """Return the rollout that runs, or the last one, of every group that has been rolled

        @return array rollouts    An array of structs, see getRollout
        """
        self._update("getAllRollouts")
        return [self._view(self.mailbox.rollouts[group]) for group in self.mailbox.rollouts]

    def getProcesses(self, group):
        """Return every process of a group: what supervisord, the rollout that runs and the guard know of it

        @param string group    The group
        @return array processes An array of structs: name, statename, pid, warm, gate (open, closed, unknown), stage
                               (open, down, draining, restarting, warming, ready, failed), seconds (in that stage),
                               ports, tries (warm-ups that failed), retry_in (seconds until the next), why,
                               guarded (boolean, the same for the whole group)
        """
        self._update("getProcesses")
        group = self._group(group)
        standings = standings_of(self.mailbox, group, self.clock())
        processes = self.supervisord.process_groups[group].processes
        closed = "closed" if self._listener_runs() else "unknown"  # nobody renews the lease
        return [
            self._process_view(group, name, processes[name], standings.get(name, {}), closed)
            for name in sorted(processes)
        ]

    def callPacked(self, method, arguments):
        """Call another method and pack its answer: supervisord sends 4 kB at a time, and is slow with many processes

        @param string method   restart, resume, pause, abort, getRollout, getAllRollouts or getProcesses
        @param array arguments Its parameters
        @return base64 packed  The JSON of what it returns, compressed by zlib
        """
        self._update("callPacked")
        if not (isinstance(method, str) and method in PACKABLE and isinstance(arguments, list)):
            raise _incorrect("callPacked takes one of %s, and an array of its parameters" % ", ".join(PACKABLE))
        answer = getattr(self, method)(*arguments)
        return self._deferred(method, lambda: _packed(answer())) if callable(answer) else packed(answer)

    def getListener(self):
        """Return how the listener is

        @return struct listener running (boolean); fix: how to start it, empty where it runs; and problem: what is wrong
                               with rolling.yaml, and which rollouts are refused for it, in one line; empty: nothing
        """
        self._update("getListener")
        runs = self._listener_runs()
        problem = plain(self.mailbox.problem)[:LONGEST_PROBLEM]
        return {"running": runs, "fix": "" if runs else plain(self._listener_fix()), "problem": problem}

    def getHistory(self, group="", number=20):
        """Return the last rollouts, the newest last; needs the listener, which keeps them in a file

        @param string group    The group; empty: of every group
        @param int number      How many, at most 500
        @return array rollouts    An array of structs: id, group, status (running, done, failed, aborted, lost), by (who
                               asked, as they say), user and client (as their connection tells), began (Unix time),
                               seconds, forecast (seconds; 0 where there was none), limit, force, why, total, replaced,
                               least_available, size (processes of the group), min_ready_known (as in getRollout)
        """
        self._update("getHistory")
        number = max(1, min(_whole("number", number), MAX_ROLLOUTS))
        group = self._group(group) if group != "" else ""
        self._require_listener()
        return self._ask("history", group, {"number": number}, False)

    def getRecord(self, group="", rollout=0):
        """Return all of a rollout, with the course of every process; needs the listener, which keeps it in a file

        @param string group    The group; empty: any
        @param int rollout        The number of the rollout; 0: the last one
        @return string json    The keys of getHistory; availability: an array of [seconds, processes available]; and
                               processes: an array with name, stages: an array of [stage, seconds], latencies_ms and
                               statuses of the warm-up, ...; seconds are those since the rollout began
        """
        self._update("getRecord")
        rollout = _whole("rollout", rollout)
        group = self._group(group) if group != "" else ""
        self._require_listener()
        return self._ask("record", group, {"rollout": str(rollout or "")}, False)

    # --- for the listener alone

    def listenerHello(self):
        """Tell the listener its key, by an event (the listener's own; whoever else calls it learns nothing)

        @return boolean        Always True
        """
        self._update("listenerHello")
        self._ring()
        return True

    def listenerObserve(self, key, known):
        """Tell the listener what it has to know (the listener's own)

        @param string key      The listener's key
        @param struct known    What it has: rollouts and watches (the version of each), table (the number of its last
                               look); guarded: the groups that it guards; problem: what is wrong with rolling.yaml;
                               packed: a long answer may be packed
        @return string json    The rollouts and watches that it has not, requests, the rows of the process table that have
                               changed in the groups concerned, idle: the seconds since the last look, and
                               takes_changes: listenerRecord does, and what is packed
        """
        self._update_by_listener("listenerObserve", key)
        _fit(lambda: shapes.check(shapes.KNOWN, known, "known"))
        now = self.clock()
        idle = now - self.mailbox.looked_at if self.mailbox.looked_at else 0.0
        self.mailbox.looked_at, self.mailbox.problem = now, readable(known.get("problem", ""), "utf-8")
        self.mailbox.tidy(self.supervisord.process_groups, now)
        requests = self.mailbox.asked(now - ANSWER_WITHIN)
        number, processes = self._table_news(known["table"], self._concerned(requests, known["guarded"]))
        news = json.dumps(
            {
                "rollouts": self.mailbox.rollouts.news(known["rollouts"]),
                "rolled": list(self.mailbox.rollouts),
                "guard_states": self.mailbox.guard_states.news(known["guard_states"]),
                "guarded_groups": list(self.mailbox.guard_states),
                "requests": requests,
                "table": number,
                "processes": processes,
                "idle": idle,
                "takes_changes": True,  # an older supervisord takes whole rollouts alone, and unpacked
            }
        )
        return pack(news) if known.get("packed") else news

    def listenerRecord(self, key, group, version, rollout, request):
        """Write a rollout into the mailbox, if nobody else has written since (the listener's own)

        @param string key      The listener's key
        @param string group    The group
        @param int version     The version that the listener has read; 0 for none
        @param string rollout     The rollout as JSON, or what has changed in it since that version
        @param int request     The request that it answers; 0 for none
        @return int version    The version that it now has
        """
        self._update_by_listener("listenerRecord", key)
        group = _text("group", group)
        version, request = _whole("version", version), _whole("request", request)
        if version != self.mailbox.rollouts.version(group):  # nor could what has changed since be read
            raise RollingError(Fault.CONFLICT, "the rollout of %s was changed meanwhile" % group)
        old = self.mailbox.rollouts.get(group)
        new = _fit(lambda: shapes.read_rollout(rollout, group, old))
        is_known = group in self.supervisord.process_groups
        is_wanted = not request or self.mailbox.requests.get(request, {}).get("kind") in ROLLED_BY
        news = list(events_between(old, new, self.clock()))  # what cannot be told is not written
        if not is_known or not is_wanted or not self.mailbox.record(group, version, new, self.clock()):
            raise RollingError(Fault.CONFLICT, "the rollout of %s was changed meanwhile" % group)
        if request:
            self.mailbox.requests[request]["rollout"] = new["id"]
            self.mailbox.answer(request, "accepted")
        for event in news:
            notify(event)
        return self.mailbox.rollouts.version(group)

    def listenerGuard(self, key, group, guard_state):
        """Write what the guard of a group has in hand into the mailbox (the listener's own)

        @param string key      The listener's key
        @param string group    The group
        @param string watch    The watch as JSON, or packed; empty: the group is no longer guarded
        @return int version    The version that it now has
        """
        self._update_by_listener("listenerGuard", key)
        group = _text("group", group)
        old = self.mailbox.guard_states.get(group)
        new = _fit(lambda: shapes.read_watch(guard_state, group, old)) if guard_state != "" else None
        if group in self.supervisord.process_groups:
            self.mailbox.guard(group, new, self.clock())
        return self.mailbox.guard_states.version(group)

    def listenerAct(self, key, group, actions):
        """Stop, start or signal processes of a group, each only if it is still the incarnation that the order is for
        (the listener's own)

        @param string key      The listener's key
        @param string group    The group
        @param array orders    Structs of verb (stop, start, signal), name, signal, and the incarnation: pid (0: it is
                               down) and spawned
        @return array outcomes A struct for each: code, 0 or a fault of supervisor's, NOT_RUNNING where it was another
                               incarnation; and text
        """
        self._update_by_listener("listenerAct", key)
        group = _text("group", group)
        _fit(lambda: shapes.check(shapes.ORDERS, actions, "actions"))
        return [self._carried_out(group, action) for action in actions]

    def listenerAnswer(self, key, request, code, text, plan):
        """Refuse a request, or answer it with a plan or a report (the listener's own)

        @param string key      The listener's key
        @param int request     The request
        @param int code        The fault; 0 for a plan or a report
        @param string text     Why
        @param string plan     The plan or the report as JSON, or packed
        @return boolean        Always True
        """
        self._update_by_listener("listenerAnswer", key)
        request, text = _whole("request", request), _text("text", text)
        if _whole("code", code) not in (0, *FAULTS):
            raise _incorrect("code: %d is no fault of this namespace" % code)
        asked = self.mailbox.requests.get(request)
        if asked is not None and code:
            self.mailbox.answer(request, "refused", code, readable(text, "utf-8"))
        elif asked is not None and asked["kind"] == "check":
            self.mailbox.answer(request, "checked", plan=_fit(lambda: shapes.read_report(plan, asked["group"])))
        elif asked is not None and asked["kind"] in shapes.MAX_SHOWN:
            self.mailbox.answer(request, "told", plan=_fit(lambda: shapes.read_told(plan, asked["kind"])))
        elif asked is not None:
            self.mailbox.answer(request, "planned", plan=_fit(lambda: shapes.read_rollout(plan, asked["group"], None)))
        return True

    # --- what the methods above share

    def _asker(self) -> dict[str, Any]:
        """Who asks, as their connection tells, and when."""
        user, client = asker()
        return {"user": user, "client": client, "began": self.wall()}

    def _update_by_listener(self, text: str, key: Any) -> None:
        self._update(text)
        if not isinstance(key, str) or not hmac.compare_digest(_bytes(key), _bytes(self.mailbox.key)):
            raise RollingError(
                Fault.LISTENERS_OWN, "%s is for the listener of [eventlistener:rolling] alone, which has a key" % text
            )

    def _carried_out(self, group: str, action: Mapping[str, Any]) -> dict[str, Any]:
        """Its outcome. One that goes wrong keeps no other from being carried out."""
        try:
            self._carry_out(group, action)
        except RPCError as error:
            return {"code": error.code, "text": plain(error.text)}
        except Exception as error:  # noqa: BLE001 - as supervisor's own multicall, which answers it for this one alone
            self._defects.tell("rolling.listenerAct", error)
            return {"code": Faults.FAILED, "text": plain("FAILED: %s: %s" % (type(error).__name__, error))}
        return {"code": 0, "text": ""}

    def _carry_out(self, group: str, action: Mapping[str, Any]) -> None:
        """By supervisor's own methods, with their checks and faults. supervisord does nothing else in between, so the
        process cannot become another after the comparison."""
        name, verb = action["name"], action["verb"]
        namespec = make_namespec(group, name)
        there = self.supervisord.process_groups.get(group)
        process = there.processes.get(name) if there is not None else None
        if process is None:
            raise RPCError(Faults.BAD_NAME, namespec)
        spawned = self.mailbox.lives.attempt(group, name, process)
        if (process.pid, spawned) != (action["pid"], action["spawned"]):
            raise RPCError(Faults.NOT_RUNNING, "%s is another incarnation by now" % namespec)
        with self.mailbox.lives.ordered_by_rollout(process):
            if verb == "signal":
                self._supervisor.signalProcess(namespec, action["signal"])
            elif verb == "stop":
                self._supervisor.stopProcess(namespec, False)
            else:
                self._supervisor.startProcess(namespec, False)

    def _ring(self) -> None:
        """Ring the doorbell, before all that waits already in the listener's queue: a thousand processes that start
        together put three thousand events there, and without its key the listener cannot even look. Where the queue
        overflows supervisord drops what stands first: then the listener greets again after a second."""
        keepalive_closer = [group for group in self.supervisord.process_groups.values() if hears_the_doorbell(group)]
        if keepalive_closer and all(_is_rung(pool) for pool in keepalive_closer):
            return
        event = RollingAskedEvent(self.mailbox.key)
        notify(event)
        for pool in keepalive_closer:
            _put_first(pool, event)

    def _ask(self, kind: str, group: str, details: Mapping[str, Any], wait: bool) -> Any:
        if self.mailbox.is_full(self.clock() - ANSWER_WITHIN):
            raise RollingError(
                Fault.REFUSED,
                "%d requests wait for the listener already. Fix: ask again in %g s; if it stays so, see "
                "supervisorctl tail %s stderr" % (len(self.mailbox.requests), ANSWER_WITHIN, self._listener_name()),
            )
        request = self.mailbox.ask(kind, group, self.clock(), details)
        self._ring()
        end = self._end_of(group)
        return self._deferred("restart" if kind == "plan" else kind, lambda: self._outcome(request, wait, end))

    def _deferred(self, method: str, look: Callable[[], Any]) -> Any:
        def observe():  # a plain function, or supervisord takes it for the answer
            try:
                return look()
            except RPCError:
                raise
            except Exception as error:  # noqa: BLE001 - it is not the client's fault, nor supervisord's
                raise self._defects.fault(method, error) from None

        # supervisord finds these on the function itself; functions have no such attributes for a type checker.
        observe.delay = 0.05  # type: ignore[attr-defined]
        observe.rpcinterface = self  # type: ignore[attr-defined]
        return observe

    def _outcome(self, request: Mapping[str, Any], wait: bool, end: Callable[[int], Any]) -> Any:
        group = request["group"]
        if request["state"] == "asked":
            return self._patience(request)
        if request["state"] == "gone":
            raise RollingError(Fault.REFUSED, "the group %s was removed from supervisord" % group)
        if request["state"] == "refused":
            raise RollingError(request["code"], request["text"])
        if request["state"] == "planned":
            return self._view(request["plan"])
        if request["state"] == "checked":
            return report_view(request["plan"])
        if request["state"] == "told":
            return _told(request["plan"])
        if wait:
            return end(request["rollout"])
        return self.getRollout(group)

    def _patience(self, request: Mapping[str, Any]) -> Any:
        if self.clock() - request["asked_at"] < ANSWER_WITHIN and not self._listener_gave_up():
            return NOT_DONE_YET
        self.mailbox.answer(request["id"], "abandoned")  # so that it does not begin when nobody expects it any more
        self._require_listener()
        lived = min(self._listeners_lived(), default=ANSWER_WITHIN)
        again = "; it was started %.1f s ago, so it ends again and again" % lived if lived < ANSWER_WITHIN / 2 else ""
        raise RollingError(
            Fault.LISTENER_DOWN,
            "the listener did not answer within %g s%s: see its log (supervisorctl tail %s stderr)"
            % (ANSWER_WITHIN, again, self._listener_name()),
        )

    def _listeners_lived(self) -> list[float]:
        """Seconds for which each of its processes has."""
        return [self.mailbox.lives.up_for(*one) for one in self._listeners()]

    def _listeners(self) -> list[tuple[str, str, Any]]:
        """The processes that the doorbell reaches, each with the names of its group and of its own."""
        keepalive_closer = [(name, g) for name, g in self.supervisord.process_groups.items() if hears_the_doorbell(g)]
        return [(group, name, process) for group, pool in keepalive_closer for name, process in pool.processes.items()]

    def _listener_name(self) -> str:
        """What supervisorctl calls it."""
        return next((make_namespec(group, name) for group, name, _ in self._listeners()), "rolling")

    def _end_of(self, group: str) -> Callable[[int], Any]:
        """What looks for the end of a rollout of this number; a fault where the listener has been gone for too long."""
        gone_since = 0.0  # by what this client has seen: supervisord itself may have been stopped for a while

        def look(number: int) -> Any:
            nonlocal gone_since
            found = self._end_now(group, number)
            if found is not NOT_DONE_YET or self._listener_runs():
                gone_since = 0.0
                return found
            gone_since = gone_since or self.clock()
            if self.clock() - gone_since >= GONE_FOR_GOOD:
                raise RollingError(Fault.LISTENER_DOWN, self._stalled_text(group, number))
            return NOT_DONE_YET

        return look

    def _stalled_text(self, group: str, number: int) -> str:
        return (
            "the listener has not answered for %g s: rollout %d of %s is stalled, and its closed ports reopen when "
            "their lease expires. Fix: supervisorctl restart %s; the rollout continues then"
            % (GONE_FOR_GOOD, number, group, self._listener_name())
        )

    def _end_now(self, group: str, number: int) -> Any:
        rollout = self.mailbox.rollouts.get(group)
        if rollout is None:
            raise RollingError(Fault.ROLLOUT_FAILED, "the group %s was removed from supervisord" % group)
        if rollout["id"] != number:
            raise RollingError(
                Fault.ROLLOUT_FAILED, "rollout %d has ended, and rollout %d has begun" % (number, rollout["id"])
            )
        if rollout["status"] == "running":
            return NOT_DONE_YET
        if rollout["status"] == "failed":
            raise RollingError(Fault.ROLLOUT_FAILED, rollout["why"])
        if rollout["status"] == "aborted":
            raise RollingError(Fault.ROLLOUT_ABORTED, "the rollout was aborted. %s" % rollout["why"])
        return self._view(rollout)

    def _flag(self, group: str, wish: str, **flags: bool) -> Any:
        if not self.mailbox.flag(group, **flags):
            last = (self.mailbox.rollouts.get(group) or {}).get("status")
            if last == ACTIVE:
                raise RollingError(Fault.REFUSED, ABORTING % (group, group))
            hint = " (the last one %s: rolling_resume goes on with it)" % last if last in RESUMABLE else ""
            raise RollingError(Fault.NOT_ROLLING, "no rollout of %s is under way: nothing %s%s" % (group, wish, hint))
        rollout = self.mailbox.rollouts[group]
        self._ring()
        return self._view(rollout)

    def _group(self, name: Any) -> str:
        """The group that a name means: ``app``, ``app:*``, or ``app:web`` where that is the only process of it."""
        if not isinstance(name, str):
            raise _incorrect("a group is named by a string")
        group, colon, process = name.partition(":")
        if group not in self.supervisord.process_groups:
            raise _bad_name(name)
        processes = self.supervisord.process_groups[group].processes
        if not colon or process == "*" or list(processes) == [process]:
            return group
        if process not in processes:
            raise _bad_name(name)
        raise _incorrect("a whole group is needed, and %s is one of %d processes of %s" % (name, len(processes), group))

    def _named(self, name: Any, processes: list[str]) -> tuple[str, list[str]]:
        """The group and the processes of it that are meant; no processes: all."""
        if isinstance(name, str) and ":" in name and not name.endswith(":*"):
            name, process = split_namespec(name)
            processes = [process or "", *processes]
        group = self._group(name)
        for process in processes:
            if process not in self.supervisord.process_groups[group].processes:
                raise _bad_name("%s:%s" % (group, process))
        return group, list(dict.fromkeys(processes))

    def _view(self, rollout: Mapping[str, Any]) -> dict[str, Any]:
        view = rollout_view(rollout, self.clock())
        texts = {key: plain(view[key]) for key in ("group", "by", "why", "min_ready_why")}
        return {**view, **texts, "processes": _plain_names(view["processes"]), "listener": self._listener_runs()}

    def _listener_runs(self) -> bool:
        """Whether a process lives that the doorbell reaches, or is being started again, and has looked of late or was
        only just started: then it will find what is asked at its next look."""
        there = [one for one in self._listeners() if self._is_there(*one)]
        has_looked = self.clock() - self.mailbox.looked_at < HEARTBEAT
        return any(has_looked or self.mailbox.lives.up_for(*one) < HEARTBEAT for one in there)

    def _is_there(self, group: str, name: str, process: Any) -> bool:
        """Whether it lives, or has just died and comes again in a moment: what is asked then is not refused."""
        state = process.get_state()
        is_over = state == ProcessStates.EXITED and self.mailbox.lives.stays_down(group, name)
        return bool(process.pid) or (state in COMING_BACK and not is_over)

    def _listener_gave_up(self) -> bool:
        """Whether supervisord starts none of its processes again. A stopped one may be in the middle of a restart."""
        listeners = self._listeners()
        may_come = any(self._is_there(*one) or one[2].get_state() == ProcessStates.STOPPED for one in listeners)
        return bool(listeners) and not may_come

    def _require_listener(self) -> None:
        if not self._listener_runs():
            text = "the listener is not running: %s. Fix: %s" % (STALLED, self._listener_fix())
            raise RollingError(Fault.LISTENER_DOWN, text)

    def _listener_fix(self) -> str:
        listeners = self._listeners()
        if not listeners:
            return ADD_LISTENER
        verb = "restart" if listeners[0][2].pid else "start"  # one that hangs is started already
        name = self._listener_name()
        return "supervisorctl %s %s; if it does not start: supervisorctl status" % (verb, name)

    def _require_free(self, group: str) -> None:
        holder = self.mailbox.holder(group, self.clock() - ANSWER_WITHIN)
        if holder is not None:
            raise RollingError(Fault.ALREADY_ROLLING, "%s is being rolled: %s" % (group, holder_text(holder)))

    def _concerned(self, requests: list[dict[str, Any]], guarded: list[str]) -> set[str]:
        """The groups whose processes the listener has to see."""
        rollouts, groups = self.mailbox.rollouts, self.supervisord.process_groups
        active = [group for group in rollouts if holds_ports(rollouts[group])]
        asked = [request["group"] for request in requests]
        return {group for group in (*active, *asked, *guarded, *self.mailbox.guard_states) if group in groups}

    def _table_news(self, known: int, groups: set[str]) -> tuple[int, dict[str, list[Any]]]:
        """The rows that have changed, as ``{group: [is the whole group, rows]}``."""
        tables = {group: self.supervisord.process_groups[group].processes for group in groups}
        keys = {g: {n: self._row_key(g, n, process) for n, process in table.items()} for g, table in tables.items()}
        number, news = self.mailbox.table.news(known, keys)
        rows = {g: [whole, [self._row(g, n, tables[g][n]) for n in names]] for g, (whole, names) in news.items()}
        return number, rows

    def _row_key(self, group: str, name: str, process: Any) -> tuple[Any, ...]:
        spawned = self.mailbox.lives.attempt(group, name, process)
        is_warm = self.mailbox.is_warm(group, name, process.pid, spawned)
        return (process.get_state(), process.pid, spawned, process.laststop, process.spawnerr, is_warm)

    def _row(self, group: str, name: str, process: Any) -> list[Any]:
        """The fields of a ``process.Process``, in their order."""
        lives, state = self.mailbox.lives, process.get_state()
        up_for, spawned = lives.up_for(group, name, process), lives.attempt(group, name, process)
        is_starting = state == ProcessStates.STARTING
        return [
            process.config.name,
            getProcessStateDescription(state),
            process.pid,
            spawned,
            lives.down_for(group, name, process),
            max(0.0, process.config.startsecs - up_for) if is_starting else 0.0,
            up_for,
            process.spawnerr or "",
            self.mailbox.is_warm(group, name, process.pid, spawned),
            process.config.stopwaitsecs,
            lives.told_to_stop(group, name),
            lives.stopped_by_rollout(group, name),
            lives.stop_took(group, name),
            lives.started_by_other(group, name),
        ]

    def _process_view(
        self, group: str, name: str, process: Any, standing: Mapping[str, Any], closed: str
    ) -> dict[str, Any]:
        spawned = self.mailbox.lives.attempt(group, name, process)
        is_warm = self.mailbox.is_warm(group, name, process.pid, spawned)
        since = self.mailbox.warm_since(group, name) if is_warm else 0.0
        return {
            "name": plain(name),
            "statename": getProcessStateDescription(process.get_state()) or "UNKNOWN",
            "pid": process.pid,
            "warm": is_warm,
            "gate": closed if standing.get("closed", False) else "open",
            "stage": standing.get("stage", "open"),
            "seconds": standing.get("seconds", round(self.clock() - since, 3) if since else 0.0),
            "ports": standing.get("ports", []),
            "tries": standing.get("tries", 0),
            "retry_in": standing.get("retry_in", 0.0),
            "why": plain(standing.get("why", "")),
            "guarded": self.mailbox.guard_states.get(group) is not None,
        }


def _is_rung(pool: Any) -> bool:
    """Whether a doorbell is the next that this pool hands out: one is enough for all that is asked before it is."""
    waiting: list[Any] = getattr(pool, "event_buffer", [])
    return bool(waiting) and isinstance(waiting[0], RollingAskedEvent)


def _put_first(pool: Any, event: RollingAskedEvent) -> None:
    waiting: list[Any] = getattr(pool, "event_buffer", [])
    if waiting and waiting[-1] is event:
        waiting.pop()
        waiting[:0] = [] if _is_rung(pool) else [event]


def _plain_names(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**process, "name": plain(process["name"]), "why": plain(process["why"])} for process in processes]


def _told(told: Mapping[str, Any]) -> Any:
    """What is told of the rollouts that were: a record as it is, in JSON's own ASCII, escapes and all."""
    return ascii_only(told["record"]) if "record" in told else [head_view(head) for head in told["rollouts"]]


def _checked_options(options: Any) -> dict[str, Any]:
    """All of them, with the defaults of those that are left out, or a fault."""
    if not isinstance(options, dict):
        raise _incorrect("options must be a struct")
    unknown = sorted(str(key)[:LONGEST_NAME] for key in options if key not in OPTIONS)
    if unknown:
        raise _incorrect("unknown options: %s; known: %s" % (", ".join(unknown[:3]), ", ".join(OPTIONS)))
    processes = options.get("processes", [])
    if not isinstance(processes, list) or not all(isinstance(name, str) for name in processes):
        raise _incorrect("processes must be an array of names")
    return {
        "max_unavailable": _share(options.get("max_unavailable", "")),
        "force": _truth("force", options.get("force", False)),
        "dry_run": _truth("dry_run", options.get("dry_run", False)),
        "processes": processes,
        "by": re.sub(r"[^\w@./:-]", "_", plain(_text("by", options.get("by", ""))[:LONGEST_NAME]))[:LONGEST_NAME],
    }


def _share(value: Any) -> str:
    if value == "":
        return ""
    try:
        parse_share(value)
    except ValueError as error:
        raise _incorrect("max_unavailable: %s" % error) from None
    return str(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _incorrect("%s must be a boolean" % name)
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _incorrect("%s must be a string" % name)
    return value


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _incorrect("%s must be a whole number, 0 or more" % name)
    return value


def _fit(read: Callable[[], Any]) -> Any:
    """What ``read`` gives, or a fault where what it reads has another shape."""
    try:
        return read()
    except ValueError as error:
        raise _incorrect(str(error)[:200]) from None


def _bad_name(name: str) -> RPCError:
    return RPCError(Faults.BAD_NAME, plain(name[:LONGEST_NAME]))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
