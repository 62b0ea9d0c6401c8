"""The demo application as a peer's worker imports it: booted, and warm before the worker takes a request.

The process warms every page itself: the best that can be had if no client can reach one process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from tests.support.site import PATHS
from tests.support.site.deploy import boot, read_deploy
from tests.support.site.life import UP, tell
from tests.support.site.views import make_application

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def warm(application: Application) -> None:
    """Raises RuntimeError where a page is not answered with 200: the peer then has a worker that does not boot."""
    for path in PATHS:
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        statuses: list[str] = []
        for _ in application(environ, lambda status, *_rest, statuses=statuses: statuses.append(status)):
            pass
        if statuses != ["200 OK"]:
            raise RuntimeError(f"warming up: {path} answered {statuses}")


deploy = read_deploy()
boot(deploy)
application = make_application(deploy)
warm(application)
tell(UP)
