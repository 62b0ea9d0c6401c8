"""What the commands take, their help, and what a shell completes."""

from __future__ import annotations

from typing import Any

import pytest
from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller as Supervisorctl

from supervisor_rolling.ctl.command_hints import rewrite_commands, where_options
from supervisor_rolling.ctl.commands import make_rolling_controllerplugin
from supervisor_rolling.ctl.supervisorctl_shell import completions
from supervisor_rolling.ctl.usage import COMMANDS, IN_SUPERVISORCTL, UsageError, help_text, parse

PROCESSES = [
    {"group": "app", "name": "app-1"},
    {"group": "app", "name": "app-2"},
    {"group": "web", "name": "web"},
    {"group": "api", "name": "api-1"},
]


def completed(line: str) -> list[str] | None:
    """What the last word of a line may become."""
    text = "" if line.endswith(" ") else line.split()[-1]
    return completions(line, text, lambda: PROCESSES)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rolling_restart ", ["api ", "app ", "web "]),
        ("rolling_restart ap", ["api ", "app "]),
        ("rolling_restart app:", ["app:app-1 ", "app:app-2 "]),
        ("rolling_restart app:app-1 app:app-", ["app:app-1 ", "app:app-2 "]),
        ("rolling_restart app --no", ["--no-wait "]),
        ("rolling_restart --", ["--all ", "--max-unavailable ", "--dry-run ", "--no-wait ", "--force ", "--json "]),
        ("rolling_status w", ["web "]),
        ("rolling_status app:", []),  # of a whole group
        ("rolling_resume -", ["--no-wait ", "--json "]),
        ("rolling_abort x", []),
        ("rolling_report -", ["--output ", "--json "]),
        ("rolling_report -o ", []),  # a file
        ("rolling_report app --output a", []),
        ("rolling_restart --max-unavailable ", []),
        ("rolling_restart app --force a", ["api ", "app "]),
    ],
)
def test_groups_processes_and_options_are_completed(line: str, found: list[str]) -> None:
    assert completed(line) == found


@pytest.mark.parametrize("line", ["rolling_re", "restart ap", "help rolling_", " "])
def test_other_commands_are_left_to_supervisorctl(line: str) -> None:
    assert completions(line, "", lambda: PROCESSES) is None


def test_options_are_completed_without_asking_supervisord() -> None:
    def processes() -> Any:
        raise AssertionError("asked")

    assert completions("rolling_check app --", "--", processes) == ["--json "]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("To continue: supervisorctl rolling_resume app", "To continue: supervisor_rolling resume app"),
        ("Try: supervisorctl help rolling_check", "Try: supervisor_rolling help check"),
        ("rolling_resume goes on with it", "supervisor_rolling resume goes on with it"),
        ("All that is wrong: rolling_check app. To accept it: rolling_restart app --force",
         "All that is wrong: supervisor_rolling check app. To accept it: supervisor_rolling restart app --force"),
        ("see rolling_history", "see supervisor_rolling history"),
        ("supervisorctl tail rolling stderr", "supervisorctl tail rolling stderr"),
        ("/etc/rolling_status of rolling_statuses", "/etc/rolling_status of rolling_statuses"),
        ("rolling_check", "rolling_check"),
    ],
)  # fmt: skip
def test_commands_in_a_text_become_verbs_of_the_program(text: str, found: str) -> None:
    assert rewrite_commands(text, "supervisor_rolling") == found
    assert rewrite_commands(found, "supervisor_rolling") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Next: supervisorctl rolling_resume app", "Next: supervisor_rolling -s 'http://h:1/?a b' resume app"),
        ("Try: supervisorctl help rolling_check", "Try: supervisor_rolling help check"),
        ("See: supervisorctl tail app stderr", "See: supervisorctl -s 'http://h:1/?a b' tail app stderr"),
        ("what supervisorctl prints", "what supervisorctl prints"),
    ],
)
def test_commands_in_a_text_keep_the_programs_options(text: str, found: str) -> None:
    where = where_options([("-u", "ann"), ("-s", "http://h:1/?a b"), ("-p", "secret")])
    assert rewrite_commands(text, "supervisor_rolling", where) == found
    assert rewrite_commands(found, "supervisor_rolling", where) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "To continue: supervisorctl rolling_resume app",
            "To continue: supervisorctl -c /etc/s.conf rolling_resume app",
        ),
        ("Try: supervisorctl help rolling_check", "Try: supervisorctl -c /etc/s.conf help rolling_check"),
        ("See: supervisorctl tail app stderr", "See: supervisorctl -c /etc/s.conf tail app stderr"),
        ("rolling_abort ends it", "rolling_abort ends it"),
    ],
)
def test_supervisorctl_commands_keep_its_options(text: str, found: str) -> None:
    where = where_options([("-c", "/etc/s.conf")])
    assert rewrite_commands(text, "", where) == found
    assert rewrite_commands(found, "", where) == found


# --- in supervisorctl's own shell


class Server:
    """supervisord, which counts how often it is asked; None: it does not answer."""

    def __init__(self, processes: list[dict[str, str]] | None) -> None:
        self.processes = processes
        self.asked = 0

    def getAllProcessInfo(self) -> list[dict[str, str]]:
        self.asked += 1
        if self.processes is None:
            raise ConnectionRefusedError
        return self.processes


def shell(server: Server) -> Supervisorctl:
    """supervisorctl as it is, with the plugin."""
    options = ClientOptions()
    options.prompt = "supervisor"
    options.plugin_factories.append(("rolling", make_rolling_controllerplugin, {}))
    found = Supervisorctl(options)
    found.get_supervisor = lambda: server
    return found


def all_completions(found: Supervisorctl, line: str) -> list[str]:
    """As readline asks for them."""
    text = "" if line.endswith(" ") else line.split()[-1]
    answers: list[str] = []
    for state in range(100):
        one = found.complete(text, state, line)
        if one is None:
            return answers
        answers.append(one)
    raise AssertionError("it does not end")


def test_completion_asks_supervisord_once() -> None:
    server = Server(PROCESSES)
    assert all_completions(shell(server), "rolling_restart app:app") == ["app:app-1 ", "app:app-2 "]
    assert server.asked == 1


def test_shell_still_completes_its_own_commands() -> None:
    found = shell(Server(PROCESSES))
    assert all_completions(found, "restart app:") == ["app:app-1 ", "app:* ", "app:app-2 "]
    assert all_completions(found, "rolling_re") == ["rolling_report ", "rolling_restart ", "rolling_resume "]
    assert all_completions(found, "help rolling_a") == ["rolling_abort "]


def test_nothing_is_completed_without_supervisord() -> None:
    assert all_completions(shell(Server(None)), "rolling_status a") == []


@pytest.mark.parametrize("command", IN_SUPERVISORCTL)
def test_help_is_printed_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell(Server([])).onecmd(f"help {command}")
    assert capsys.readouterr().out == help_text(command) + "\n"


def test_no_help_on_an_unknown_command_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    shell(Server([])).onecmd("help rolling_nonsense")
    assert capsys.readouterr().out == "*** No help on rolling_nonsense\n"


def test_list_of_commands_has_ours(capsys: pytest.CaptureFixture[str]) -> None:
    shell(Server([])).onecmd("help")
    listed = capsys.readouterr().out
    assert "rolling commands (type help <topic>)" in listed
    assert all(command in listed for command in IN_SUPERVISORCTL)
    assert "rolling_setup" not in listed


# --- help and parsing


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_eighty_columns_and_has_every_option(command: str) -> None:
    lines = help_text(command).splitlines()
    assert max(map(len, lines)) <= 80
    for option in COMMANDS[command].options:
        assert any(option.flag in line.split() for line in lines if line.startswith("  -"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rolling_abort", "the following arguments are required: GROUP"),
        ("rolling_restart app --dry", "unrecognized arguments: --dry"),
        ("rolling_restart app --max-unavailable", "argument --max-unavailable: expected one argument"),
        ("rolling_restart app --max-unavailable 0", "argument --max-unavailable"),
        ("rolling_status app web", "unrecognized arguments: web"),
    ],
)
def test_wrong_usage_is_explained(line: str, why: str) -> None:
    command, *words = line.split()
    with pytest.raises(UsageError, match=why):
        parse(command, words)
