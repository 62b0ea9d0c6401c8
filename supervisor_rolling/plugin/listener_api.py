"""The methods of the ``rolling`` namespace that are for our listener alone: each wants the key of the mailbox.

What the listener writes could lead to a path, a port or an address, so a client must not be able to write it. Only the
doorbell event carries the key. Everything is validated before it is kept, so that what is kept can always be shown.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any, TypeVar

from supervisor.events import notify
from supervisor.options import make_namespec
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.states import ProcessStates, SupervisorStates, getProcessStateDescription
from supervisor.xmlrpc import Faults, RPCError

from supervisor_rolling.codec import dump, load, load_changes
from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.core.snapshot import Request, SnapshotQuery
from supervisor_rolling.core.text import ascii_only, plain, readable
from supervisor_rolling.packing import pack, unpack
from supervisor_rolling.plugin.arguments import ANSWER_TIMEOUT, incorrect, valid, valid_by
from supervisor_rolling.plugin.events import RollingRequestEvent, events_between
from supervisor_rolling.plugin.fault_barrier import Defects, RollingFault, contained
from supervisor_rolling.plugin.mailbox import Mailbox
from supervisor_rolling.plugin.supervisor_settings import gets_doorbell, settings_of
from supervisor_rolling.plugin.views import BUSY, holder_text, holds_ports

T = TypeVar("T")

ROLLOUT_KINDS = ("restart", "resume")
"""The kinds of requests that a rollout answers."""


@contained
class ListenerMethods:
    """Base of the namespace. supervisord calls the methods of a base, but does not list them. JSON may come packed."""

    supervisord: Any
    mailbox: Mailbox
    clock: Callable[[], float]
    wall: Callable[[], float]
    _defects: Defects
    _supervisor: SupervisorNamespaceRPCInterface

    def _update(self, text: str) -> None:
        self.update_text = text  # for unit tests, mainly
        if self.supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)

    def listenerHello(self) -> bool:
        """Send the listener its key in a doorbell event. Other callers learn nothing."""
        self._update("listenerHello")
        self._ring()
        return True

    def listenerObserve(self, key: Any, known: Any) -> str:
        """Return what the listener does not have yet, as JSON, packed where it is long. ``known``: a ``Known``."""
        self._update_by_listener("listenerObserve", key)
        has = valid(SnapshotQuery, known, "known")
        now = self.clock()
        idle = now - self.mailbox.observed_at if self.mailbox.observed_at else 0.0
        self.mailbox.observed_at, self.mailbox.problem = now, readable(has.problem, "utf-8")
        self.mailbox.groups = has.groups
        self.mailbox.tidy(self.supervisord.process_groups, now)
        requests = [one.request for one in self.mailbox.asked(now - ANSWER_TIMEOUT)]
        number, processes = self._table_news(has.table, self._concerned(requests, has.guarded))
        news = {
            "rollouts": self.mailbox.rollouts.news(has.rollouts),
            "rollout_groups": list(self.mailbox.rollouts),
            "guard_states": self.mailbox.guard_states.news(has.guard_states),
            "guarded_groups": list(self.mailbox.guard_states),
            "requests": requests,
            "table": number,
            "processes": processes,
            "idle": idle,
        }
        return pack(dump(news))

    def listenerRecord(self, key: Any, group: Any, version: Any, rollout: Any, request: Any) -> int:
        """Write a rollout, or its changes since that ``version``, as JSON; answer the ``request`` with it (0: none).

        Returns the new version. CONFLICT where the rollout was changed meanwhile."""
        self._update_by_listener("listenerRecord", key)
        group = valid(str, group, "group")
        version, request = valid(int, version, "version"), valid(int, request, "request")
        conflict = RollingFault(Fault.CONFLICT, "the rollout of %s was changed meanwhile" % group)
        if version != self.mailbox.rollouts.version(group):  # changes cannot be read without it
            raise conflict
        old = self.mailbox.rollouts.get(group)
        new = valid_by(lambda: _of_group(group, _rollout(_parsed(rollout), old)))
        news = list(events_between(old, new, self.clock()))  # what cannot be sent is not written
        asked = self.mailbox.requests.get(request)
        is_wanted = not request or (asked is not None and asked.request.kind in ROLLOUT_KINDS)
        is_known = group in self.supervisord.process_groups
        if not is_known or not is_wanted or not self.mailbox.record(group, version, new, self.clock()):
            raise conflict
        self.mailbox.answer(request, "accepted", rollout=new.id)
        if old is not None and old.status is Status.RUNNING and new.status is Status.DONE and new.following:
            self._ask_next(new)
        for event in news:
            notify(event)
        return self.mailbox.rollouts.version(group)

    def listenerGuard(self, key: Any, group: Any, guard_state: Any) -> int:
        """Write the state of a crash guard, as JSON; empty: the group is no longer guarded. Returns the new version."""
        self._update_by_listener("listenerGuard", key)
        group = valid(str, group, "group")
        new = None
        if guard_state != "":
            new = valid_by(lambda: _of_group(group, load(GuardState, _parsed(guard_state))))
        if group in self.supervisord.process_groups:
            self.mailbox.guard(group, new, self.clock())
        return self.mailbox.guard_states.version(group)

    def listenerAct(self, key: Any, group: Any, actions: Any) -> list[dict[str, Any]]:
        """Do ``Action``s, each only while the process is that incarnation. Returns structs of code and text."""
        self._update_by_listener("listenerAct", key)
        group = valid(str, group, "group")
        return [self._outcome_of(group, one) for one in valid(tuple[Action, ...], actions, "actions")]

    def listenerAnswer(self, key: Any, request: Any, code: Any, text: Any, answer: Any) -> bool:
        """Refuse a request with a fault and a text, or (``code`` 0) answer it without a rollout: with the JSON of the
        rollout of a plan, the report of a check, the views of a history or the view of a record."""
        self._update_by_listener("listenerAnswer", key)
        request, text = valid(int, request, "request"), valid(str, text, "text")
        faults = [value for value in vars(Fault).values() if isinstance(value, int)]
        if valid(int, code, "code") not in (0, *faults):
            raise incorrect("code: %d is not a fault of this namespace" % code)
        asked = self.mailbox.requests.get(request)
        if asked is not None and code:
            self.mailbox.answer(request, "refused", code=code, text=readable(text, "utf-8"))
        elif asked is not None:
            self.mailbox.answer(request, "answered", answer=valid_by(lambda: _answer(asked.request, answer)))
        return True

    # --- what the methods above share

    def _update_by_listener(self, text: str, key: Any) -> None:
        self._update(text)
        if not isinstance(key, str) or not hmac.compare_digest(_bytes(key), _bytes(self.mailbox.key)):
            raise RollingFault(
                Fault.LISTENER_ONLY, "%s is for the listener of [eventlistener:rolling] alone, which has a key" % text
            )

    def _ring(self) -> None:
        """Ring the doorbell, in front of everything that waits in the listener's queue: a thousand processes that start
        together put three thousand events there, and without its key the listener cannot do anything. When the queue
        overflows, supervisord drops its first event: the listener then says hello again after a second."""
        pools = [group for group in self.supervisord.process_groups.values() if gets_doorbell(group)]
        if pools and all(_is_rung(pool) for pool in pools):
            return
        event = RollingRequestEvent(self.mailbox.key)
        notify(event)
        for pool in pools:
            _put_first(pool, event)

    def _ask_next(self, done: Rollout) -> None:
        """Ask for the next of several groups: supervisord remembers the order, so no client is needed for it."""
        group, *others = done.following
        holder = self.mailbox.holder(group, self.clock() - ANSWER_TIMEOUT)
        if group not in self.supervisord.process_groups:
            self.mailbox.note_next(done.group, done.id, "the group %s was removed from supervisord" % group)
        elif holder is not None:
            self.mailbox.note_next(done.group, done.id, BUSY % (group, holder_text(holder), group))
        else:
            self.mailbox.ask(
                "restart",
                group,
                self.clock(),
                after=done,
                following=tuple(others),
                max_unavailable=done.max_unavailable,
                force=done.force,
                by=done.by,
                user=done.user,
                client=done.client,
                began=self.wall(),
                settings=settings_of(self.supervisord, group),
            )
            self._ring()

    def _outcome_of(self, group: str, action: Action) -> dict[str, Any]:
        """What became of an action. One that fails does not stop the others."""
        try:
            self._carry_out(group, action)
        except RPCError as error:
            return {"code": error.code, "text": plain(error.text)}
        except Exception as error:  # noqa: BLE001 - as supervisor's own multicall, which answers it for this one alone
            self._defects.report("rolling.listenerAct", error)
            return {"code": Faults.FAILED, "text": plain("FAILED: %s: %s" % (type(error).__name__, error))}
        return {"code": 0, "text": ""}

    def _carry_out(self, group: str, action: Action) -> None:
        """By supervisor's own methods, with their checks and faults. supervisord does nothing else in between, so the
        process cannot become another after the comparison."""
        namespec = make_namespec(group, action.name)
        there = self.supervisord.process_groups.get(group)
        process = there.processes.get(action.name) if there is not None else None
        if process is None:
            raise RPCError(Faults.BAD_NAME, namespec)
        if self._incarnation(group, action.name, process) != action.incarnation:
            raise RPCError(Faults.NOT_RUNNING, "%s is another incarnation by now" % namespec)
        with self.mailbox.times.caused_by_rollout(process):
            if action.verb is Verb.SIGNAL:
                self._supervisor.signalProcess(namespec, action.signal)
            elif action.verb is Verb.STOP:
                self._supervisor.stopProcess(namespec, False)
            else:
                self._supervisor.startProcess(namespec, False)

    # --- the process table

    def _concerned(self, requests: list[Request], guarded: tuple[str, ...]) -> set[str]:
        """The groups of which the listener needs the processes."""
        rollouts, groups = self.mailbox.rollouts, self.supervisord.process_groups
        active = [group for group in rollouts if holds_ports(rollouts[group])]
        asked = [request.group for request in requests]
        return {group for group in (*active, *asked, *guarded, *self.mailbox.guard_states) if group in groups}

    def _table_news(self, known: int, groups: set[str]) -> tuple[int, dict[str, tuple[bool, list[Any]]]]:
        """The rows that have changed, as ``{group: (is it the whole group, rows)}``."""
        tables = {group: self.supervisord.process_groups[group].processes for group in groups}
        keys = {g: {n: self._row_key(g, n, process) for n, process in table.items()} for g, table in tables.items()}
        number, news = self.mailbox.table.news(known, keys)
        rows = {g: (whole, [self._row(g, n, tables[g][n]) for n in names]) for g, (whole, names) in news.items()}
        return number, rows

    def _row_key(self, group: str, name: str, process: Any) -> tuple[Any, ...]:
        incarnation = self._incarnation(group, name, process)
        is_warm = self.mailbox.is_warm(group, name, incarnation)
        return (process.get_state(), *incarnation, process.laststop, process.spawnerr, is_warm)

    def _row(self, group: str, name: str, process: Any) -> list[Any]:
        """The values of a ``Process``: without the names of the fields, a thousand are half as long."""
        times, state = self.mailbox.times, process.get_state()
        incarnation, up_for = self._incarnation(group, name, process), times.up_for(group, name, process)
        is_starting = state == ProcessStates.STARTING
        row = Process(
            name=process.config.name,
            state=getProcessStateDescription(state),
            pid=incarnation.pid,
            spawned=incarnation.spawned,
            down_for=times.down_for(group, name, process),
            running_in=max(0.0, process.config.startsecs - up_for) if is_starting else 0.0,
            up_for=up_for,
            spawn_error=process.spawnerr or "",
            warm=self.mailbox.is_warm(group, name, incarnation),
            stopwaitsecs=process.config.stopwaitsecs,
            stopped_on_request=times.stopped_on_request(group, name),
            stopped_by_rollout=times.stopped_by_rollout(group, name),
            stop_took=times.stop_took(group, name),
            started_by_other_at=times.started_by_other_at(group, name),
        )
        return list(vars(row).values())

    def _incarnation(self, group: str, name: str, process: Any) -> Incarnation:
        return Incarnation(process.pid, self.mailbox.times.attempt(group, name, process))


def _parsed(text: Any) -> Any:
    try:
        return json.loads(unpack(valid(str, text, "JSON")))
    except RecursionError:
        raise ValueError("JSON: it is nested too deeply") from None


def _rollout(data: Any, old: Rollout | None) -> Rollout:
    if not isinstance(data, dict) or "values" not in data:
        return load(Rollout, data)
    if old is None:
        raise ValueError("values: there is no rollout to change")
    return load_changes(old, data)


def _of_group(group: str, value: T) -> T:
    if getattr(value, "group", "") != group:
        raise ValueError("group: it is of another group")
    return value


def _answer(request: Request, text: Any) -> Any:
    if request.kind == "record":
        return ascii_only(unpack(valid(str, text, "answer")))  # JSON's own escapes stay as they are
    data = _parsed(text)
    if request.kind == "history":
        return load(tuple[RolloutView, ...], data)
    return _of_group(request.group, load(Report, data) if request.kind == "check" else load(Rollout, data))


def _is_rung(pool: Any) -> bool:
    """Whether the next event of this pool is a doorbell: it is enough for all requests until then."""
    waiting: list[Any] = getattr(pool, "event_buffer", [])
    return bool(waiting) and isinstance(waiting[0], RollingRequestEvent)


def _put_first(pool: Any, event: RollingRequestEvent) -> None:
    waiting: list[Any] = getattr(pool, "event_buffer", [])
    if waiting and waiting[-1] is event:
        waiting.pop()
        waiting[:0] = [] if _is_rung(pool) else [event]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
