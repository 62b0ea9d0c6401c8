"""The programs ``supervisor_rolling``, which wants no plugin in supervisorctl, and ``echo_rolling_conf``."""

from __future__ import annotations

import configparser
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor_rolling import __version__, skel
from supervisor_rolling.ctl import program
from supervisor_rolling.ctl.usage import COMMANDS, verb
from supervisor_rolling.listener import config
from tests.support.plugin import SECTIONS
from tests.support.stack import ROOT, Stack

NOWHERE = ("-s", "http://127.0.0.1:1")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit status of the program, and what it says."""
    program.ProgramOptions.stdout, program.ProgramOptions.stderr = (
        sys.stdout,
        sys.stderr,
    )  # supervisor has those of its import
    status = program.main(words)
    found = capsys.readouterr()
    return status, found.out + found.err


def test_no_argument_prints_usage(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = printed(capsys)
    assert status == 2
    assert all(f"  {verb(one)} " in text for one in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("words", [("-h",), ("--help",), ("help",)])
def test_help_is_printed_on_request(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, text = printed(capsys, *words)
    assert (status, "[-c FILE | -s URL] COMMAND" in text) == (0, True)


@pytest.mark.parametrize("words", [("help", "restart"), (*NOWHERE, "restart", "--help")])
def test_verb_help_is_the_command_help(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, text = printed(capsys, *words)
    assert (status, text.splitlines()[0]) == (0, "supervisor_rolling restart <group>")
    assert "--max-unavailable N|N%" in text


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == (0, __version__ + "\n")


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("rollouts",), 2, "there is no command rollouts (the commands are: restart, status,"),
        (("help", "rollouts"), 2, "there is no command rollouts"),
        (("-x",), 2, "ERROR: option -x not recognized. Try: supervisor_rolling -h. See: "),
        (("-c", "/nowhere.conf", "status"), 2, "ERROR: could not find config file /nowhere.conf. Try: "),
        (("-s", "bla", "status"), 2, "ERROR: invalid value for -s 'bla': value 'bla' is not a URL. Try: "),
        (("-s", "ftp://x", "status"), 2, "ERROR: cannot connect to supervisord at 'ftp://x': use http:// or unix://"),
        (("-s", "bla\x07", "status"), 2, "value 'bla\\x07' is not a URL"),
        ((*NOWHERE, "restart"), 2, "name a group, or --all. Try: supervisor_rolling help restart"),
        ((*NOWHERE, "abort", "app", "web"), 2, "unrecognized arguments: web. Try: supervisor_rolling help abort"),
        ((*NOWHERE, "restart", "app"), 7, "does not answer at http://127.0.0.1:1"),
    ],
)
def test_wrong_arguments_are_named(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, why: str
) -> None:
    found, text = printed(capsys, *words)
    assert (found, why in text) == (status, True), text


@pytest.mark.parametrize("words", [("rollouts",), ("help", "rollouts"), ("-s", "bla"), ("-x",), (*NOWHERE, "restart")])
def test_error_is_wrapped_and_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    screen = Terminal()
    for name, value in (("TERM", "xterm"), ("NO_COLOR", ""), ("COLUMNS", "40")):
        monkeypatch.setenv(name, value)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, screen)
        monkeypatch.setattr(program.ProgramOptions, stream, screen)
    assert program.main(words) == 2
    text = screen.getvalue()
    assert text.startswith("\x1b[31mERROR:\x1b[0m ")
    assert max(len(line) for line in text.replace("\x1b[31m", "").replace("\x1b[0m", "").splitlines()) <= 40


@pytest.mark.parametrize("words", [("rollouts", "--json"), ("-s", "bla", "status", "--json")])
def test_error_is_json_on_request(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, text = printed(capsys, *words)
    answer = json.loads(text)
    assert (status, set(answer), answer["exit_status"]) == (2, {"error", "exit_status"}, 2)


def test_supervisord_only_configuration_works_with_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[supervisord]\n", encoding="utf-8")
    assert printed(capsys, "-c", str(conf), *NOWHERE, "status")[0] == 7
    assert printed(capsys, "-c", str(conf), "status")[0] == 2


def run(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """The program, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor_rolling.ctl.program", *words],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_works_where_supervisorctl_has_no_plugin(start: Callable[..., Stack]) -> None:
    stack = start(processes=2)
    text = stack.supervisord_conf.read_text(encoding="utf-8")
    broken = text.replace("supervisor_rolling.controllerplugin:make", "nowhere:make")
    stack.supervisord_conf.write_text(broken, encoding="utf-8")
    refused = run(stack, "-c", str(stack.supervisord_conf), "restart", "app:missing")
    assert (refused.returncode, "no such group or process" in refused.stdout) == (5, True), refused.stdout
    done = run(stack, "-c", str(stack.supervisord_conf), "restart", "app", "--json")
    assert (done.returncode, json.loads(done.stdout)["replaced"]) == (0, 2), done.stdout


def test_url_alone_is_enough_for_a_rollout(start: Callable[..., Stack]) -> None:
    stack = start(processes=2)
    url = f"unix://{stack.socket}"
    begun = run(stack, "-s", url, "restart", "app", "--no-wait")
    assert begun.returncode == 0, begun.stdout
    assert f"To watch it: supervisor_rolling -s {url} status app" in begun.stdout
    assert run(stack, "-s", url, "abort", "app").returncode == 0
    hint = f"the last one aborted: supervisor_rolling -s {url} resume app continues it"
    stack.wait_until(lambda: hint in run(stack, "-s", url, "pause", "app").stdout, 60.0, "the rollout has ended")


# --- what to paste


def echoed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert skel.main(words) == 0
    return capsys.readouterr().out


def test_printed_sections_are_those_of_conf(capsys: pytest.CaptureFixture[str]) -> None:
    found = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    found.read_string(echoed(capsys, "sections"))
    whole = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    whole.read(ROOT / "conf" / "supervisord.conf")
    assert found.sections() == list(SECTIONS)
    beside = str(Path(sys.executable).parent / "supervisor_rolling_listener")
    for name in SECTIONS:
        expected = {key: value.replace("supervisor_rolling_listener", beside) for key, value in whole[name].items()}
        assert dict(found[name]) == expected


def test_printed_policy_is_that_of_conf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "rolling.yaml"
    policy.write_text(echoed(capsys, "yaml"), encoding="utf-8")
    policy.chmod(0o600)
    assert config.load(str(policy)) == config.load(str(ROOT / "conf" / "rolling.yaml"))


def test_both_parts_are_printed_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = echoed(capsys)
    assert echoed(capsys, "sections") in text
    assert text.endswith(echoed(capsys, "yaml"))


def test_no_comment_is_wider_than_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    commented = [line for line in echoed(capsys).splitlines() if re.search("(^|\\s)[;#]", line)]
    assert len(commented) > 100
    assert [line for line in commented if len(line) > 80] == []


def test_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        skel.main(["nginx"])
    assert (end.value.code, "choose from" in capsys.readouterr().err) == (2, True)
