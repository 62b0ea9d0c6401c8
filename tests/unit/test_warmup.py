"""Warm-ups over HTTP: real servers, real sockets, and a real closed gate."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import Endpoint, tcp, unix
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import WarmupJob, WarmupStatus
from supervisor_rolling.core.policy import GatePolicy, Hook, Ready, WarmupPolicy, WarmupRequest
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.core.protocol_detection import H2_PREFACE
from supervisor_rolling.core.warmup_replies import MAX_REDIRECTS, Reply, unexpected_text
from supervisor_rolling.listener import config
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.system import socket_paths
from supervisor_rolling.listener.system.http_session import reason
from supervisor_rolling.listener.system.threads import Slots
from supervisor_rolling.listener.warmup import NEWS_AFTER, HttpWarmups, _Warmup
from tests.support.hosts import Host
from tests.support.waiting import poll, stays

NAME = "app:app-1"
PID = 4711
DEADLINE = 20.0  # seconds after which a test that waits has failed
FOR_EVER = 600.0
LEASE = 10.0
WITHIN_LEASE = 5.0  # after the lease everybody passes

Answer = Callable[["Asked"], int]


class Asked:
    """One request as it came."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: str, peer: str) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.peer = peer

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


class Server:
    """An application that writes down what it is asked. ``answer`` gives the status of a request."""

    def __init__(self, keep: ExitStack, address: str = "127.0.0.1", port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.answer: Answer = lambda asked: 200
        self.hangs = threading.Event()
        self.hangs.set()
        self.location = "/elsewhere"  # to which a redirect leads
        self.trickles = False  # a byte every hundredth of a second, and no end
        self._http = self._listening(address, port)
        self.port = int(self._http.server_address[1])
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        keep.callback(self._end, thread)

    @property
    def lines(self) -> list[str]:
        return [asked.line for asked in self.asked]

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def _listening(self, address: str, port: int) -> ThreadingHTTPServer:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = type("Http", (ThreadingHTTPServer,), {"address_family": family})
        return kind((address, port), self._handler())

    def _end(self, thread: threading.Thread) -> None:
        self.hangs.set()
        self._http.shutdown()
        self._http.server_close()
        thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def __getattr__(self, name: str) -> Any:
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return self.reply

            def reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                asked = Asked(self.command, self.path, dict(self.headers), body, self.client_address[0])
                server.asked.append(asked)
                server.hangs.wait(DEADLINE)
                status = server.answer(asked)
                if status == 0:  # it hangs up
                    self.close_connection = True
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", server.location)
                self.send_header("Content-Length", "100000" if server.trickles else "0")
                self.end_headers()
                until = time.monotonic() + DEADLINE
                while server.trickles and time.monotonic() < until:
                    self.wfile.write(b".")
                    time.sleep(0.01)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Told:
    """The ``Sockets`` of a test: the kernel's listeners, or what ``addresses`` says; of processes, what is given."""

    def __init__(
        self,
        addresses: Callable[[int], tuple[str, ...]] | None,
        ports: Callable[[int], tuple[int, ...]],
        others: Callable[[int, int], tuple[Holder, ...]],
    ) -> None:
        self._addresses = addresses
        self._ports = ports
        self._others = others
        self.accepting: set[int] = set()
        self.paths: set[str] = set()
        self.hides = False
        self.memory_files: list[str] = []

    def listens_at(self, path: str, pid: int) -> bool:
        return path in self.paths

    def unix_of(self, pids: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(pids, ("/run/other.sock",))

    def holders_of(self, ports: Collection[int]) -> dict[int, Holder]:
        return {}

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> dict[int, Wrapper]:
        return {}

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> Mapping[Endpoint, Connections]:
        raise AssertionError("a warm-up walks the table of all connections")

    def families_of(self, pids: Collection[int]) -> dict[int, Wrapper]:
        return {}

    def listeners(self, ports: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        raise AssertionError("a warm-up asks for listeners without their holders")

    def listening(self, port: int, pid: int) -> PortUse:
        """The kernel's, where the test does not say otherwise: the process of the test listens for all."""
        use = KernelSockets().listening(port, os.getpid())
        addresses = use.addresses if self._addresses is None else self._addresses(port)
        others = self._others(port, pid) if addresses else ()
        return PortUse(addresses, () if others else addresses, others)

    def ports_of(self, pids: Collection[int]) -> Mapping[int, tuple[int, ...]]:
        return {pid: self._ports(pid) for pid in pids}

    def accepts(self, pid: int) -> bool:
        if self.hides:
            raise SocketsError("hidden")
        return pid in self.accepting

    def reuseport_of(self, pids: Collection[int]) -> list[int]:
        return []

    def memory_files_of(self, pid: int) -> Sequence[str]:
        return self.memory_files


class Warmer:
    """HttpWarmups, tended until something has come of it."""

    def __init__(
        self,
        addresses: Callable[[int], tuple[str, ...]] | None = None,
        ports: Callable[[int], tuple[int, ...]] = lambda pid: (),
        others: Callable[[int, int], tuple[Holder, ...]] = lambda port, pid: (),
    ) -> None:
        self.changed = threading.Event()
        self.sockets = Told(addresses, ports, others)
        self.warmups = HttpWarmups(self.sockets, self.changed.set)
        self.is_shared = False

    def tend(self, where: int | str, pid: int = PID, bypass: str = "mark", **policy: Any) -> WarmupStatus:
        ready = Ready(policy.pop("ready", ""), Hook(tuple(policy.pop("command", ()))))
        endpoints = (unix(where) if isinstance(where, str) else tcp(where),) if where else ()
        warmup = WarmupPolicy(**{"timeout": DEADLINE, "ready": ready, **policy})
        job = WarmupJob(pid, endpoints, warmup, bypass, is_shared=self.is_shared)
        return self.warmups.tend("app", {NAME: job})[NAME]

    def until_over(self, where: int | str, **details: Any) -> WarmupStatus:
        return poll(lambda: self.tend(where, **details), lambda warmup_status: warmup_status.state != "warming")


def gets(*paths: str) -> tuple[WarmupRequest, ...]:
    return tuple(WarmupRequest(path=path) for path in paths)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def server(keep: ExitStack) -> Server:
    return Server(keep)


@pytest.fixture
def warmer(keep: ExitStack) -> Warmer:
    found = Warmer()
    keep.callback(found.warmups.tend, "app", {})
    return found


# --- what is asked


def test_ready_then_requests_in_order_and_count(server: Server, warmer: Warmer) -> None:
    selected = (WarmupRequest(path="/b", count=3), *gets("/a?q=1"), WarmupRequest("HEAD", "/b"))
    warmup_status = warmer.until_over(server.port, ready="/health", requests=selected)
    assert server.lines == ["GET /health", "GET /b", "GET /b", "GET /b", "GET /a?q=1", "HEAD /b"]
    assert (warmup_status.state, warmup_status.pid, warmup_status.requests, warmup_status.why) == ("warm", PID, 5, "")


def test_the_first_and_the_last_request_are_timed(server: Server, warmer: Warmer) -> None:
    def slow_at_first(asked: Asked) -> int:
        time.sleep({"/first": 0.2, "/last": 0.05}.get(asked.path, 0.0))
        return 200

    server.answer = slow_at_first
    warmup_status = warmer.until_over(server.port, requests=gets("/first", "/", "/", "/last"))
    assert 200 <= warmup_status.first_ms < 5000
    assert 50 <= warmup_status.last_ms < warmup_status.first_ms + 5000
    assert warmup_status.last_ms != warmup_status.first_ms


@pytest.mark.parametrize("status", [200, 204, 299])
def test_ready_is_any_2xx(server: Server, warmer: Warmer, status: int) -> None:
    server.answer = lambda asked: status
    assert warmer.until_over(server.port, ready="/health").state == "warm"
    assert server.lines == ["GET /health"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_ready_is_requested_until_it_answers_2xx(server: Server, warmer: Warmer, status: int) -> None:
    server.answer = lambda asked: 200 if len(server.asked) > 5 else status
    assert warmer.until_over(server.port, ready="/health", requests=gets("/")).state == "warm"
    assert server.lines == ["GET /health"] * 6 + ["GET /"]


def counting_command(path: Path, succeeds_at: int) -> tuple[str, ...]:
    """One that succeeds at its so many-th run, and says which run it is."""
    path.write_text(f'echo x >>{path}.runs; n=$(wc -l <{path}.runs); echo "run $n"; [ $n -ge {succeeds_at} ]')
    return ("/bin/sh", str(path))


def test_command_is_run_until_it_succeeds(server: Server, warmer: Warmer, tmp_path: Path) -> None:
    command = counting_command(tmp_path / "ready", 3)
    assert warmer.until_over(server.port, command=command, requests=gets("/")).state == "warm"
    assert (tmp_path / "ready.runs").read_text() == "x\n" * 3
    assert server.lines == ["GET /"], "after the command"


def test_process_without_port_is_warm_when_its_command_succeeds(warmer: Warmer, tmp_path: Path) -> None:
    warmup_status = warmer.until_over(0, command=counting_command(tmp_path / "ready", 2))
    assert (warmup_status.state, warmup_status.requests, warmup_status.why) == ("warm", 0, "")
    assert warmer.until_over(0, pid=PID + 1).state == "warm", "without a command at once"


@pytest.fixture
def sharing(warmer: Warmer) -> Warmer:
    """Of processes that share their socket."""
    warmer.is_shared = True
    return warmer


def test_process_that_shares_its_socket_is_warm_when_it_accepts(sharing: Warmer) -> None:
    assert stays(lambda: sharing.tend(0).state == "warming", 0.3)
    assert sharing.tend(0).why == "does not accept connections on its shared socket"
    sharing.sockets.accepting.add(PID)
    sharing.sockets.memory_files = ["other", "supervisor_rolling warm-up: 3 requests, 81.5 to 2.0 ms"]
    found = sharing.until_over(0)
    assert (found.state, found.requests, found.first_ms, found.last_ms) == ("warm", 3, 81.5, 2.0)


def test_process_that_never_accepts_is_late_and_named(sharing: Warmer) -> None:
    found = sharing.until_over(0, timeout=0.5)
    assert (found.state, found.code) == ("late", "warmup.accepts")


def test_failed_warm_up_inside_the_process_is_named(sharing: Warmer) -> None:
    sharing.sockets.accepting.add(PID)
    done, failed = "1 requests, 1.0 to 1.0 ms", "failed: GET / answered 500"
    sharing.sockets.memory_files = [f"supervisor_rolling warm-up: {text}" for text in (done, failed)]
    found = sharing.until_over(0)
    assert (found.state, found.code, found.why) == (
        "failed",
        "warmup.in_process",
        "GET / answered 500 (its own warm-up)",
    )


def test_what_cannot_be_seen_or_has_a_command_needs_not_accept(sharing: Warmer, tmp_path: Path) -> None:
    assert sharing.until_over(0, command=counting_command(tmp_path / "ready", 1)).state == "warm"
    sharing.sockets.hides = True
    assert sharing.until_over(0, pid=PID + 1).state == "warm"


def test_process_on_a_unix_socket_is_warmed_where_it_is_now(server: Server, warmer: Warmer, tmp_path: Path) -> None:
    """A relay from its hidden name, then from its public one, to the server."""
    path = str(tmp_path / "a.sock")
    policy: dict[str, Any] = {"ready": "/health", "requests": gets("/a")}
    assert stays(lambda: warmer.tend(path, **policy).state == "warming", 0.2)
    assert warmer.tend(path, **policy).why == f"it does not listen on unix socket {path}"
    warmer.sockets.paths.add(path)
    for pid, name in ((PID, socket_paths.hidden(path)), (PID + 1, path)):
        with relay(Path(name), server.port):
            found = warmer.until_over(path, pid=pid, **policy)
        os.unlink(name)
        assert (found.state, found.requests) == ("warm", 1)
    assert server.lines == ["GET /health", "GET /a"] * 2
    assert server.asked[0].headers["Host"] == "localhost"


def test_unix_socket_of_another_name_is_named_at_the_deadline(warmer: Warmer) -> None:
    found = warmer.until_over("/run/app/a.sock", timeout=0.3)
    assert (found.state, found.code) == ("late", "warmup.port")
    assert found.why == (
        "it does not listen on unix socket /run/app/a.sock; it listens on /run/other.sock. Fix: correct `sockets` in "
        "rolling.yaml, or the program"
    )


def test_second_socket_is_sent_the_requests(server: Server, sharing: Warmer, tmp_path: Path) -> None:
    """A relay from a unix socket to the server: it boots late."""
    sharing.sockets.accepting.add(PID)
    server.answer = lambda asked: 404 if asked.path == "/missing" else 200
    policy: dict[str, Any] = {"socket": str(tmp_path / "{name}.sock"), "ready": "/health", "requests": gets("/a", "/b")}
    assert stays(lambda: sharing.tend(0, **policy).state == "warming", 0.2)
    with relay(tmp_path / f"{NAME.partition(':')[2]}.sock", server.port):
        found = sharing.until_over(0, **policy)
        assert (found.state, found.requests, server.lines) == ("warm", 2, ["GET /health", "GET /a", "GET /b"])
        assert server.asked[0].headers["Host"] == "localhost"
        failed = sharing.until_over(0, pid=PID + 1, **{**policy, "requests": gets("/missing")})
    assert (failed.state, "GET /missing" in failed.why) == ("failed", True)


@contextlib.contextmanager
def relay(path: Path, port: int) -> Iterator[None]:
    """Passes each connection to a unix socket on to a port."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as kept:
            while True:
                one = kept.enter_context(listening.accept()[0])
                other = kept.enter_context(socket.create_connection(("127.0.0.1", port)))
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_command_that_never_succeeds_is_late_and_named(warmer: Warmer, tmp_path: Path) -> None:
    command = counting_command(tmp_path / "ready", 99)
    warmup_status = warmer.until_over(0, command=command, timeout=1.0)
    assert (warmup_status.state, warmup_status.code) == ("late", "warmup.command")
    assert re.fullmatch(r"/bin/sh \(ready\) exited with 1: run \d+", warmup_status.why)


SET_HEADER = "set `warmup: {headers:"
IN_GROUP = "in groups.app of rolling.yaml"


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (400, f"{SET_HEADER} {{Host: NAME}}}}` {IN_GROUP}, where NAME is a host name that it serves"),
        (401, f"{SET_HEADER} {{Authorization: VALUE}}}}` {IN_GROUP}, where VALUE is what it accepts"),
        (403, f"{SET_HEADER} {{Authorization: VALUE}}}}` {IN_GROUP}, where VALUE is what it accepts"),
        (404, "correct the path"),
    ],
)
def test_ready_refused_three_times_fails_with_fix(server: Server, warmer: Warmer, status: int, fix: str) -> None:
    server.answer = lambda asked: status
    warmup_status = warmer.until_over(server.port, ready="/health")
    assert (warmup_status.state, server.lines) == ("failed", ["GET /health"] * 3)
    assert warmup_status.why == f"GET /health (ready) answers {status}. Fix: {fix}, or set another path in warmup.ready"


def test_ready_404_at_first_is_requested_again(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: {1: 404, 2: 503, 3: 404, 4: 404}.get(len(server.asked), 200)
    assert warmer.until_over(server.port, ready="/health").state == "warm"


def test_ready_503_until_deadline_is_late(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 503
    warmup_status = warmer.until_over(server.port, ready="/health", timeout=0.3)
    assert (warmup_status.state, warmup_status.why) == ("late", "GET /health (ready) answers 503")


def test_why_names_the_answer_of_ready(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 503
    warmup_status = poll(lambda: warmer.tend(server.port, ready="/health"), lambda warmup_status: warmup_status.why)
    assert (warmup_status.state, warmup_status.why) == ("warming", "GET /health (ready) answers 503")


def test_unexpected_answer_fails_at_once(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 500 if asked.path == "/b" else 200
    warmup_status = warmer.until_over(server.port, requests=gets("/a", "/b", "/c"))
    assert (warmup_status.state, warmup_status.requests) == ("failed", 1)
    assert warmup_status.why == "GET /b answered 500, expected 2xx"
    assert server.lines == ["GET /a", "GET /b"]


@pytest.mark.parametrize(("status", "state"), [(404, "warm"), (401, "warm"), (200, "failed"), (302, "failed")])
def test_expect_is_taken_literally(server: Server, warmer: Warmer, status: int, state: str) -> None:
    server.answer = lambda asked: status
    warmup_status = warmer.until_over(server.port, requests=(WarmupRequest(path="/x", expect=(401, 404)),))
    assert warmup_status.state == state
    assert state == "warm" or warmup_status.why == f"GET /x answered {status}, expected 401 or 404"


def test_a_post_has_its_body_and_its_headers(server: Server, warmer: Warmer) -> None:
    post = WarmupRequest("POST", "/login", {"X-One": "own", "Content-Type": "text/plain"}, "näme=ann")
    warmer.until_over(server.port, headers={"Host": "example.org", "X-One": "all", "X-Two": "all"}, requests=(post,))
    (asked,) = server.asked
    assert (asked.line, asked.body) == ("POST /login", "näme=ann")
    found = {name.lower(): value for name, value in asked.headers.items()}
    assert (found["host"], found["x-one"], found["x-two"]) == ("example.org", "own", "all")
    assert found["content-type"] == "text/plain"
    assert found["connection"] == "close"


def test_headers_of_warmup_go_with_ready(server: Server, warmer: Warmer) -> None:
    warmer.until_over(server.port, headers={"Host": "example.org"}, ready="/health")
    assert server.asked[0].headers["Host"] == "example.org"


# --- redirects


@pytest.mark.parametrize(
    "location", ["/there", "there", "http://{own}/there", "//{own}/there", "http://EXAMPLE.org/there"]
)
def test_redirect_to_the_process_is_followed(server: Server, warmer: Warmer, location: str) -> None:
    server.answer = lambda asked: 200 if asked.path == "/there" else 301
    server.location = location.format(own=f"127.0.0.1:{server.port}")
    policy: dict[str, Any] = {"headers": {"Host": "example.org"}, "ready": "/health", "requests": gets("/")}
    warmup_status = warmer.until_over(server.port, **policy)
    assert server.lines == ["GET /health", "GET /there", "GET /", "GET /there"], warmup_status.why
    assert (warmup_status.state, warmup_status.requests, warmup_status.statuses) == ("warm", 1, (200,))
    assert {asked.headers["Host"] for asked in server.asked} == {"example.org"}


def test_redirect_to_https_fails_with_header_fix(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 301
    server.location = "https://example.org/"
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, server.lines) == ("failed", ["GET /"])
    assert warmup_status.why == (
        "GET / answers 301 to https://example.org/. Fix: set `warmup: {headers: {X-Forwarded-Proto: https}}` in "
        "groups.app of rolling.yaml, or accept it: `{path: /, expect: [301]}` in warmup.requests"
    )


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (WarmupRequest(path="/nosuch"), 404),
        (WarmupRequest("POST", "/login?a=b&c=d"), 403),
        (WarmupRequest(path="/a,b:{c}"), 404),
        (WarmupRequest(path='/"ä"'), 400),
    ],
)
def test_form_that_accepts_a_status_is_valid_yaml(request_: WarmupRequest, status: int) -> None:
    text = unexpected_text(request_, Reply(status), "app")
    form = re.search(r"accept it: `(\{.*\})` in warmup\.requests$", text)
    assert form, text
    policy = f"groups: {{app: {{ports: auto, warmup: {{requests: [{form[1]}]}}}}}}"
    (accepted,) = config.parse(policy, "f").groups["app"].warmup.requests
    assert accepted == replace(request_, expect=(status,))


def test_form_for_an_unknown_path_is_short() -> None:
    text = unexpected_text(WarmupRequest(path="/nosuch"), Reply(404), "app")
    assert text.endswith(
        "expected 2xx. Fix: correct the path, or accept it: `{path: /nosuch, expect: [404]}` in warmup.requests"
    )


def test_header_fix_of_a_redirect_is_valid_yaml() -> None:
    for location, headers in (
        ("https://example.org/", {"X-Forwarded-Proto": "https"}),
        ("http://www.example.org/", {"Host": "www.example.org"}),
        ("http://[::1]/", {"Host": "::1"}),
    ):
        text = unexpected_text(WarmupRequest(path="/"), Reply(301, location), "app")
        form = re.search(r"set `(.*)` in groups\.app of rolling\.yaml, or", text)
        assert form, text
        assert config.parse(f"groups: {{app: {{ports: auto, {form[1]}}}}}", "f").groups["app"].warmup.headers == headers


def test_ready_redirecting_to_https_fails_after_three(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 301
    server.location = "https://example.org/\r\n\x1b[31m"
    warmup_status = warmer.until_over(server.port, ready="/health")
    assert (warmup_status.state, server.lines) == ("failed", ["GET /health"] * 3)
    assert warmup_status.why.endswith(
        "Fix: set `warmup: {headers: {X-Forwarded-Proto: https}}` in groups.app of rolling.yaml, or set another path "
        "in warmup.ready"
    )
    assert warmup_status.why.isprintable()


def test_an_expected_redirect_is_not_followed(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 302
    warmup_status = warmer.until_over(server.port, requests=(WarmupRequest(path="/", expect=(200, 302)),))
    assert (warmup_status.state, server.lines, warmup_status.statuses) == ("warm", ["GET /"], (302,))


def test_redirects_in_a_circle_end(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 302
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, len(server.asked)) == ("failed", 1 + MAX_REDIRECTS)
    assert "answers 302 to /elsewhere. Fix: " in warmup_status.why


def test_proxy_variables_are_ignored(server: Server, warmer: Warmer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert warmer.until_over(server.port, requests=gets("/"), timeout=5.0).state == "warm"
    assert server.lines == ["GET /"]


# --- what does not listen, breaks or hangs


def test_port_without_listener_is_waited_for(keep: ExitStack, warmer: Warmer) -> None:
    port = free_port()
    waiting = poll(lambda: warmer.tend(port, requests=gets("/")), lambda warmup_status: warmup_status.why)
    assert (waiting.state, waiting.why, waiting.code) == ("warming", f"nothing listens on port {port}", "warmup.port")
    server = Server(keep, port=port)
    assert warmer.until_over(port, requests=gets("/")).state == "warm"
    assert server.lines == ["GET /"]


def test_refused_connection_is_retried_until_port_listens(keep: ExitStack) -> None:
    port = free_port()
    warmer = Warmer(lambda _: ("127.0.0.1",))  # says that it listens
    refused = poll(lambda: warmer.tend(port, requests=gets("/")), lambda warmup_status: warmup_status.why)
    assert (refused.state, refused.why) == ("warming", "GET /: Connection refused")
    Server(keep, port=port)
    assert warmer.until_over(port, requests=gets("/")).state == "warm"


def test_reason_skips_errors_of_the_library_itself() -> None:
    """urllib3 1 tries an argument that Python 3 lacks, and only then reads."""
    reset = ConnectionResetError(104, "Connection reset by peer")
    reset.__context__ = TypeError("unexpected keyword argument 'buffering'")
    error = requests.ConnectionError("wrapped")
    error.__cause__ = reset
    assert reason(error) == "Connection reset by peer"


def test_forbidden_mark_names_the_missing_right() -> None:
    error = requests.ConnectionError("wrapped")
    error.__context__ = PermissionError(1, "Operation not permitted")
    assert reason(error).startswith("Operation not permitted. Fix: give the listener CAP_NET_ADMIN")


def test_without_requests_warm_as_soon_as_listening(server: Server, warmer: Warmer) -> None:
    warmup_status = warmer.until_over(server.port)
    assert (warmup_status.state, warmup_status.requests, server.lines) == ("warm", 0, [])


def test_never_listening_is_late(warmer: Warmer) -> None:
    port = free_port()
    warmup_status = warmer.until_over(port, timeout=0.2)
    assert (warmup_status.state, warmup_status.why) == ("late", f"nothing listens on port {port}")
    assert warmup_status.code == "warmup.port"


@pytest.mark.parametrize(("ports", "words"), [((9000,), "9000"), ((9000, 9001), "9000, 9001")])
def test_listening_elsewhere_names_the_port_and_fix(ports: tuple[int, ...], words: str) -> None:
    asked: list[int] = []

    def ports_of(pid: int) -> tuple[int, ...]:
        asked.append(pid)
        return ports

    warmup_status = Warmer(ports=ports_of).until_over(free_port(), timeout=0.2)
    assert warmup_status.state == "late"
    assert warmup_status.why.endswith(f"; it listens on {words}. Fix: correct `ports` in rolling.yaml, or the program")
    assert asked == [PID], "once, at the deadline: it is dear"


def test_foreign_process_on_port_does_not_warm(server: Server) -> None:
    looks: list[tuple[int, int]] = []

    def others(port: int, pid: int) -> tuple[Holder, ...]:
        looks.append((port, pid))
        return (Holder((4711, 4712), "python3", NAME),)

    warmup_status = Warmer(others=others).until_over(server.port, timeout=0.2)
    assert set(looks) == {(server.port, PID)}
    assert len(looks) < 4, "to look is dear"
    assert (warmup_status.state, warmup_status.requests, server.lines) == ("late", 0, [])
    assert warmup_status.why == (
        f"port {server.port} is held by processes 4711, 4712 (python3), left by an earlier {NAME}. Fix: kill 4711 4712"
    )


def test_process_is_warmed_when_foreign_process_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor_rolling.listener.warmup.FOREIGN_EVERY", 0.01)
    looks = iter([(Holder((4711,), "python3"),)] * 2)
    warmer = Warmer(others=lambda port, pid: next(looks, ()))
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, warmup_status.requests, server.lines) == ("warm", 1, ["GET /"])


def test_foreign_process_during_warmup_repeats_the_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor_rolling.listener.warmup.FOREIGN_EVERY", 0.01)
    looks = iter([(), (Holder((4711,), "python3"),)])
    warmup_status = Warmer(others=lambda port, pid: next(looks, ())).until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, server.lines) == ("warm", ["GET /", "GET /"])
    assert (warmup_status.requests, len(warmup_status.latencies), warmup_status.statuses) == (1, 1, (200,)), (
        "of the second time alone"
    )


def test_foreign_process_at_end_of_warmup_is_late(server: Server) -> None:
    looks = iter([()])
    warmer = Warmer(others=lambda port, pid: next(looks, (Holder((4711,), "python3"),)))
    warmup_status = warmer.until_over(server.port, requests=gets("/"), timeout=0.3)
    assert (warmup_status.state, server.lines) == ("late", ["GET /"])
    assert warmup_status.why == (
        f"port {server.port} is held by process 4711 (python3). Fix: kill 4711, or name python3 in warmup.proxies "
        f"if it listens for {NAME}"
    )


def test_named_proxy_warms_its_process(server: Server) -> None:
    warmer = Warmer(others=lambda port, pid: (Holder((4711,), "docker-proxy"),))
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"
    other = Warmer(others=lambda port, pid: (Holder((4711,), "socat"),))
    assert other.until_over(server.port, requests=gets("/"), proxies=("socat",)).state == "warm"


def test_unknown_port_owner_gives_a_shorter_message() -> None:
    def hidden(pid: int) -> tuple[int, ...]:
        raise SocketsError("Cannot see which ports process 7 listens on")

    port = free_port()
    warmup_status = Warmer(ports=hidden).until_over(port, timeout=0.2)
    assert (warmup_status.state, warmup_status.why) == ("late", f"nothing listens on port {port}")


def test_kernel_error_is_retried_and_shown() -> None:
    def silent(port: int) -> tuple[str, ...]:
        raise SocketsError("the kernel did not answer")

    warmup_status = Warmer(silent).until_over(1, timeout=0.1)
    assert (warmup_status.state, warmup_status.why) == ("late", "the kernel did not answer")


def test_broken_connection_is_retried(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 200 if len(server.asked) > 2 else 0
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, warmup_status.requests, server.lines) == ("warm", 1, ["GET /"] * 3)


def test_hanging_request_is_late(server: Server, warmer: Warmer) -> None:
    server.hangs.clear()
    began = time.monotonic()
    warmup_status = warmer.until_over(server.port, requests=gets("/slow"), timeout=0.4)
    assert (warmup_status.state, warmup_status.why) == ("late", "GET /slow did not answer")
    assert time.monotonic() - began < DEADLINE / 2
    assert warmup_status.code == "warmup.timeout"


def test_hang_after_late_listen_names_the_hang(server: Server) -> None:
    looks = itertools.count()
    server.hangs.clear()
    warmer = Warmer(lambda port: ("127.0.0.1",) if next(looks) else ())
    warmup_status = warmer.until_over(server.port, ready="/health", timeout=0.4)
    assert (warmup_status.state, warmup_status.why) == ("late", "GET /health did not answer")


def test_hang_after_late_ready_names_the_hang(server: Server, warmer: Warmer) -> None:
    def answer(asked: Asked) -> int:
        if len(server.asked) < 3:
            return 503
        server.hangs.clear()
        return 200

    server.answer = answer
    warmup_status = warmer.until_over(server.port, ready="/health", requests=gets("/hangs"), timeout=0.4)
    assert (warmup_status.state, warmup_status.why) == ("late", "GET /hangs did not answer")


@pytest.mark.parametrize(
    ("hangs_for", "words"),
    [(NEWS_AFTER - 0.2, "GET /health (ready) answers 503"), (NEWS_AFTER + 0.4, "GET /health did not answer")],
)
def test_long_hang_replaces_the_last_answer(server: Server, warmer: Warmer, hangs_for: float, words: str) -> None:
    def answer(asked: Asked) -> int:
        server.hangs.clear()
        return 503

    server.answer = answer
    assert warmer.until_over(server.port, ready="/health", timeout=hangs_for).why == words


@pytest.mark.parametrize(
    ("trickles_for", "words"),
    [(NEWS_AFTER - 0.2, "GET /health (ready) answers 503"), (NEWS_AFTER + 0.4, "GET /health did not end its answer")],
)
def test_answer_cut_by_deadline_is_named_if_long(
    server: Server, warmer: Warmer, trickles_for: float, words: str
) -> None:
    def answer(asked: Asked) -> int:
        server.trickles = len(server.asked) > 1
        return 503

    server.answer = answer
    warmup_status = warmer.until_over(server.port, ready="/health", timeout=trickles_for)
    assert (warmup_status.state, warmup_status.why) == ("late", words)


def test_all_requests_share_one_deadline(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: time.sleep(0.15) or 200  # type: ignore[func-returns-value]
    warmup_status = warmer.until_over(server.port, requests=(WarmupRequest(count=1000),), timeout=0.6)
    assert warmup_status.state == "late"
    assert warmup_status.why in ("GET / did not answer", "there was no time left for GET /")
    assert len(server.asked) <= 5


def test_hang_after_requests_has_the_remaining_time(server: Server, warmer: Warmer) -> None:
    def answer(asked: Asked) -> int:
        time.sleep(0.9)
        server.hangs.clear()
        return 200

    server.answer = answer
    began = time.monotonic()
    warmup_status = warmer.until_over(server.port, requests=gets("/", "/hangs"), timeout=1.0)
    assert (warmup_status.state, warmup_status.requests) == ("late", 1)
    assert time.monotonic() - began < 1.7


# --- what is no HTTP, or never ends


class Raw:
    """A server that answers what comes with bytes of its own, and hangs up."""

    def __init__(self, keep: ExitStack, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._listening = keep.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = int(self._listening.getsockname()[1])
        self.connections = 0
        thread = threading.Thread(target=self._serve)
        thread.start()
        keep.callback(self._end, thread)

    def _end(self, thread: threading.Thread) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._answer(connection.recv(65536)))


TLS_ALERT = bytes.fromhex("15030100020246")
SETTINGS = H2_PREFACE[-9:]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (TLS_ALERT, "speaks TLS, but a warm-up sends plain HTTP. Fix: "),
        (SETTINGS, "speaks HTTP/2 only. Fix: serve HTTP/1.1 as well"),
        (b"-ERR unknown command 'GET'\r\n", "speaks Redis, not HTTP. Fix: correct `ports`"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH, not HTTP."),
        (b"J\x00\x00\x00\x0a8.0.36\x00", "speaks MySQL, not HTTP."),
        (b"\x1b[2Jhello\nworld", "does not speak HTTP: it sends '\\x1b[2Jhello\\nworld'. Fix: "),
    ],
)
def test_another_protocol_is_named_by_its_first_bytes(keep: ExitStack, warmer: Warmer, sent: bytes, words: str) -> None:
    server = Raw(keep, lambda _: sent)
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert warmup_status.state == "failed"
    assert warmup_status.why.startswith(f"port {server.port} {words}"), warmup_status.why
    assert warmup_status.why.isprintable()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("hello", "answer", "words"),
    [(b"\x16\x03", TLS_ALERT, "speaks TLS"), (H2_PREFACE[:14], SETTINGS, "speaks HTTP/2 only")],
)
def test_silent_hangup_is_probed_for_tls_and_http2(
    keep: ExitStack, warmer: Warmer, hello: bytes, answer: bytes, words: str
) -> None:
    server = Raw(keep, lambda asked: answer if asked.startswith(hello) else b"")
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, warmup_status.why.startswith(f"port {server.port} {words}")) == ("failed", True), (
        warmup_status.why
    )


def test_real_tls_server_is_named(keep: ExitStack, warmer: Warmer, tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", key]
    subprocess.run([*make, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(keep)
    server.wrap(context)
    warmup_status = warmer.until_over(server.port, requests=gets("/"))
    assert (warmup_status.state, warmup_status.why.startswith(f"port {server.port} speaks TLS")) == ("failed", True), (
        warmup_status.why
    )


def test_http_400_about_tls_names_tls(keep: ExitStack, warmer: Warmer) -> None:
    text = b"The plain HTTP request was sent to HTTPS port"
    server = Raw(keep, lambda _: b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    why = warmer.until_over(server.port, requests=gets("/")).why
    assert why.startswith(
        "GET / answered 400, expected 2xx. Fix: serve plain HTTP on this port: the process wants TLS"
    ), why


def test_trickling_headers_end_at_deadline(keep: ExitStack, warmer: Warmer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while not over.wait(0.02):
                    connection.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        warmup_status = warmer.until_over(listening.getsockname()[1], ready="/health", timeout=0.8)
        over.set()
        thread.join()
    assert (warmup_status.state, warmup_status.why) == ("late", "GET /health did not answer")
    assert time.monotonic() - began < DEADLINE / 2


def test_unexpected_exception_fails_with_its_text() -> None:
    def broken(port: int) -> tuple[str, ...]:
        raise RuntimeError("out of luck")

    warmup_status = Warmer(broken).until_over(1)
    assert (warmup_status.state, warmup_status.why) == ("failed", "RuntimeError: out of luck")


# --- which are wanted


def test_on_change_is_called_at_the_end(server: Server, warmer: Warmer) -> None:
    assert not warmer.changed.is_set()
    warmer.tend(server.port, requests=gets("/"))
    assert warmer.changed.wait(DEADLINE)
    assert warmer.tend(server.port, requests=gets("/")).state == "warm"


def test_tend_returns_at_once_and_begins_once(server: Server, warmer: Warmer) -> None:
    server.hangs.clear()
    assert [warmer.tend(server.port, requests=gets("/")).state for _ in range(20)] == ["warming"] * 20
    server.hangs.set()
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"
    assert [warmer.tend(server.port, requests=gets("/")).state for _ in range(3)] == ["warm"] * 3
    assert server.lines == ["GET /"]


def test_late_warmup_begins_anew_if_still_wanted(server: Server) -> None:
    """The listener was suspended meanwhile, and does not count that time."""
    may_look = threading.Event()
    may_look.set()
    warmer = Warmer(lambda port: ("127.0.0.1",) if may_look.wait(DEADLINE) else ())
    server.answer = lambda asked: 503
    may_look = threading.Event()
    may_look.set()
    warmer = Warmer(lambda port: ("127.0.0.1",) if may_look.wait(DEADLINE) else ())
    policy: dict[str, Any] = {"ready": "/health", "timeout": 0.3}
    late = warmer.until_over(server.port, **policy)
    assert late.state == "late"
    may_look.clear()
    again = warmer.tend(server.port, **policy)
    assert (again.state, again.why) == ("warming", late.why)
    server.answer = lambda asked: 200
    may_look.set()
    assert warmer.until_over(server.port, **policy).state == "warm"


def test_late_is_reported_once_before_restart(server: Server, warmer: Warmer) -> None:
    policy: dict[str, Any] = {"ready": "/health", "timeout": 0.1}
    server.answer = lambda asked: 503
    warmer.tend(server.port, **policy)
    assert warmer.changed.wait(DEADLINE)  # no one reads it meanwhile
    assert warmer.tend(server.port, **policy).state == "late"
    assert warmer.until_over(server.port, **policy).state == "late"  # and so it is, again and again


def test_what_is_no_longer_wanted_stops(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 503
    poll(lambda: warmer.tend(server.port, ready="/health", timeout=FOR_EVER), lambda warmup_status: warmup_status.why)
    assert warmer.warmups.tend("app", {}) == {}
    assert warmer.changed.wait(DEADLINE)  # its thread has ended
    count = len(server.asked)
    assert stays(lambda: len(server.asked) == count, seconds=0.1)


def test_another_pid_is_warmed_from_the_beginning(server: Server, warmer: Warmer) -> None:
    assert warmer.until_over(server.port, requests=gets("/")).pid == PID
    assert warmer.tend(server.port, pid=PID + 1, requests=gets("/")).state in ("warming", "warm")
    again = warmer.until_over(server.port, pid=PID + 1, requests=gets("/"))
    assert (again.pid, again.state, again.requests) == (PID + 1, "warm", 1)
    assert server.lines == ["GET /", "GET /"]


def test_changed_policy_begins_anew(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 200 if asked.path == "/right" else 503
    poll(lambda: warmer.tend(server.port, ready="/wrong"), lambda warmup_status: warmup_status.why)
    assert warmer.until_over(server.port, ready="/right").state == "warm"
    count = len(server.asked)
    assert warmer.until_over(server.port, ready="/right").state == "warm"
    assert len(server.asked) == count


@pytest.mark.parametrize("changed", [{"bypass": "none"}, {"where": 1}])
def test_changed_bypass_or_port_begins_anew(server: Server, warmer: Warmer, changed: dict[str, Any]) -> None:
    server.hangs.clear()
    selected: dict[str, Any] = {"where": server.port, "requests": gets("/")}
    poll(lambda: warmer.tend(**selected), lambda _: len(server.asked) == 1)
    first = warmer.warmups._running["app"][NAME]
    warmer.tend(**{**selected, **changed})
    assert warmer.warmups._running["app"][NAME] is not first
    assert first.dropped.is_set()
    server.hangs.set()


def test_two_processes_warm_at_once(keep: ExitStack, warmer: Warmer) -> None:
    slow, quick = Server(keep), Server(keep)
    slow.hangs.clear()
    policy = WarmupPolicy(DEADLINE, requests=gets("/"))
    selected = {f"app:{server.port}": WarmupJob(PID, (tcp(server.port),), policy, "mark") for server in (slow, quick)}
    look = lambda: [warmup_status.state for warmup_status in warmer.warmups.tend("app", selected).values()]  # noqa: E731
    poll(look, lambda states: states == ["warming", "warm"])
    slow.hangs.set()
    poll(look, lambda states: states == ["warm", "warm"])


# --- how many at once, and how often

SLOTS = 2 * (os.cpu_count() or 1) + 2


def test_time_in_the_queue_does_not_count(keep: ExitStack, warmer: Warmer) -> None:
    server = Server(keep)
    server.hangs.clear()
    policy = WarmupPolicy(timeout=1.0, requests=gets("/"))
    first = {f"app:{n:03}": WarmupJob(PID + n, (tcp(server.port),), policy, "mark") for n in range(SLOTS)}
    late = {"app:late": WarmupJob(PID, (tcp(server.port),), replace(policy, timeout=0.3), "mark")}
    poll(lambda: warmer.warmups.tend("app", first), lambda _: len(server.asked) == SLOTS)
    waits = poll(
        lambda: warmer.warmups.tend("app", {**first, **late})["app:late"],
        lambda warmup_status: warmup_status.queued > 0.5,
    )
    assert waits.state == "warming"
    assert waits.why == f"waits for other warm-ups: {SLOTS} run at once"
    assert len(server.asked) == SLOTS
    server.hangs.set()
    warm = poll(
        lambda: warmer.warmups.tend("app", {**first, **late})["app:late"],
        lambda warmup_status: warmup_status.state != "warming",
    )
    assert (warm.state, warm.requests) == ("warm", 1)
    assert warm.queued >= waits.queued


def test_queued_time_is_never_missing(server: Server, warmer: Warmer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment the loop looks at: a time that is missing makes the warm-up late."""
    observed: list[float] = []
    is_over = threading.Event()

    def noted(warmup: Any, name: str, value: Any) -> None:
        object.__setattr__(warmup, name, value)
        if name in ("status", "_queued_at") and hasattr(warmup, "_queued_at") and is_over.is_set():
            observed.append(warmup.found().queued)

    monkeypatch.setattr(_Warmup, "__setattr__", noted, raising=False)
    slots, me = warmer.warmups._slots, threading.current_thread()
    monkeypatch.setattr(slots, "number", 1)
    slots.enter(0, threading.Event())
    poll(lambda: warmer.tend(server.port, requests=gets("/")), lambda warmup_status: warmup_status.queued > 0.3)
    is_over.set()
    slots.leave(me)
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"
    assert observed
    assert min(observed) >= 0.3


def test_dropped_warmup_frees_its_slot(keep: ExitStack, warmer: Warmer) -> None:
    hanging, server = Server(keep), Server(keep)
    hanging.hangs.clear()
    policy = WarmupPolicy(timeout=FOR_EVER, requests=gets("/"))
    first = {f"app:{n:03}": WarmupJob(PID + n, (tcp(hanging.port),), policy, "mark") for n in range(SLOTS)}
    poll(lambda: warmer.warmups.tend("app", first), lambda _: len(hanging.asked) == SLOTS)
    selected = {"app:late": WarmupJob(PID, (tcp(server.port),), policy, "mark")}
    found = poll(
        lambda: warmer.warmups.tend("app", selected)["app:late"], lambda warmup_status: warmup_status.state != "warming"
    )
    assert found.state == "warm"


def test_slots_go_by_rank_then_arrival() -> None:
    slots, never = Slots(1), threading.Event()
    action: list[str] = []

    def run(name: str, rank: int) -> None:
        slots.enter(rank, never)
        action.append(name)
        slots.leave(threading.current_thread())

    slots.enter(0, never)
    threads: list[threading.Thread] = []
    for name, rank in (("guard's first", 1), ("guard's second", 1), ("rollout's first", 0), ("rollout's second", 0)):
        threads.append(threading.Thread(target=run, args=(name, rank)))
        threads[-1].start()
        poll(lambda: len(slots._waiting), lambda waiting: waiting == len(threads))
    slots.leave(threading.current_thread())
    for thread in threads:
        thread.join(DEADLINE)
    assert action == ["rollout's first", "rollout's second", "guard's first", "guard's second"]


def test_free_slot_wakes_one_of_many_threads() -> None:
    number = 400
    slots, never = Slots(1), threading.Event()

    def run() -> None:
        slots.enter(0, never)
        slots.leave(threading.current_thread())

    slots.enter(0, never)
    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    poll(lambda: len(slots._waiting), lambda waiting: waiting == number)
    before = time.process_time()
    slots.leave(threading.current_thread())
    for thread in threads:
        thread.join(DEADLINE)
    assert time.process_time() - before < 0.5, "1.5 s where each free slot wakes all"


def test_long_boot_is_polled_seldom() -> None:
    looks: list[float] = []

    def listens(port: int) -> tuple[str, ...]:
        looks.append(time.monotonic())
        return ()

    Warmer(listens).until_over(1, timeout=2.0)
    pauses = [after - before for before, after in zip(looks, looks[1:])]
    assert pauses[0] < 0.06
    assert 15 < len(looks) < 60, "50 a second would be 100"
    assert all(pause < 0.25 + 0.1 for pause in pauses)


def test_long_wait_for_ready_is_polled_seldom(server: Server, warmer: Warmer) -> None:
    server.answer = lambda asked: 503
    warmer.until_over(server.port, ready="/health", timeout=2.0)
    assert 10 < len(server.asked) < 60


# --- where it goes


def test_ipv6_only_server_is_reached(keep: ExitStack, warmer: Warmer) -> None:
    server = Server(keep, "::1")
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"
    assert server.asked[0].peer == "::1"


@pytest.mark.parametrize(
    ("address", "host"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.3", "127.0.0.3"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_any_listening_address_is_reached(keep: ExitStack, warmer: Warmer, address: str, host: str) -> None:
    server = Server(keep, address)
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"
    assert server.asked[0].headers["Host"] == f"{host}:{server.port}"


def test_ipv4_is_preferred(server: Server) -> None:
    warmer = Warmer(lambda port: ("::1", "127.0.0.1"))
    assert warmer.until_over(server.port, requests=gets("/")).state == "warm"


@pytest.mark.parametrize("bypass", ["mark", "address"])
@pytest.mark.parametrize("method", ["reject", "redirect"])
def test_warmup_passes_a_closed_gate(keep: ExitStack, server: Server, warmer: Warmer, bypass: str, method: str) -> None:
    gate = make_gate(GatePolicy(lease=LEASE, method=method, bypass=bypass), "unix:///warmup.sock", time.monotonic)
    keep.callback(gate.hold, {})
    assert list(gate.hold({tcp(server.port): "a test"})) == [tcp(server.port)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), DEADLINE)
    warmup_status = warmer.until_over(
        server.port, bypass=bypass, timeout=WITHIN_LEASE, ready="/health", requests=gets("/")
    )
    assert (warmup_status.state, server.lines) == ("warm", ["GET /health", "GET /"])
    assert server.asked[0].peer == ("127.0.0.2" if bypass == "address" else "127.0.0.1")


def test_mark_passes_a_closed_ipv6_gate(keep: ExitStack, warmer: Warmer) -> None:
    server = Server(keep, "::1")
    gate = make_gate(GatePolicy(lease=LEASE), "unix:///warmup.sock", time.monotonic)
    keep.callback(gate.hold, {})
    gate.hold({tcp(server.port): "a test"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", server.port), DEADLINE)
    assert warmer.until_over(server.port, timeout=WITHIN_LEASE, requests=gets("/")).state == "warm"


@pytest.mark.parametrize(("bypass", "family"), [("mark", "v4"), ("mark", "v6"), ("address", "v4")])
def test_passes_gate_of_a_non_loopback_address(keep: ExitStack, warmer: Warmer, bypass: str, family: str) -> None:
    other = keep.enter_context(Host())
    address = getattr(other.home, family)
    server = Server(keep, address)
    gate = make_gate(GatePolicy(lease=LEASE, bypass=bypass), "unix:///warmup.sock", time.monotonic)
    keep.callback(gate.hold, {})
    gate.hold({tcp(server.port): "a test"})
    with other.there(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, server.port), DEADLINE)
    assert warmer.until_over(server.port, bypass=bypass, timeout=WITHIN_LEASE, requests=gets("/")).state == "warm"


@pytest.fixture
def without_v6_loopback() -> Iterator[None]:
    """As in a container on a host without IPv6."""
    subprocess.run(["ip", "-6", "address", "del", "::1/128", "dev", "lo"], check=True)
    yield
    subprocess.run(["ip", "-6", "address", "add", "::1/128", "dev", "lo", "nodad"], check=True)


@pytest.mark.usefixtures("without_v6_loopback")
def test_wildcard_without_ipv6_is_reached_by_ipv4(keep: ExitStack, warmer: Warmer) -> None:
    server = Server(keep, "::")
    assert warmer.until_over(server.port, timeout=WITHIN_LEASE, requests=gets("/")).state == "warm"
    assert server.asked[0].peer == "::ffff:127.0.0.1"


@pytest.fixture
def v6_alone() -> Iterator[None]:
    """Who listens on :: has no IPv4 with it."""
    switch = Path("/proc/sys/net/ipv6/bindv6only")
    switch.write_text("1")
    yield
    switch.write_text("0")


@pytest.mark.usefixtures("v6_alone")
@pytest.mark.parametrize("bypass", ["mark", "none"])
def test_ipv6_only_wildcard_is_reached_by_ipv6(keep: ExitStack, warmer: Warmer, bypass: str) -> None:
    server = Server(keep, "::")
    warmup_status = warmer.until_over(server.port, bypass=bypass, timeout=WITHIN_LEASE, requests=gets("/"))
    assert warmup_status.state == "warm", warmup_status.why
    assert server.asked[0].peer == "::1"


def test_bypass_address_with_ipv6_only_names_mark(keep: ExitStack, warmer: Warmer) -> None:
    server = Server(keep, "::1")
    warmup_status = warmer.until_over(server.port, bypass="address", timeout=0.3, requests=gets("/"))
    assert (warmup_status.state, server.asked) == ("late", [])
    assert warmup_status.why.startswith(f"port {server.port} listens on ::1 only, and gate.bypass: address needs IPv4")
    assert "gate: {bypass: mark}" in warmup_status.why
