"""Answers the requests that supervisord has for the listener."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

from supervisor_rolling.core.errors import ConflictError, Fault, FaultError, SupervisorError
from supervisor_rolling.core.public_view import Detail, rollout_view
from supervisor_rolling.core.rollout import Status
from supervisor_rolling.core.snapshot import Request, Snapshot
from supervisor_rolling.listener.contracts import History, Supervisor
from supervisor_rolling.listener.rollout_requests import RolloutRequests

log = logging.getLogger("supervisor_rolling")

HISTORY_KINDS = ("history", "record")
"""The kinds of requests that ask about earlier rollouts."""


class RequestHandler:
    """For the loop's thread."""

    def __init__(
        self, supervisor: Supervisor, history: History, rollouts: RolloutRequests, clock: Callable[[], float]
    ) -> None:
        self._supervisor = supervisor
        self._history = history
        self._rollouts = rollouts
        self._clock = clock

    @property
    def is_retrying(self) -> bool:
        """Whether a request waits for something that does not wake the loop."""
        return self._rollouts.is_retrying

    def answer(self, snapshot: Snapshot) -> bool:
        """Answer what can be answered now. Whether anything was: then the snapshot is out of date."""
        self._rollouts.begin([request.id for request in snapshot.requests])
        answered = [self._answered(request, snapshot) for request in _at_a_time(snapshot.requests)]
        return any(answered)

    def _answered(self, request: Request, snapshot: Snapshot) -> bool:
        """Whether a request was answered. One that fails is refused, and the others are still answered."""
        try:
            if request.kind in HISTORY_KINDS:
                self._answer_history(request, snapshot)
                return True
            return self._rollouts.answer(request, snapshot)
        except ConflictError:  # the next reconcile tries again
            return False
        except FaultError as error:
            why = str(error)
            log.warning(
                "%s of %s cannot be answered: %s",
                request.kind,
                request.group or "all groups",
                why,
                extra={"code": error.code},
            )
        except SupervisorError:
            raise
        except Exception as error:
            log.exception("a bug in supervisor_rolling: %s of %s", request.kind, request.group)
            why = f"a bug in supervisor_rolling: {type(error).__name__}: {error}"
        with contextlib.suppress(FaultError):
            self._supervisor.refuse(request.id, Fault.INTERNAL_ERROR, why)
        return True

    def _answer_history(self, request: Request, snapshot: Snapshot) -> None:
        live = {rollout.id: rollout for _, rollout in snapshot.rollouts.values() if rollout.status is Status.RUNNING}
        if request.kind == "history":  # of one that runs, the file has only the beginning
            self._supervisor.answer(
                request.id,
                [
                    rollout_view(live[one.id], self._clock(), Detail.SUMMARY)
                    if one.status is Status.RUNNING and one.id in live
                    else one
                    for one in self._history.summaries(request.group, request.number)
                ],
            )
            return
        found = self._history.find(request.group, request.rollout)
        if found is None:
            which = " ".join(filter(None, ("rollout", request.rollout, request.group and f"of {request.group}")))
            self._supervisor.refuse(
                request.id,
                Fault.NO_ROLLOUT_KNOWN,
                f"no {which} is known. Those that are: supervisorctl rolling_history",
            )
            return
        if found.status is Status.RUNNING and found.id in live:
            found = rollout_view(live[found.id], self._clock(), Detail.COURSE)
        self._supervisor.answer(request.id, found)


def _at_a_time(requests: Sequence[Request]) -> list[Request]:
    """What is answered in one reconcile: of the questions about earlier rollouts only the first. Each may take a tenth
    of a second to read, in which the port of a process that dies stays open. The next reconciles answer the others."""
    history = [request for request in requests if request.kind in HISTORY_KINDS]
    return [request for request in requests if request.kind not in HISTORY_KINDS or request is history[0]]
