"""One small application behind four servers: ``python -m tests.support.pooled_clients --server waitress --port 8000``.

Every path answers at once but ``POST /slow``, which takes SLOW_SECONDS. Wrapped into the middleware that belongs to
the server, but with ``--bare``. The servers keep idle connections for longer than nginx does: a server that ends
them first loses a request now and then, with any way to restart it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from supervisor_rolling import asgi, wsgi

SLOW_SECONDS = 0.3
KEEP = 75  # seconds; nginx keeps a connection of its pool for 60
THREADS = 16
BARE = "LAB_POOLED_BARE"

BODY = b"fine\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def plain_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/slow"):
        time.sleep(SLOW_SECONDS)
    start_response("200 OK", [*HEADERS, ("X-Pid", str(os.getpid()))])
    return [BODY]


async def plain_asgi(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if (scope["method"], scope["path"]) == ("POST", "/slow"):
        await asyncio.sleep(SLOW_SECONDS)
    headers = [*HEADERS, ("X-Pid", str(os.getpid()))]
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": 200, "headers": encoded})
    await send({"type": "http.response.body", "body": BODY})


is_bare = BARE in os.environ
wsgi_application = plain_wsgi if is_bare else wsgi.CloseWhileDraining(plain_wsgi)
asgi_application = plain_asgi if is_bare else asgi.CloseWhileDraining(plain_asgi)


def gunicorn(port: int, address: str) -> None:
    options = ["--worker-class=gthread", f"--threads={THREADS}", f"--keep-alive={KEEP}", f"--bind={address}:{port}"]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.support.pooled_clients:wsgi_application"]
    os.execv(command[0], command)


def waitress(port: int, address: str) -> None:
    from waitress import serve

    serve(wsgi_application, host=address, port=port, threads=THREADS, channel_timeout=KEEP)


def tornado(port: int, address: str) -> None:
    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    async def run() -> None:
        server = HTTPServer(WSGIContainer(wsgi_application, ThreadPoolExecutor(THREADS)))
        server.listen(port, address)
        await asyncio.Event().wait()

    asyncio.run(run())


def uvicorn(port: int, address: str) -> None:
    from uvicorn import run

    run(asgi_application, host=address, port=port, timeout_keep_alive=KEEP, access_log=False)


SERVERS: dict[str, Callable[[int, str], None]] = {
    "gunicorn": gunicorn,
    "tornado": tornado,
    "waitress": waitress,
    "uvicorn": uvicorn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", choices=sorted(SERVERS), required=True)
    parser.add_argument("--bare", action="store_true", help="without the middleware")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    if arguments.bare and not is_bare:  # the workers of a forking server import this module anew
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.support.pooled_clients", *sys.argv[1:]],
            {**os.environ, BARE: "1"},
        )
    SERVERS[arguments.server](arguments.port, arguments.address)


if __name__ == "__main__":
    main()
