"""gunicorn with one worker: ``python -m tests.support.gunicorn_stack --port 8000 --address 127.0.0.1``. Each answer
tells the release that its master was started with (``X-Release``)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.site.deploy import read_deploy

RELEASE = read_deploy().release


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    headers = [("X-Release", RELEASE), ("X-Pid", str(os.getpid())), ("X-Cold", "0"), ("Content-Length", "5")]
    start_response("200 OK", headers)
    return [b"fine\n"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Become gunicorn.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    bind = f"{arguments.address}:{arguments.port}"
    module = "tests.support.gunicorn_stack:application"
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--preload", "--bind", bind, module])


if __name__ == "__main__":
    main()
