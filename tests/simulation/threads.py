"""What the listener runs in threads, in the simulated world: warm-ups, notifications, hooks, and slow calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from supervisor_rolling.core.jobs import (
    HookJob,
    HookResult,
    NotificationJob,
    NotificationStatus,
    WarmupJob,
    WarmupStatus,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


class FakeWarmups:
    """The ``Warmups`` of one listener."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.running: dict[str, tuple[WarmupJob, float]] = {}
        self.warmed: set[str] = set()
        self._late: dict[str, tuple[WarmupJob, float]] = {}

    def restart(self) -> None:
        self.running = {}

    def tend(self, group: str, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        jobs = {name.partition(":")[2]: job for name, job in selected.items()}
        self.running = {
            n: one for n, one in self.running.items() if n in jobs and jobs[n].incarnation == one[0].incarnation
        }
        self.warmed |= jobs.keys()
        for name, job in jobs.items():
            begun = self.running.get(name)
            if begun is None or begun == self._late.get(name):
                self.running[name] = (job, self._world.now)
        self._world.operation("tend")
        found = {name: self._status(name, *one) for name, one in self.running.items()}
        self._late = {name: self.running[name] for name, status in found.items() if status.state == "late"}
        return {f"{group}:{name}": status for name, status in found.items()}

    def end(self) -> None:
        self.running = {}

    def _status(self, name: str, job: WarmupJob, begun: float) -> WarmupStatus:
        world = self._world
        process, took = world.processes[name], world.now - begun
        is_over = self._late.get(name) == (job, begun)
        if is_over or process.pid != job.pid or not world.accepts(process) or took < process.warm_takes:
            state = "late" if took >= job.policy.timeout else "warming"
            return WarmupStatus(job.pid, state, why="nothing listens on its port", spawned=job.spawned)
        if process.warms != "warm":
            return WarmupStatus(job.pid, "failed", why=process.warms, spawned=job.spawned)
        process.warm_pid = job.pid
        return WarmupStatus(job.pid, "warm", 11, 730.0, 3.0, spawned=job.spawned)


class FakeNotifications:
    """The ``DrainNotifications`` of one listener. ``takes``: seconds of each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.takes = 0.05
        self._given: dict[str, tuple[int, float]] = {}

    def restart(self) -> None:
        self._given = {}

    def give(self, group: str, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        world = self._world
        jobs = {name.partition(":")[2]: job for name, job in selected.items()}
        self._given = {n: one for n, one in self._given.items() if n in jobs and jobs[n].pid == one[0]}
        for name in jobs.keys() - self._given.keys():
            self._given[name] = (jobs[name].pid, world.now)
            world.is_notified(world.processes[name], jobs[name].request)
        return {
            f"{group}:{name}": NotificationStatus(pid, f"127.0.0.1:{pid}", world.now - begun >= self.takes)
            for name, (pid, begun) in self._given.items()
        }

    def peers(self) -> frozenset[str]:
        return frozenset(f"127.0.0.1:{pid}" for pid, _ in self._given.values())

    def peers_of(self, name: str) -> list[str]:
        return [f"127.0.0.1:{self._given[name][0]}"] if name in self._given else []


class FakeHooks:
    """The ``Hooks`` of one listener. ``begun``: the commands that were started, with their variables."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.takes: dict[str, float] = {}
        self.fails: dict[str, str] = {}
        self.begun: list[tuple[str, dict[str, str]]] = []
        self._running: dict[str, float] = {}

    def restart(self) -> None:
        self._running = {}

    def tend(self, group: str, selected: Mapping[str, HookJob]) -> dict[str, HookResult]:
        self._running = {key: at for key, at in self._running.items() if key in selected}
        for key, job in selected.items():
            if key not in self._running:
                self._running[key] = self._world.now
                self.begun += [(name, dict(job.variables)) for name, _ in job.hooks]
        return {key: self._result(self._running[key], job) for key, job in selected.items()}

    def end(self) -> None:
        self._running = {}

    def _result(self, begun: float, job: HookJob) -> HookResult:
        whys = [f"{name}: {self.fails[name]}" for name, _ in job.hooks if name in self.fails]
        takes = sum(self.takes.get(name, 0.2) for name, _ in job.hooks)
        is_over = self._world.now - begun >= takes
        return HookResult("over", "; ".join(whys)) if is_over else HookResult("running")


class FakeBackground:
    """The ``Background`` of the world: a call is over after ``world.background_takes(key)`` seconds, and wakes the
    loop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[Hashable, tuple[float, Any, Exception | None]] = {}

    def run(self, key: Hashable, call: Callable[[], T]) -> T | None:
        if key not in self._calls:
            over_at = self._world.now + self._world.background_takes(key)
            self._world.wakes.append(over_at)
            try:
                self._calls[key] = (over_at, call(), None)
            except Exception as raised:  # noqa: BLE001 - raised by a later call
                self._calls[key] = (over_at, None, raised)
        over_at, value, error = self._calls[key]
        if self._world.now < over_at:
            return None
        if error is not None:
            del self._calls[key]
            raise error
        found: T = value
        return found

    def keep(self, keys: Collection[Hashable]) -> None:
        self._calls = {key: call for key, call in self._calls.items() if key in keys}
