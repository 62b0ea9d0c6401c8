"""nginx with a keepalive pool before servers that are restarted by hand: what a restart costs, and what clients see."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from supervisor_rolling.listener.keepalive_closer import StatusLineRewriter
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support.waiting import wait_until

NGINX_PORT = 8080
WITHIN = 20.0

NGINX_CONF = """\
user root;
worker_processes {workers};
daemon off;
pid nginx.pid;
error_log nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_connect_timeout 2s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream app {{
{servers}
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://app; {location} }}
    }}
}}
"""


def is_listening(port: int) -> bool:
    return bool(KernelSockets().listeners([port])[port])


def status_lines(owner: str = "lab") -> StatusLineRewriter:
    return StatusLineRewriter(owner)


@contextlib.contextmanager
def nginx(directory: Path, servers: Sequence[str], workers: int = 1, location: str = "") -> Iterator[None]:
    """nginx on NGINX_PORT, in this network namespace."""
    lines = "\n".join(f"        server {server} max_fails=0;" for server in servers)
    text = NGINX_CONF.format(servers=lines, port=NGINX_PORT, workers=workers, location=location)
    (directory / "nginx.conf").write_text(text, encoding="utf-8")
    child = subprocess.Popen(["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")])
    try:
        wait_until(lambda: is_listening(NGINX_PORT), "nginx listens")
        yield
    finally:
        child.terminate()
        child.wait(WITHIN)


class Clients:
    """Threads that ask nginx as fast as ``pause`` allows, each on a connection of its own; every other is a POST."""

    def __init__(self, number: int, pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self._pause = pause
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(number)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(WITHIN)

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", NGINX_PORT, timeout=WITHIN)
        while not self._is_over.is_set():
            method = ("GET", "POST")[number % 2]
            number += 1
            outcome = _asked(connection, method)
            with self._lock:
                self.counts[f"{method} {outcome}"] += 1
            self._is_over.wait(self._pause)
        connection.close()

    def wait_more(self, number: int) -> None:
        """Until so many more requests have had their answer, or failed. Raises TimeoutError."""
        enough = sum(self.counts.values()) + number
        wait_until(lambda: sum(self.counts.values()) >= enough, f"{number} more requests are answered", WITHIN)

    def failed(self, method: str) -> int:
        return sum(number for key, number in self.counts.items() if key.startswith(method) and not key.endswith("200"))


def _asked(connection: http.client.HTTPConnection, method: str) -> str:
    try:
        connection.request(method, "/", body=b"x" if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__
