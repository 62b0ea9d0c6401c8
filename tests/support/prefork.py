"""A server with a worker that outlives its master: ``python -m tests.support.prefork --port 8000 --address 127.0.0.1``.

The master tries its port until it has it, as nginx and gunicorn do, and forks a worker, which answers as the light
application does. It ends its worker on SIGTERM; after a SIGKILL the worker goes on. With ``LAB_SHARES`` in the
environment it takes its port with SO_REUSEPORT.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time

from tests.support.light_app import BACKLOG, Application
from tests.support.site.deploy import boot, read_deploy

SHARES = "LAB_SHARES"
RETRY_EVERY = 0.2


def bound(address: str, port: int) -> socket.socket:
    """A socket that listens there, as soon as there is room."""
    while True:
        try:
            return socket.create_server((address, port), backlog=BACKLOG, reuse_port=SHARES in os.environ)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(RETRY_EVERY)


async def work(listening: socket.socket) -> None:
    """Answer on it for ever."""
    server = await asyncio.start_server(Application(read_deploy()).serve, sock=listening, backlog=BACKLOG)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve with one worker.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    boot(read_deploy())
    listening = bound(arguments.address, arguments.port)
    worker = os.fork()
    if not worker:
        asyncio.run(work(listening))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGTERM))
    os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
