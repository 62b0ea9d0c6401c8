"""A process of circus: the demo application in tornado's WSGI container, as elsewhere in the lab, on a socket that it
inherits. circus leaves it to the process to end gracefully: on SIGTERM this one accepts no more, and ends when what it
is working on is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

from tornado.httpserver import HTTPServer
from tornado.wsgi import WSGIContainer

from tests.support.site.life import LEAVING, tell

LOOK_EVERY = 0.01  # seconds


async def serve(listening: socket.socket, threads: int) -> None:
    """Until SIGTERM, and the last answer."""
    from tests.benchmarks.peers.application import application  # it boots and warms up here

    leaves = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaves.set)
    server = HTTPServer(WSGIContainer(application, ThreadPoolExecutor(threads)))
    server.add_socket(listening)
    await leaves.wait()
    tell(LEAVING)
    server.stop()
    while server._connections:  # tornado has no public way to wait for them
        await asyncio.sleep(LOOK_EVERY)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo application on an inherited socket.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    listening = socket.socket(fileno=arguments.fd)
    listening.setblocking(False)
    asyncio.run(serve(listening, arguments.threads))


if __name__ == "__main__":
    main()
