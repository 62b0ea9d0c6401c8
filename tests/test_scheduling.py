"""Who takes only the time of the processors that others leave: real processes, with all their threads and children."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from supervisor_rolling.in_listener import scheduling
from supervisor_rolling.in_listener.owners import families_of
from supervisor_rolling.in_listener.scheduling import KernelScheduling

IDLE, OTHER = os.SCHED_IDLE, os.SCHED_OTHER

FAMILY = """
import os, sys, threading, time
stop = threading.Event()
def rest(name, until=lambda: stop.wait()):
    threading.Thread(target=until, name=name, daemon=True).start()
rest("first")
if not os.fork():
    rest("of a child")
    if not os.fork():
        time.sleep(60)
    time.sleep(60)
print("up", flush=True)
BREED
time.sleep(60)
"""

BREED = """
def breed():
    while True:
        time.sleep(0.001)
        child = os.fork()
        if not child:
            time.sleep(60 if len(children) < 20 else 0)
            os._exit(0)
        children.append(child)
children = []
rest("breeds", breed)
"""


def threads_of(pid: int) -> list[int]:
    """Of a process and of all that descend from it."""
    found = []
    for one in families_of([pid]):
        try:
            found += [int(name) for name in os.listdir(f"/proc/{one}/task")]
        except FileNotFoundError:
            continue
    return found


def policies(pid: int) -> set[int]:
    found = set()
    for thread in threads_of(pid):
        try:
            found.add(os.sched_getscheduler(thread))
        except ProcessLookupError:
            continue
    return found


@pytest.fixture
def family() -> Iterator[Callable[..., int]]:
    """Starts a process of two threads with a child of two threads, which has a child, and gives its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(extra: str = "") -> int:
        code = FAMILY.replace("BREED", extra)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        end = time.monotonic() + 10.0
        while len(threads_of(process.pid)) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        return process.pid

    yield start
    for process in started:
        for pid in families_of([process.pid]):
            kill(pid)
        process.wait()
        assert process.stdout
        process.stdout.close()


def kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def test_a_process_is_changed_and_changed_back_with_all_its_threads_and_descendants(
    family: Callable[..., int],
) -> None:
    pid, kernel = family(), KernelScheduling()
    assert len(threads_of(pid)) == 5
    kernel.hold([pid], [pid])
    assert policies(pid) == {IDLE}
    kernel.hold([], [pid])
    assert policies(pid) == {OTHER}


def test_only_those_are_changed_that_are_meant(family: Callable[..., int]) -> None:
    first, second, third, kernel = family(), family(), family(), KernelScheduling()
    kernel.hold([first, second], [first, second])
    kernel.hold([second], [first, second])
    assert [policies(pid) for pid in (first, second, third)] == [{OTHER}, {IDLE}, {OTHER}]
    assert os.sched_getscheduler(0) == OTHER


def test_another_listener_puts_right_what_the_last_one_left(family: Callable[..., int]) -> None:
    pid = family()
    KernelScheduling().hold([pid], [pid])
    KernelScheduling().hold([], [pid])
    assert policies(pid) == {OTHER}


def test_what_a_listener_left_that_was_killed_half_way_back_is_put_right(
    family: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, kernel, change = family(), KernelScheduling(), os.sched_setscheduler
    kernel.hold([pid], [pid])
    left = iter(range(4))

    def dies(thread: int, policy: int, param: os.sched_param) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        change(thread, policy, param)

    monkeypatch.setattr(os, "sched_setscheduler", dies)
    with pytest.raises(KeyboardInterrupt):
        kernel.hold([], [pid])
    monkeypatch.undo()
    assert policies(pid) == {IDLE, OTHER}
    KernelScheduling().hold([], [pid])
    assert policies(pid) == {OTHER}


def test_what_is_born_meanwhile_is_found(family: Callable[..., int]) -> None:
    pid, kernel = family(BREED), KernelScheduling()
    for _ in range(5):
        kernel.hold([pid], [pid])
        time.sleep(0.02)
        kernel.hold([], [pid])
        assert policies(pid) == {OTHER}


def test_niceness_is_not_touched(family: Callable[..., int]) -> None:
    pid, kernel = family(), KernelScheduling()
    os.setpriority(os.PRIO_PROCESS, pid, 5)
    kernel.hold([pid], [pid])
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    kernel.hold([], [pid])
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5


@pytest.mark.parametrize("policy", [os.SCHED_BATCH, IDLE | os.SCHED_RESET_ON_FORK])
def test_another_policy_is_somebody_elses_business(family: Callable[..., int], policy: int) -> None:
    pid, kernel = family(), KernelScheduling()
    os.sched_setscheduler(pid, policy, os.sched_param(0))
    kernel.hold([pid], [pid])
    kernel.hold([], [pid])
    assert os.sched_getscheduler(pid) == policy


def test_who_is_gone_is_no_error(family: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    alive, kernel = family(), KernelScheduling()
    kernel.hold([child.pid, alive], [child.pid, alive])
    kernel.hold([], [child.pid, alive])
    assert policies(alive) == {OTHER}
    assert caplog.messages == []


def test_where_nothing_is_to_be_changed_proc_is_not_read(
    family: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, kernel = family(), KernelScheduling()
    kernel.hold([pid], [pid])

    def none_of(pids: object) -> list[int]:
        raise AssertionError("/proc was read")

    monkeypatch.setattr(scheduling, "families_of", none_of)
    kernel.hold([pid], [pid, os.getpid()])


def test_what_the_kernel_refuses_is_logged_once(
    family: Callable[..., int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pid, kernel = family(), KernelScheduling()
    assert kernel.problem() == ""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    for _ in range(3):
        kernel.hold([pid], [pid])
    (line,) = caplog.messages
    assert "a scheduling policy cannot be changed" in line


# --- without the right

UNABLE = """
import logging, os, subprocess, sys
logging.basicConfig(format="%(message)s")
BECOME
from supervisor_rolling.in_listener.scheduling import KernelScheduling
child = subprocess.Popen(["sleep", "60"])
kernel = KernelScheduling()
kernel.hold([], [])
for _ in range(3):
    kernel.hold([child.pid], [child.pid])
    print(os.sched_getscheduler(child.pid), os.sched_getscheduler(0))
kernel.hold([], [child.pid])
child.kill()
child.wait()
"""


def without_the_right(become: str, *before: str) -> str:
    """Nothing is changed; what is logged."""
    code = UNABLE.replace("BECOME", become)
    code = "import supervisor_rolling.in_listener.scheduling" + code  # read as root, whoever may read the tree
    done = subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{OTHER} {OTHER}"] * 3
    (line,) = done.stderr.splitlines()
    return line


def test_without_the_right_nothing_is_ever_changed_and_that_is_logged_once() -> None:
    line = without_the_right("os.setuid(65534)")
    assert "without CAP_SYS_NICE; give the listener CAP_SYS_NICE" in line


def test_a_capability_that_does_not_reach_beyond_a_user_namespace_is_not_the_right() -> None:
    line = without_the_right("", "unshare", "--user", "--map-root-user")
    assert "Operation not permitted; give the listener CAP_SYS_NICE on the host itself" in line


def test_the_right_is_asked_for_where_somebody_may_need_it_and_not_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduling, "_problem", lambda: "no")
    kernel = KernelScheduling()
    with caplog.at_level(logging.INFO):
        kernel.hold([], [])
        assert caplog.messages == []
        kernel.hold([], [os.getpid()])
    assert len(caplog.messages) == 1
