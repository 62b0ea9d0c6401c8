from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.recipes import BODY, SLOW_SECONDS, Process

process = Process()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if process.is_slow(method, path):
        time.sleep(SLOW_SECONDS)
    start_response("200 OK", process.headers(path))
    return [BODY]
