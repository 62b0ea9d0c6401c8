"""Completion of ``supervisor_rolling`` in bash and zsh, by their own line editors in a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from supervisor_rolling.ctl.completion import candidates
from supervisor_rolling.help import entries

pytestmark = pytest.mark.needs("shells")

FILES = Path(__file__).resolve().parents[2] / "conf" / "completion"
PROCESSES = [{"group": "app", "name": "app-1"}, {"group": "app", "name": "app-2"}, {"group": "web", "name": "web"}]
WITHIN = 30.0
PROMPT = "ready> "

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], f"source {FILES}/supervisor_rolling"),
    "zsh": (["zsh", "-f", "-i"], f"fpath=({FILES} $fpath); autoload -U compinit; compinit -u -D"),
}
"""How each starts, and what loads the completion, as the shell does by itself where the files are installed."""


def known(_: Sequence[str]) -> Sequence[Mapping[str, str]]:
    return PROCESSES


def down(_: Sequence[str]) -> Sequence[Mapping[str, str]]:
    raise ConnectionRefusedError


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("re", ["restart", "resume", "report"]),
        ("help sta", ["status"]),
        ("-", ["-c", "-s", "-u", "-p", "-h", "--version"]),
        ("restart --n", ["--no-wait"]),
        ("-c ", []),  # a file
        ("nonsense ", []),
        ("report -o ", []),
    ],
)
def test_words_are_completed_without_supervisord(line: str, found: list[str]) -> None:
    assert candidates(line.split(" "), down) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("restart ", ["app", "web"]),
        ("-s http://h:1 restart a", ["app"]),
        ("restart app:", ["app:app-1", "app:app-2"]),
        ("status app:", []),
    ],
)
def test_groups_and_processes_are_completed(line: str, found: list[str]) -> None:
    assert candidates(line.split(" "), known) == found
    assert candidates(line.split(" "), down) == []


def test_code_is_completed_behind_help() -> None:
    code = max(entries(), key=len)
    assert code in candidates(["help", code[:-1]], down)
    assert candidates([code[:-1]], down) == []


# --- in the shells


class Terminal:
    """A shell in a terminal, in which ``supervisor_rolling`` writes down what it is called with."""

    def __init__(self, shell: str, folder: Path) -> None:
        if not shutil.which(shell):
            pytest.fail(f"{shell} is not installed. On Debian: apt-get install {shell}. Then try again.")
        self._calls = folder / "calls"
        program = folder / "supervisor_rolling"
        program.write_text(
            f'#!/bin/sh\n[ "$1" != complete ] || exec {sys.executable} -m supervisor_rolling.ctl.program "$@"\n'
            f"printf '<%s>' \"$@\" >{self._calls}.new\nmv {self._calls}.new {self._calls}\n",
            encoding="utf-8",
        )
        program.chmod(0o755)
        command, load = SHELLS[shell]
        self._terminal, inner = pty.openpty()
        environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "TERM": "vt100",
            "HOME": str(folder),
            "PS1": PROMPT,
        }
        self._shell = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, cwd=folder, start_new_session=True
        )
        os.close(inner)
        self.shown = ""
        threading.Thread(target=self._read, daemon=True).start()
        self._wait(lambda: PROMPT in self.shown, "there is a prompt")  # what is typed earlier may be thrown away
        self.type(f"{load}; echo loa''ded\n")
        self._wait(lambda: PROMPT in self.shown.partition("loaded")[2], "the completion is loaded")

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def called(self) -> str:
        """What the program was called with, when it has been."""
        self._wait(self._calls.exists, "supervisor_rolling is called")
        return self._calls.read_text(encoding="utf-8")

    def end(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is closed
            while True:
                self.shown += os.read(self._terminal, 4096).decode(errors="replace")

    def _wait(self, is_so: object, what: str) -> None:
        assert callable(is_so)
        until = time.monotonic() + WITHIN
        while not is_so():
            assert time.monotonic() < until, f"not in {WITHIN} s: {what}. The terminal shows {self.shown!r}"
            time.sleep(0.02)


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(request.param, tmp_path)
    yield found
    found.end()


@pytest.fixture
def supervisord() -> Iterator[str]:
    """The URL of one that has the processes."""
    with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_function(lambda: PROCESSES, "supervisor.getAllProcessInfo")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_shell_completes_verb_and_option(terminal: Terminal) -> None:
    terminal.type("supervisor_rolling rest\t--dr\tx\n")
    assert terminal.called() == "<restart><--dry-run><x>"


def test_shell_completes_process_behind_colon(terminal: Terminal, supervisord: str) -> None:
    terminal.type(f"supervisor_rolling -s {supervisord} restart we\tapp:\t2\t--j\t\n")
    assert terminal.called() == f"<-s><{supervisord}><restart><web><app:app-2><--json>"


def test_shell_completes_file_for_configuration(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "other.conf").touch()
    terminal.type("supervisor_rolling -c oth\tstat\t\n")
    assert terminal.called() == "<-c><other.conf><status>"


def test_supervisord_that_hangs_neither_blocks_nor_prints(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        terminal.type(f"supervisor_rolling -s {url} restart ap\tx\n")
        assert terminal.called() == f"<-s><{url}><restart><apx>"
    assert time.monotonic() - began < 10
    assert "Traceback" not in terminal.shown
    assert "rror" not in terminal.shown
