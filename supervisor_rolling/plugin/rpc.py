"""The ``rolling`` XML-RPC namespace inside supervisord.

supervisord is one thread, and often the init process: nothing here blocks, starts a thread or a child, or imports more
than the standard library, supervisor and the values of core/. A request goes into the mailbox and a doorbell event
wakes the listener. Answers that take time are deferred: they only observe, so a client that goes away stops nothing.

Clients pass names that supervisord knows, bounded numbers and truth values: never a command, a path or an address.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from supervisor.http import NOT_DONE_YET
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.xmlrpc import RPCError

from supervisor_rolling import __version__
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.public_view import MAX_HISTORY, Detail, report_view, rollout_view
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.core.text import plain
from supervisor_rolling.plugin.arguments import (
    ANSWER_TIMEOUT,
    Options,
    group_of,
    groups_of,
    incorrect,
    options_of,
    processes_of,
    valid,
)
from supervisor_rolling.plugin.client_identity import client_identity
from supervisor_rolling.plugin.event_subscriptions import subscribe_events
from supervisor_rolling.plugin.fault_barrier import Defects, RollingFault, contained
from supervisor_rolling.plugin.listener_api import ListenerMethods
from supervisor_rolling.plugin.listener_health import ListenerHealth
from supervisor_rolling.plugin.mailbox import RESUMABLE, Mailbox, PendingRequest
from supervisor_rolling.plugin.supervisor_settings import settings_of
from supervisor_rolling.plugin.views import BUSY, ProcessViews, holder_text, packed, struct
from supervisor_rolling.plugin.wakeup import install as install_wakeup

API_VERSION = "1.0"

PACKABLE = ("restart", "restartGroups", "resume", "pause", "abort", "getRollout", "getAllRollouts", "getProcesses")
"""The methods that callPacked calls."""

LISTENER_GONE_AFTER = 60.0
"""Seconds without a listener after which a client that waits for the end of a rollout learns that it is stalled: longer
than a restart of the listener, or of everything, takes."""

MAX_PROBLEM = 1000
"""Characters of what is wrong with rolling.yaml."""

UNKNOWN_NEXT = "another rollout of the group before it has begun, so it is not known why"
NOT_PAUSED = (
    "rollout %d of %s is running and is not paused: nothing to resume. To see it: supervisorctl rolling_status %s"
)
ABORTING = "%s: the rollout is being aborted. Fix: wait until it has ended, then supervisorctl rolling_resume %s"

_mailboxes: weakref.WeakKeyDictionary[Any, Mailbox] = weakref.WeakKeyDictionary()


def make_rolling_rpcinterface(supervisord: Any, wakeup: str = "true", **unknown: str) -> Any:
    """What ``supervisor.rpcinterface_factory`` names. supervisord calls it once for each of its HTTP servers.

    ``wakeup = false`` in the section leaves supervisord as slow to notice an exit as it is by itself. Never raises:
    supervisord would not start, and after a ``reload`` it would be gone.
    """
    logger = supervisord.options.logger
    try:
        for option in sorted(unknown):  # a supervisord that does not start because of a typing error would be worse
            logger.warn("rolling: [rpcinterface:rolling] has no option %s (it has: wakeup)" % option)
        if wakeup.strip().lower() not in ("false", "no", "off", "0"):
            install_wakeup(supervisord)
        if supervisord not in _mailboxes:
            mailbox = Mailbox()
            subscribe_events(supervisord, mailbox)
            _mailboxes[supervisord] = mailbox
        return RollingNamespaceRPCInterface(supervisord, _mailboxes[supervisord])
    except Exception as error:  # noqa: BLE001 - see above
        Defects(logger).report("its factory", error)
        return NoNamespace()


class NoNamespace:
    """Stands in for the namespace where it could not be made: it has no method."""


@contained
class RollingNamespaceRPCInterface(ListenerMethods):
    """Rolling restarts: start, read, pause, resume and abort them."""

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
        self._listener = ListenerHealth(supervisord, mailbox, lambda: self.clock())

    def getAPIVersion(self) -> str:
        """Return the version of this namespace's API

        @return string version  The version
        """
        self._update("getAPIVersion")
        return API_VERSION

    def restart(self, name: Any, wait: Any = True, options: Any = None) -> Any:
        """Replace the processes of a group, a few at a time

        @param string name     The group ('app' or 'app:*'), or one process of it ('app:web_1')
        @param boolean wait    Answer when the rollout has ended (else: when it has started)
        @param struct options  max_unavailable: number or 'N%'; force: boolean; processes: array of process names;
                               dry_run: boolean, answers with the plan and changes nothing; by: the client's name
        @return struct rollout  The rollout, see getRollout. One that is refused, fails or is aborted is a fault
        """
        self._update("restart")
        wait, given = valid(bool, wait, "wait"), options_of({} if options is None else options)
        group, processes = processes_of(self.supervisord, name, given.processes)
        return self._restart(given, wait, group, self._end_of(group), processes=processes)

    def restartGroups(self, groups: Any, wait: Any = True, options: Any = None) -> Any:
        """Replace the processes of several groups, one group after another in this order; stop at the first failure

        The order is kept in supervisord: it goes on when the client ends, and resume continues it after a failure.

        @param array groups    The groups
        @param boolean wait    Answer when the last rollout has ended (else: when the first has started)
        @param struct options  max_unavailable: number or 'N%'; force: boolean; by: the client's name
        @return array rollouts  The rollouts that have begun, see getRollout. One that is refused, fails or is aborted
                               is a fault
        """
        self._update("restartGroups")
        wait, given = valid(bool, wait, "wait"), options_of({} if options is None else options)
        if given.processes or given.dry_run:
            raise incorrect("restartGroups takes no processes and no dry_run: ask restart for one group")
        first, *others = names = groups_of(self.supervisord, groups)
        answer = self._restart(given, wait, first, self._ends_of(names), following=tuple(others))

        def each() -> Any:
            found = answer()
            return found if wait or found is NOT_DONE_YET else [found]

        return self._deferred("restartGroups", each)

    def resume(self, group: Any, wait: Any = False) -> Any:
        """Continue a rollout that was paused, failed or was aborted; processes that were replaced stay as they are

        @param string group    The group
        @param boolean wait    Answer when the rollout has ended (else: when it continues)
        @return struct rollout  The rollout, see getRollout
        """
        self._update("resume")
        group, wait = group_of(self.supervisord, group), valid(bool, wait, "wait")
        self._listener.check()
        rollout = self.mailbox.rollouts.get(group)
        if rollout is not None and rollout.status in RESUMABLE:
            self._check_free(group)
            return self._ask("resume", group, wait, by=rollout.by)
        is_running = rollout is not None and rollout.status is Status.RUNNING
        if rollout is not None and is_running and not rollout.paused and not rollout.aborting:
            raise RollingFault(Fault.ROLLOUT_IN_PROGRESS, NOT_PAUSED % (rollout.id, group, group))
        answer = self._flag(group, "to resume", paused=False)
        end = self._end_of(group)
        return self._deferred("resume", lambda: end(answer["id"])) if wait else answer

    def check(self, group: Any) -> Any:
        """Check the set-up of a group for rollouts; changes no process, and needs the listener

        @param string group    The group
        @return struct report  group; ok: boolean, no finding is an error; findings: an array of structs of code, where,
                               text, fix (what to do) and severity (error: a rollout is refused; warning); checked and
                               skipped: arrays of strings
        """
        self._update("check")
        group = group_of(self.supervisord, group)
        self._listener.check()
        return self._ask("check", group, False, settings=settings_of(self.supervisord, group))

    def pause(self, group: Any) -> dict[str, Any]:
        """Start no further restarts; processes under way are finished

        @param string group    The group
        @return struct rollout  The rollout, see getRollout
        """
        self._update("pause")
        return self._flag(group_of(self.supervisord, group), "to pause", paused=True)

    def abort(self, group: Any) -> dict[str, Any]:
        """End the rollout: start no further restarts, finish processes under way. Between two of several groups: the
        next one does not begin

        @param string group    The group
        @return struct rollout  The rollout, see getRollout
        """
        self._update("abort")
        group = group_of(self.supervisord, group)
        follower = self.mailbox.follower_of(group)
        if follower is None:
            return self._flag(group, "to abort", aborting=True)
        self.mailbox.answer(follower.request.id, "refused", text="it was aborted before it began")
        done = self.mailbox.rollouts.get(follower.after)
        if done is None:
            raise RollingFault(Fault.NO_ROLLOUT_KNOWN, "no rollout of %s is running: nothing to abort" % group)
        return self._view(done)

    def getRollout(self, group: Any) -> dict[str, Any]:
        """Return the running rollout of a group, or its last one

        @param string group    The group
        @return struct rollout  id, group, status (running, done, failed, aborted), why, waits_for, seconds, total,
                               replaced, listener (boolean, it is running), processes: an array of structs with name,
                               stage, why, ...; all fields are in supervisor_rolling/schema/rollout.json. The fields of
                               the course (availability, interruptions, stages, latencies_ms) are empty, see getRecord
        """
        self._update("getRollout")
        rollout = self.mailbox.rollouts.get(group) if isinstance(group, str) else None  # of a removed group, too
        if rollout is None:
            group = group_of(self.supervisord, group)
            rollout = self.mailbox.rollouts.get(group)
        if rollout is None:
            raise RollingFault(Fault.NO_ROLLOUT_KNOWN, "no rollout of %s is known" % group)
        return self._view(rollout)

    def getAllRollouts(self) -> list[dict[str, Any]]:
        """Return the running rollout of every group, or its last one

        @return array rollouts  An array of structs, see getRollout
        """
        self._update("getAllRollouts")
        return [self._view(self.mailbox.rollouts[group]) for group in self.mailbox.rollouts]

    def getProcesses(self, group: Any) -> list[dict[str, Any]]:
        """Return every process of a group, as supervisord, the running rollout and the crash guard know it

        @param string group    The group
        @return array processes  An array of structs: name, statename, pid, warm, gate (open, closed, unknown), stage
                               (open, down, draining, restarting, warming, ready, failed), seconds (in that stage),
                               ports, tries (warm-ups that failed), retry_in (seconds until the next), why,
                               guarded (boolean, the same for the whole group)
        """
        self._update("getProcesses")
        group = group_of(self.supervisord, group)
        closed = "closed" if self._listener.is_running() else "unknown"  # the lease is not renewed
        views = ProcessViews(self.mailbox, group, self.clock(), closed)
        processes = self.supervisord.process_groups[group].processes
        return [struct(views.of(name, processes[name])) for name in sorted(processes)]

    def callPacked(self, method: Any, arguments: Any) -> Any:
        """Call another method and pack its answer: supervisord sends 4 kB at a time, and is slow with many processes

        @param string method   restart, restartGroups, resume, pause, abort, getRollout, getAllRollouts or getProcesses
        @param array arguments  Its parameters
        @return base64 packed  The JSON of what it returns, compressed by zlib
        """
        self._update("callPacked")
        if not (isinstance(method, str) and method in PACKABLE and isinstance(arguments, list)):
            raise incorrect("callPacked takes one of %s, and an array of its parameters" % ", ".join(PACKABLE))
        answer = getattr(self, method)(*arguments)
        return self._deferred(method, lambda: _packed(answer())) if callable(answer) else packed(answer)

    def getListener(self) -> dict[str, Any]:
        """Return the state of the listener

        @return struct listener  running: boolean; fix: how to start it, empty where it is running; problem: what is
                               wrong with rolling.yaml, and which rollouts are refused for it, in one line, or empty;
                               version: of the plugin that supervisord has loaded, which the listener must have, too;
                               groups: an array of those of rolling.yaml that supervisord has, in its order
        """
        self._update("getListener")
        is_running = self._listener.is_running()
        return {
            "running": is_running,
            "fix": "" if is_running else plain(self._listener.fix()),
            "problem": plain(self.mailbox.problem)[:MAX_PROBLEM],
            "version": __version__,
            "groups": [group for group in self.mailbox.groups if group in self.supervisord.process_groups],
        }

    def getHistory(self, group: Any = "", number: Any = 20) -> Any:
        """Return the last rollouts, the newest last; needs the listener, which keeps them in a file

        @param string group    The group; empty: of every group
        @param int number      How many, at most 500
        @return array rollouts  An array of structs, see getRollout, without processes; status may also be lost
        """
        self._update("getHistory")
        number = max(1, min(valid(int, number, "number"), MAX_HISTORY))
        group = group_of(self.supervisord, group) if group != "" else ""
        self._listener.check()
        return self._ask("history", group, False, number=number)

    def getRecord(self, group: Any = "", rollout: Any = 0) -> Any:
        """Return a rollout with the course of every process; needs the listener, which keeps it in a file

        @param string group    The group; empty: any
        @param int rollout     The number of the rollout; 0: the last one
        @return string json    The fields of getRollout; also availability: an array of [seconds, processes available],
                               and for each process stages: an array of [stage, seconds], and latencies_ms; seconds are
                               those since the rollout began
        """
        self._update("getRecord")
        rollout = valid(int, rollout, "rollout")
        group = group_of(self.supervisord, group) if group != "" else ""
        self._listener.check()
        return self._ask("record", group, False, rollout=str(rollout or ""))

    # --- requests and their deferred answers

    def _restart(self, given: Options, wait: bool, group: str, end: Callable[[int], Any], **details: Any) -> Any:
        """``end``: what the client gets that waits for it, of the number of the rollout."""
        self._listener.check()
        self._check_free(group)
        kind, settings = "plan" if given.dry_run else "restart", settings_of(self.supervisord, group)
        details.update(max_unavailable=str(given.max_unavailable), force=given.force, by=given.client_name)
        return self._ask(kind, group, wait, end, settings=settings, **details)

    def _ask(self, kind: str, group: str, wait: bool, end: Callable[[int], Any] | None = None, **details: Any) -> Any:
        if self.mailbox.is_full(self.clock() - ANSWER_TIMEOUT):
            raise RollingFault(
                Fault.REFUSED,
                "%d requests wait for the listener already. Fix: ask again in %g s; if it stays so, see "
                "supervisorctl tail %s stderr" % (len(self.mailbox.requests), ANSWER_TIMEOUT, self._listener.name()),
                page="listener.no_answer",
            )
        user, client = client_identity()
        identity: dict[str, Any] = {"user": user, "client": client, "began": self.wall()}
        asked = self.mailbox.ask(kind, group, self.clock(), **identity, **details)
        self._ring()
        at_end = end or self._end_of(group)
        return self._deferred("restart" if kind == "plan" else kind, lambda: self._outcome(asked, wait, at_end))

    def _deferred(self, method: str, answer: Callable[[], Any]) -> Any:
        def observe() -> Any:  # a plain function, or supervisord takes it for the answer
            try:
                return answer()
            except RPCError:
                raise
            except Exception as error:  # noqa: BLE001 - it is not the client's fault, nor supervisord's
                raise self._defects.fault(method, error) from None

        # supervisord finds these on the function itself; functions have no such attributes for a type checker.
        observe.delay = 0.05  # type: ignore[attr-defined]
        observe.rpcinterface = self  # type: ignore[attr-defined]
        return observe

    def _outcome(self, asked: PendingRequest, wait: bool, end: Callable[[int], Any]) -> Any:
        group = asked.request.group
        if asked.state == "asked":
            return self._not_yet(asked)
        if asked.state == "gone":
            raise RollingFault(
                Fault.REFUSED, "the group %s was removed from supervisord" % group, page="rollout.removed"
            )
        if asked.state == "refused":
            raise RollingFault(asked.code, asked.text)
        if asked.state == "answered":
            return self._answer(asked.request.kind, asked.answer)
        return end(asked.rollout) if wait else self.getRollout(group)

    def _answer(self, kind: str, answer: Any) -> Any:
        if kind == "plan":
            return self._view(answer)
        if kind == "check":
            return struct(report_view(answer))
        return [struct(view) for view in answer] if kind == "history" else answer

    def _not_yet(self, asked: PendingRequest) -> Any:
        if self.clock() - asked.at < ANSWER_TIMEOUT and not self._listener.has_given_up():
            return NOT_DONE_YET
        self.mailbox.answer(asked.request.id, "abandoned")  # a rollout must not start when no client expects it
        self._listener.check()
        uptime = self._listener.shortest_uptime()
        again = "; it was started %.1f s ago, so it exits again and again" % uptime
        raise RollingFault(
            Fault.LISTENER_DOWN,
            "the listener did not answer within %g s%s: see its log (supervisorctl tail %s stderr)"
            % (ANSWER_TIMEOUT, again if uptime < ANSWER_TIMEOUT / 2 else "", self._listener.name()),
            page="listener.no_answer",
        )

    def _end_of(self, group: str) -> Callable[[int], Any]:
        """A function that returns the ended rollout of a number, or not yet."""
        return self._unless_stalled(group, lambda number: self._end_now(group, number))

    def _ends_of(self, groups: Sequence[str]) -> Callable[[int], Any]:
        """The same for groups that follow each other: it gets the number of the first rollout, and returns all."""
        ended: list[Any] = []
        last = 0

        def now(first: int) -> Any:
            nonlocal last
            while len(ended) < len(groups):
                group, before = groups[len(ended)], self.mailbox.rollouts.get(groups[len(ended) - 1])
                problem = before.next_problem if before is not None and before.id == last else UNKNOWN_NEXT
                rollout = self.mailbox.rollouts.get(group)
                if ended and problem and (rollout is None or rollout.id <= last):
                    raise RollingFault(Fault.ROLLOUT_FAILED, "%s was not restarted: %s" % (group, problem))
                if ended and (rollout is None or rollout.id <= last):
                    return NOT_DONE_YET
                number = rollout.id if ended and rollout is not None else first
                found = self._end_now(group, number)
                if found is NOT_DONE_YET:
                    return found
                ended.append(found)
                last = number
            return ended

        return self._unless_stalled(groups[0], now)

    def _unless_stalled(self, group: str, found_now: Callable[[int], Any]) -> Callable[[int], Any]:
        """What is found of the rollout of a number, or not yet; a fault where the listener has not run for too long."""
        gone_since = 0.0  # by what this client has seen: supervisord itself may have been stopped for a while

        def end(number: int) -> Any:
            nonlocal gone_since
            found = found_now(number)
            if found is not NOT_DONE_YET or self._listener.is_running():
                gone_since = 0.0
                return found
            gone_since = gone_since or self.clock()
            if self.clock() - gone_since >= LISTENER_GONE_AFTER:
                raise RollingFault(
                    Fault.LISTENER_DOWN,
                    "the listener has not answered for %g s: rollout %d of %s is stalled, and its closed ports reopen, "
                    "at the latest when their lease expires. Fix: supervisorctl restart %s; the rollout continues then"
                    % (LISTENER_GONE_AFTER, number, group, self._listener.name()),
                )
            return NOT_DONE_YET

        return end

    def _end_now(self, group: str, number: int) -> Any:
        rollout = self.mailbox.rollouts.get(group)
        if rollout is None:
            raise RollingFault(
                Fault.ROLLOUT_FAILED, "the group %s was removed from supervisord" % group, page="rollout.removed"
            )
        if rollout.id != number:
            raise RollingFault(
                Fault.ROLLOUT_FAILED,
                "rollout %d has ended, and rollout %d has started" % (number, rollout.id),
                page="rollout.unknown",
            )
        if rollout.status is Status.RUNNING:
            return NOT_DONE_YET
        if rollout.status is Status.FAILED:
            raise RollingFault(Fault.ROLLOUT_FAILED, rollout.why, rollout.code)
        if rollout.status is Status.ABORTED:
            raise RollingFault(Fault.ROLLOUT_ABORTED, "the rollout was aborted. %s" % rollout.why, rollout.code)
        return self._view(rollout)

    # --- what the methods above share

    def _flag(self, group: str, wish: str, **flags: bool) -> dict[str, Any]:
        if not self.mailbox.flag(group, **flags):
            rollout, hint = self.mailbox.rollouts.get(group), ""
            if rollout is not None and rollout.status is Status.RUNNING:
                raise RollingFault(Fault.REFUSED, ABORTING % (group, group), page="rollout.in_progress")
            if rollout is not None and rollout.status in RESUMABLE:
                how = rollout.status.value
                hint = " (the last one %s: supervisorctl rolling_resume %s continues it)" % (how, group)
            raise RollingFault(
                Fault.NO_ROLLOUT_KNOWN, "no rollout of %s is running: nothing %s%s" % (group, wish, hint)
            )
        self._ring()
        return self._view(self.mailbox.rollouts[group])

    def _check_free(self, group: str) -> None:
        holder = self.mailbox.holder(group, self.clock() - ANSWER_TIMEOUT)
        if holder is not None:
            raise RollingFault(Fault.ROLLOUT_IN_PROGRESS, BUSY % (group, holder_text(holder), group))

    def _view(self, rollout: Rollout) -> dict[str, Any]:
        return struct(rollout_view(rollout, self.clock(), Detail.PROCESSES, listener=self._listener.is_running()))


def _packed(answer: Any) -> Any:
    """A deferred answer, packed once it is there."""
    return answer if answer is NOT_DONE_YET else packed(answer)
