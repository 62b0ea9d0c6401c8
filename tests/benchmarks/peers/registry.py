"""Every peer, and the stack that each is started in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.benchmarks.peers import circus, gunicorn, uwsgi
from tests.benchmarks.peers.startup import WORKERS
from tests.support.stack import Setup, Stack


class Peer(NamedTuple):
    """``module`` has the ``main``; ``distribution`` is where its version stands."""

    about: str
    module: str
    distribution: str
    prepare: Callable[[Stack], None]
    reload: Callable[[Stack], None]

    def setup(self, workers: int) -> Setup:
        """A stack in which so many processes share one port. To stop takes as long as what is in flight."""
        program = f'environment={WORKERS}="{workers}"\nstopwaitsecs=60'
        return Setup(processes=1, application=self.module, program=program)


PEERS: Mapping[str, Peer] = {
    "gunicorn": Peer("gunicorn, HUP", gunicorn.__name__, "gunicorn", gunicorn.prepare, gunicorn.reload),
    "uwsgi": Peer("uWSGI, chain reload", uwsgi.__name__, "uWSGI", uwsgi.prepare, uwsgi.reload),
    "circus": Peer("circus, reload --sequential", circus.__name__, "circus", circus.prepare, circus.reload),
}
