"""Runs supervisor's own tests in this process, alone or beside the plugin: ``python -m tests.support.own_suite
--beside``.

Beside the plugin means more than beside its modules: every supervisord that a test makes, real or dummy, gets what
``[rpcinterface:rolling]`` would give it, the wake-up too, and every supervisorctl our commands. Prints an ``Outcome``
as JSON; what the tests print goes to standard error. The tests bind fixed ports and write to fixed files in /tmp: each
run has a network namespace and a /tmp of its own, so it needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import unittest
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import supervisor.tests
from supervisor.options import ServerOptions
from supervisor.supervisorctl import Controller
from supervisor.supervisord import Supervisor
from supervisor.tests.base import DummyOptions, DummySupervisor

from tests.support.netns import enter_private_network, hide_tmp
from tests.support.stack import ROOT

TESTS = Path(supervisor.tests.__file__).parent


@dataclass(frozen=True)
class Outcome:
    """``ran``: how many tests; ``failed``: the names of those that failed, for whatever reason.

    ``made``: how many of each class (Supervisor, DummySupervisor, …, Controller) the plugin was given to.
    """

    ran: int
    failed: list[str]
    made: dict[str, int] = field(default_factory=dict)


def run() -> Outcome:
    """All tests that supervisor ships; those that it calls slow are run where END_TO_END is in the environment."""
    suite = unittest.defaultTestLoader.discover(str(TESTS), top_level_dir=str(TESTS.parents[1]))
    with contextlib.redirect_stdout(sys.stderr):
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(suite)
    failed = sorted(test.id() for test, _ in (*result.failures, *result.errors))
    return Outcome(result.testsRun, failed)


# --- the plugin in everything


def accompany() -> Counter[str]:
    """Have the plugin in every supervisord and supervisorctl that is made from now on; gives the count of each, which
    grows."""
    # Imported here, because a run without the plugin has to be one without it.
    from supervisor_rolling.ctl.commands import make_rolling_controllerplugin
    from supervisor_rolling.plugin.rpc import make_rolling_rpcinterface

    made: Counter[str] = Counter()

    def serve(supervisord: Any, *_: object) -> None:
        made[type(supervisord).__name__] += 1
        if hasattr(supervisord.options, "logger"):  # real ones have none yet, and get the plugin as in life
            make_rolling_rpcinterface(supervisord)

    def equip(controller: Any, *_: object) -> None:  # not listed with the others: `help` would show our commands, too
        made["Controller"] += 1
        make_rolling_controllerplugin(controller)

    for kind in (Supervisor, DummySupervisor):
        _follow(kind, "__init__", serve)
    for kind in (ServerOptions, DummyOptions):  # as in life: after events.clear(), for each HTTP server
        _follow(kind, "openhttpservers", lambda _, supervisord: make_rolling_rpcinterface(supervisord))
    _follow(Controller, "__init__", equip)
    return made


def _follow(kind: Any, name: str, then: Callable[..., object]) -> None:
    original = getattr(kind, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        then(*arguments)
        return answer

    setattr(kind, name, wrapped)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run supervisor's own tests.")
    parser.add_argument("--beside", action="store_true", help="with the plugin in everything that they make")
    arguments = parser.parse_args()
    enter_private_network()
    hide_tmp([ROOT, Path(sys.prefix), Path(sys.base_prefix)])
    made = accompany() if arguments.beside else Counter()
    found = run()
    print(json.dumps(asdict(Outcome(found.ran, found.failed, dict(made)))))


if __name__ == "__main__":
    main()
