"""Serves the demo application on one port: ``python -m tests.support.site --port 8000``.

The WSGI container works on a pool of threads. In the post a process did one request at a time; with the lab's load
(100 requests a second, 5 % of them a POST of 1.5 s) that would keep 7.5 of 8 processes busy with POSTs alone, and the
steady state itself would be bad. As in the post, there is no handler for SIGTERM: what is in flight when a process is
stopped is lost.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor

from tests.support.site.deploy import boot, read_deploy
from tests.support.site.life import UP, tell

THREADS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo application.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.address, arguments.port))


async def serve(address: str, port: int) -> None:
    """Serve for ever. Exits with a message if the deploy is one that dies."""
    deploy = read_deploy()
    boot(deploy)
    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    from tests.support.site.views import make_application

    container = WSGIContainer(make_application(deploy), ThreadPoolExecutor(THREADS))
    HTTPServer(container).listen(deploy.port(port), address)
    tell(UP)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
