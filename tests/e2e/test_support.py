"""Tests of the stack and the load generator, on which the benchmark and the other tests rely."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import proc
from tests.support.load import Answer, Load, Plan, Report, summarise
from tests.support.look import refuses
from tests.support.site import FAULT_FILE
from tests.support.site.deploy import EXIT_STATUS
from tests.support.stack import ROOT, Setup, Stack, answers, ask
from tests.support.waiting import eventually

TWO = Setup(processes=2, startsecs=0)
OTHER = Setup(processes=2, first_port=8100, nginx_port=8180)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two processes that are not warm; the tests below take each a port."""
    running = Stack(tmp_path_factory.mktemp("stack"), TWO)
    running.release("first")
    with running:
        yield running


def restart(stack: Stack, port: int) -> None:
    assert stack.ctl("restart", f"app:app-{port}").returncode == 0
    stack.wait_until(lambda: answers(port), 10.0, f"port {port} serves again")


def test_process_reports_cold_once(stack: Stack) -> None:
    assert stack.ask(8000, "/health").headers["x-cold"] == "0"
    assert [stack.ask(8000, "/").headers["x-cold"] for _ in range(4)] == ["1", "0", "0", "0"]
    assert stack.ask(8000, "/page/7").headers["x-cold"] == "0", "the first page has every part"


def test_requests_waiting_for_the_first_are_cold(stack: Stack) -> None:
    restart(stack, 8000)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: stack.ask(8000, "/"), range(4)))
    assert [reply.headers["x-cold"] for reply in replies] == ["1"] * 4
    assert stack.ask(8000, "/").headers["x-cold"] == "0"


def test_partly_warmed_process_stays_cold_elsewhere(stack: Stack) -> None:
    assert [stack.ask(8001, path).headers["x-cold"] for path in ("/page/1", "/page/1", "/")] == ["1", "0", "1"]


def test_deploy_shows_only_after_restart(stack: Stack) -> None:
    stack.release("second")
    restart(stack, 8001)
    releases = {port: stack.ask(port, "/health").headers["x-release"] for port in TWO.ports}
    assert releases == {8000: "first", 8001: "second"}


def test_broken_release_boots_and_answers_500(stack: Stack) -> None:
    stack.fault("500")
    restart(stack, 8001)
    assert [stack.ask(8001, path).status for path in ("/health", "/", "/page/3")] == [200, 500, 500]


# --- the faults


@pytest.fixture(params=["tests.support.site", "tests.support.light_app"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process of each application with a fault: ``serve("500")``; it is to listen on 8300."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(fault: str) -> subprocess.Popen[bytes]:
        (tmp_path / "fault").write_text(fault, encoding="utf-8")
        environment = {**os.environ, FAULT_FILE: str(tmp_path / "fault")}
        command = [sys.executable, "-m", request.param, "--port", "8300"]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE))
        return started[-1]

    yield serve
    for process in started:
        process.kill()
        process.communicate()


def wait_answers(
    process: subprocess.Popen[bytes], port: int = 8300, path: str = "/health", timeout: float = 10.0
) -> int:
    """The status that is answered when the process listens; raises OSError where none comes."""
    eventually(lambda: process.poll() is not None or not refuses(port), within=15.0)
    return ask("127.0.0.1", port, path, timeout).status


Serve = Callable[..., "subprocess.Popen[bytes]"]


def test_release_that_dies_never_listens(serve: Serve) -> None:
    process = serve("die")
    assert b"cannot even be imported" in process.communicate(timeout=15)[1]
    assert process.returncode == 1


def test_release_that_exits_serves_until_then(serve: Serve) -> None:
    began = time.monotonic()
    process = serve("exit 3")
    assert wait_answers(process) == 200
    assert process.wait(timeout=15) == EXIT_STATUS
    assert 2.95 < time.monotonic() - began < 3.5


def test_a_release_that_boots_late_listens_late(serve: Serve) -> None:
    began = time.monotonic()
    assert wait_answers(serve("slow 2")) == 200
    assert time.monotonic() - began > 2.0


def test_a_release_that_listens_elsewhere_listens_only_there(serve: Serve) -> None:
    assert wait_answers(serve("port 8399"), 8399) == 200
    assert not answers(8300)


@pytest.mark.parametrize(("fault", "health"), [("500", 200), ("500 everywhere", 500)])
def test_fault_500_spares_health_unless_asked(serve: Serve, fault: str, health: int) -> None:
    process = serve(fault)
    assert [wait_answers(process), wait_answers(process, path="/")] == [health, 500]


@pytest.mark.parametrize(("fault", "hangs"), [("hang", False), ("hang everywhere", True)])
def test_release_that_hangs_accepts_without_answer(serve: Serve, fault: str, hangs: bool) -> None:
    process = serve(fault)
    for path in ("/health", "/") if hangs else ("/",):
        with pytest.raises((TimeoutError, socket.timeout)):  # two things before Python 3.10
            wait_answers(process, path=path, timeout=1.0)
    assert hangs or wait_answers(process) == 200


def test_release_that_ignores_sigterm_keeps_serving(serve: Serve) -> None:
    process = serve("deaf")
    assert wait_answers(process) == 200
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    assert wait_answers(process) == 200


def test_unknown_fault_is_an_error(serve: Serve) -> None:
    assert b"no fault '50'; there are: die, " in serve("50").communicate(timeout=15)[1]


# --- the stack


def test_stopped_stack_leaves_no_process(tmp_path: Path) -> None:
    with Stack(tmp_path, OTHER) as stack:
        everything = stack.everything()
        assert {process.pid for process in stack.processes()} < {process.pid for process in everything}
        assert stack.stop() == []
    assert not any(proc.alive(process) for process in everything)


def test_stack_without_supervisord_names_killed_orphans(tmp_path: Path) -> None:
    with Stack(tmp_path, OTHER) as stack:
        everything = stack.everything()
        os.kill(stack.supervisord_pid, signal.SIGKILL)
        forced = stack.stop()
    assert [("--port 8100" in line, "--port 8101" in line) for line in sorted(forced)] == [(True, False), (False, True)]
    assert not any(proc.alive(process) for process in everything)


# --- the load


class Stalling(BaseHTTPRequestHandler):
    """Answers at once; but for a second from ``stall_from`` on, only when that is over."""

    stall_from = float("inf")

    def do_GET(self) -> None:
        until = self.stall_from + 1.0
        if self.stall_from <= time.monotonic() < until:
            time.sleep(until - time.monotonic())
        self._send(200, b"fine")

    def do_POST(self) -> None:
        self._send(502, b"bad")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Not to the test's output."""


class Failing(Stalling):
    """GETs: one in four answers 500, one closes without a word, one half-way, one is fine."""

    count = 0

    def do_GET(self) -> None:
        type(self).count += 1
        if self.count % 4 == 0:
            self._send(200, b"fine")
        elif self.count % 4 == 1:
            self._send(500, b"bad")
        elif self.count % 4 == 2:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half of it")


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5 the kernel drops some of a burst, and those come a second later
    daemon_threads = True


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_stalling_server_shows_in_every_latency(tmp_path: Path) -> None:
    class Handler(Stalling):
        stall_from = float("inf")

    with served(Handler) as url, Load(Plan(url, rate=50, posts=0, seconds=2.0), tmp_path / "load") as load:
        stall = load.began + 0.5
        Handler.stall_from = stall
        load.wait()
    sent = load.answers()
    assert len(sent) == 100
    during = [answer for answer in sent if stall + 0.05 <= answer.scheduled < stall + 0.95]
    assert len(during) == pytest.approx(45, abs=1)
    assert max(answer.late for answer in during) < 0.3, "sent while the server answered nothing"
    assert all(answer.latency == pytest.approx(stall + 1 - answer.scheduled, abs=0.15) for answer in during)
    assert load.report(end=stall - 0.05).max < 0.2


def test_late_generator_counts_as_latency(tmp_path: Path) -> None:
    with served(Stalling) as url, Load(Plan(url, rate=50, posts=0, seconds=1.0), tmp_path / "load") as load:
        load.wait_more(15)
        os.kill(load.pid, signal.SIGSTOP)
        held = time.monotonic()
        time.sleep(0.4)
        os.kill(load.pid, signal.SIGCONT)
        load.wait()
    meanwhile = [answer for answer in load.answers() if held + 0.05 <= answer.scheduled < held + 0.35]
    assert len(meanwhile) == pytest.approx(15, abs=1)
    assert max(answer.late for answer in meanwhile) == pytest.approx(0.35, abs=0.1)
    assert all(answer.late <= answer.latency < answer.late + 0.5 for answer in meanwhile)


def test_failed_gets_and_posts_are_counted_apart(tmp_path: Path) -> None:
    with served(Failing) as url, Load(Plan(url, rate=200, posts=0.2, seconds=0.5), tmp_path / "load") as load:
        load.wait()
    report = load.report()
    assert (report.requests, report.gets_failed, report.posts_failed) == (100, 60, 20)
    assert report.failures == {"GET 500": 20, "GET half an answer": 20, "GET no answer": 20, "POST 502": 20}


def test_unserved_port_fails_every_request(tmp_path: Path) -> None:
    with Load(Plan("http://127.0.0.1:1", rate=50, posts=0, seconds=0.2), tmp_path / "load") as load:
        load.wait()
    assert load.report().failures == {"GET ConnectionRefusedError": 10}


def test_report_covers_its_window_and_gets_only() -> None:
    gets = [Answer(float(number), "GET", 200, "", number / 1000, 0.0, cold=number == 60) for number in range(1, 101)]
    post = Answer(50.5, "POST", 0, "timeout", 20.0, 0.0)
    assert summarise([*gets, post]) == Report(
        101, gets_failed=0, posts_failed=1, cold=1, p50=0.05, p99=0.099, max=0.1, late=0.0, failures={"POST timeout": 1}
    )
    assert summarise([*gets, post], start=1, end=51).posts_failed == 1
    assert summarise([*gets, post], start=51, end=61) == Report(10, 0, 0, 1, 0.055, 0.06, 0.06, 0.0)
    assert summarise([]) == Report(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)


CHROOTED = """
import os, sys
from tests.support.netns import enter_private_network
os.chroot(sys.argv[1])
os.chdir("/")
enter_private_network()
"""


def test_chroot_that_is_no_mount_point_is_explained(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHROOTED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.rstrip().endswith("a mount point: mount --bind DIR DIR")
