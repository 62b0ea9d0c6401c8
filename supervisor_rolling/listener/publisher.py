"""Keeps the history and serves the metrics. No decision depends on either, so no error here leaves this module."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from supervisor_rolling.core.group import Group
from supervisor_rolling.core.metrics_snapshot import GroupMetrics, group_metrics
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.contracts import History, Metrics
from supervisor_rolling.listener.group_errors import GroupErrors

log = logging.getLogger("supervisor_rolling")


class Publisher:
    """For the loop's thread."""

    def __init__(self, history: History, metrics: Metrics, errors: GroupErrors) -> None:
        self._history = history
        self._metrics = metrics
        self._errors = errors
        self._counted: Mapping[str, Group] = {}

    def keep(self, snapshot: Snapshot) -> None:
        """Keep the rollouts that supervisord knows, before others take their place."""
        try:
            self._history.keep([rollout for _, rollout in snapshot.rollouts.values()])
        except Exception:
            log.exception("a bug in supervisor_rolling; rollouts go on, and are missing in the history")

    def count(self, groups: Mapping[str, Group]) -> None:
        """Count what has changed since the last time."""
        try:
            self._count(groups)
        except Exception:
            log.exception("a bug in supervisor_rolling; rollouts go on, and are missing in the metrics")

    def close(self, groups: Collection[Group], at: float, is_orphan: bool) -> None:
        """The listener exits. ``at``: of the last observation."""
        self._history.close([group.rollout for group in groups if group.rollout], at, is_orphan)

    def _count(self, groups: Mapping[str, Group]) -> None:
        if not self._metrics.is_on():
            return
        found = self._errors.each(groups, lambda name: _metrics_of(self._counted.get(name), groups[name]))
        warmups = {f"{name}:{one}": s for name, group in groups.items() for one, s in group.observed.warmups.items()}
        self._metrics.update(found, warmups)
        counted = {**self._counted, **{name: groups[name] for name in found}}
        self._counted = {name: group for name, group in counted.items() if name in groups}


def _metrics_of(old: Group | None, new: Group) -> GroupMetrics:
    """``old``: the group as it was counted last; None: it was not."""
    before = (old.rollout, old.guard_state) if old else (new.rollout, new.guard_state)
    return group_metrics(before, (new.rollout, new.guard_state), new.observed, len(new.closed()))
