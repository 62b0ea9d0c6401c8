"""What runs in threads for each group: warm-ups, drain notifications and hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from supervisor_rolling.core import guard, hook_steps, machine
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import HookResult, NotificationJob, WarmupJob, WarmupStatus
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.listener.contracts import DeathWatch, DrainNotifications, Hooks, Warmups
from supervisor_rolling.listener.gatekeeper import Gatekeeper

T = TypeVar("T")
J = TypeVar("J", WarmupJob, NotificationJob)


@dataclass(frozen=True)
class Progress:
    """How far the threads of one group are."""

    warmups: Mapping[str, WarmupStatus] = field(default_factory=dict)
    notifying: frozenset[str] = frozenset()  # the processes that are being notified
    hook: HookResult | None = None


class Workers:
    """Starts and drops the threads of each group as its rollout and its guard ask for."""

    def __init__(
        self,
        warmups: Warmups,
        notifications: DrainNotifications,
        hooks: Hooks,
        gatekeeper: Gatekeeper,
        deaths: DeathWatch,
    ) -> None:
        self._warmups = warmups
        self._notifications = notifications
        self._hooks = hooks
        self._gatekeeper = gatekeeper
        self._deaths = deaths

    def tend(
        self,
        group: str,
        rollout: Rollout | None = None,
        guard_state: GuardState | None = None,
        processes: Mapping[str, Process] | None = None,
    ) -> Progress:
        """Run what this group needs now, and nothing else for it."""
        guarded = guard.jobs(guard_state) if guard_state else {}
        warmups = self._warmups.tend(
            group, self._jobs(group, {**guarded, **(machine.jobs(rollout) if rollout else {})})
        )
        notified = self._notifications.give(group, self._jobs(group, self._due(rollout, processes or {})))
        hook = hook_steps.job(rollout) if rollout else None
        key = _hook_key(rollout) if rollout else ""
        hooked = self._hooks.tend(group, {key: hook} if hook else {})
        notifying = frozenset(name for name, one in _by_name(group, notified).items() if not one.is_over)
        return Progress(_by_name(group, warmups), notifying, hooked.get(key))

    def end(self) -> None:
        """Drop everything, and wait a moment for the commands that run."""
        self._hooks.end()
        self._warmups.end()

    def _due(self, rollout: Rollout | None, processes: Mapping[str, Process]) -> dict[str, NotificationJob]:
        if rollout is None or rollout.status is not Status.RUNNING:
            return {}
        found = machine.notifications(rollout, processes, self._gatekeeper.closed_since)
        dead = self._deaths.take() if found else ()
        return {name: job for name, job in found.items() if job.incarnation not in dead}

    def _jobs(self, group: str, jobs: Mapping[str, J]) -> dict[str, J]:
        """The jobs, past the gate in force: a policy may have another bypass than the gate that holds the ports."""
        bypass = self._gatekeeper.bypass
        return {f"{group}:{name}": replace(job, bypass=bypass or job.bypass) for name, job in jobs.items()}


def _by_name(group: str, found: Mapping[str, T]) -> dict[str, T]:
    return {key[len(group) + 1 :]: value for key, value in found.items()}


def _hook_key(rollout: Rollout) -> str:
    """Another key at the end of a rollout than at its beginning, and after each resume."""
    return f"{rollout.group} {rollout.id} {rollout.started_at} {len(rollout.interruptions)} {rollout.final_status}"
