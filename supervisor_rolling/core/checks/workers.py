"""Findings about processes whose stop is their drain, workers and those that share a socket: it has to let them finish
the job or the request that they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.preflight_report import Finding, ProcessSettings, Settings
from supervisor_rolling.core.text import listed

DEFAULT_SIGNAL = "TERM"
"""supervisord's own; an older one does not tell which it sends."""


def listening(group: str, ports: Mapping[str, Sequence[int]], families: Mapping[str, Wrapper]) -> Iterator[Finding]:
    """That users may be sent to them after all. ``ports``: those that each process listens on."""
    for name in sorted((name for name in families if ports.get(name)), key=natural):
        yield Finding(
            "ports.none",
            f"{group}:{name}",
            f"listens on port {listed(map(str, ports[name]))}, which is not closed (ports: none): if a load balancer "
            "sends to it, requests fail while the process restarts",
            f"remove ports: none from groups.{group} in rolling.yaml; if it is only for metrics or the like, do "
            "nothing",
        )


def findings(
    group: str, families: Mapping[str, Wrapper], settings: Settings, drain_signal: str = "", work: str = "job"
) -> Iterator[Finding]:
    """What is wrong with the way in which they are stopped. ``families``: each process by its name, with its
    descendants as ``inner``. ``work``: what they finish."""
    known = {one.name: one for one in settings.processes}
    for name in sorted(families.keys() & known.keys(), key=natural):
        where, worker = f"{group}:{name}", families[name]
        if drain_signal and drain_signal not in worker.caught:
            yield _deaf(where, worker, drain_signal, work)
        yield from _of_worker(where, worker, known[name], work)


def _deaf(where: str, worker: Wrapper, signal: str, work: str) -> Finding:
    """That ``drain.signal`` does not make it finish its job."""
    then = f"ends it at once, in the middle of a {work}" if worker.dies_of(signal) else "does not make it exit"
    by_stop = "or remove drain.signal, so that its stopsignal asks it to finish"
    fix = f"handle the signal: finish the {work}, then exit; {by_stop}"
    if worker.is_shell and worker.inner:
        then, fix = f"does not reach {worker.inner[0]}, its child", "start the worker with exec, as the last command"
    return Finding(
        "drain.signal", where, f"{worker} has no handler for SIG{signal} (drain.signal): the signal {then}", fix
    )


def _of_worker(where: str, worker: Wrapper, setting: ProcessSettings, work: str) -> Iterator[Finding]:
    signal = setting.stopsignal or DEFAULT_SIGNAL
    if signal in worker.ignored:
        yield Finding(
            "supervisor.stopsignal",
            where,
            f"ignores SIG{signal}, its stopsignal: supervisord kills it after {setting.stopwaitsecs:g} s, in the "
            f"middle of a {work}",
            f"set stopsignal to the signal at which it finishes its {work} and exits",
        )
    elif worker.is_shell and worker.inner and not setting.stopasgroup:
        yield Finding(
            "supervisor.stopasgroup",
            where,
            f"runs the worker as a child of a shell ({worker} > {worker.inner[0]}), and stopasgroup is off: "
            f"SIG{signal} does not reach the worker, which keeps running beside the next one",
            "start the worker with exec, as the last command of the script",
        )
    elif worker.dies_of(signal) and not worker.is_shell:
        yield Finding(
            "supervisor.stopsignal",
            where,
            f"has no handler for SIG{signal}, its stopsignal: a stop ends it at once, in the middle of a {work}",
            f"handle the signal: finish the {work}, then exit; or set stopsignal to one that it handles",
        )
    elif work == "job" and setting.stopasgroup and (pool := worker.inner[worker.is_shell :]):  # without a shell's child
        yield Finding(
            "supervisor.stopasgroup",
            where,
            f"has {'1 child process' if len(pool) == 1 else f'{len(pool)} child processes'} ({pool[0]}), and "
            f"stopasgroup is on: SIG{signal} reaches them, too, and a pool such as Celery's loses the jobs that they "
            "do",
            f"{'start the worker with exec, and ' * worker.is_shell}remove stopasgroup; killasgroup=true ends what is "
            "left after a SIGKILL",
        )
