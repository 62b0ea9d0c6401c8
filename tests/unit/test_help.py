"""``help CODE``: the entries about messages, as plain text, without supervisord, network and docutils."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller as Supervisorctl

import supervisor_rolling.help as pages
from supervisor_rolling.ctl.commands import make_rolling_controllerplugin
from supervisor_rolling.ctl.program import main
from supervisor_rolling.help import UnknownCodeError, entries, page

PART = """\
Title of the page
=================

Not part of an entry.

web.down
--------
::

   app-1: is down …
     for 3 s

What it *means*: **see** ``port`` in
:doc:`the first steps </quickstart>` and :doc:`/balancers/nginx`.

.. _label:

* Read `the manual
  <https://nginx.org>`_.
* Then::

     nginx -s reload

.. note:: It takes
   a moment.

.. code-block:: yaml

   groups: ``x``

web.slow
--------

Second.
"""


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part of the page, in place of those of the package."""
    (tmp_path / "web.rst").write_text(PART, encoding="utf-8")
    monkeypatch.setattr(pages, "files", lambda _: tmp_path)
    monkeypatch.setattr(pages, "entries", entries.__wrapped__)  # not the cached ones


@pytest.mark.usefixtures("part")
def test_entry_is_printed_without_markup() -> None:
    assert page("web.down") == [
        "web.down",
        "",
        "   app-1: is down …",
        "     for 3 s",
        "",
        "What it means: see port in the first steps and nginx.",
        "",
        "* Read the manual (https://nginx.org).",
        "* Then:",
        "",
        "     nginx -s reload",
        "",
        "Note: It takes a moment.",
        "",
        "   groups: ``x``",
    ]


@pytest.mark.usefixtures("part")
def test_code_is_found_in_any_case() -> None:
    assert page("Web.SLOW") == ["web.slow", "", "Second."]


@pytest.mark.usefixtures("part")
def test_list_has_first_line_of_each() -> None:
    assert page("codes") == ["web.down  app-1: is down …", "web.slow  Second."]


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize(
    ("code", "hint"),
    [("web.dwon", "web.down"), ("web", "web.down, web.slow"), ("slow", "web.slow"), ("xyz", "supervisor_rolling help")],
)
def test_unknown_code_suggests_similar_ones(code: str, hint: str) -> None:
    with pytest.raises(UnknownCodeError, match=hint):
        page(code)


def test_program_prints_entry_without_supervisord(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["help", "warmup.answer"]) == 0
    assert capsys.readouterr().out.startswith("warmup.answer\n")


def test_program_ends_with_2_for_unknown_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "warmup.answre"]) == 2
    assert "did you mean warmup.answer" in capsys.readouterr().out


@pytest.fixture
def supervisorctl() -> Supervisorctl:
    """As it is, with the plugin; its output goes into a string."""
    options = ClientOptions()
    options.prompt = "supervisor"
    options.plugin_factories.append(("rolling", make_rolling_controllerplugin, {}))
    found = Supervisorctl(options)
    found.stdout = io.StringIO()
    return found


def test_supervisorctl_prints_entry(supervisorctl: Supervisorctl) -> None:
    supervisorctl.onecmd("help WARMUP.answer")
    assert supervisorctl.stdout.getvalue().startswith("warmup.answer\n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("rolling_restrat app", "ERROR: there is no command rolling_restrat (did you mean rolling_restart?)"),
        ("rolling_", "(the commands are: rolling_restart, "),
        ("restrat app", "*** Unknown syntax: restrat app"),
    ],
)
def test_mistyped_command_is_named(supervisorctl: Supervisorctl, line: str, answer: str) -> None:
    supervisorctl.onecmd(line)
    assert answer in supervisorctl.stdout.getvalue()
    assert supervisorctl.exitstatus


def test_entries_are_read_without_docutils() -> None:
    script = "import sys, supervisor_rolling.help as h; h.page('codes'); print('docutils' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("words", [["help"], ["help", "codes"], ["help", "restart"]])
def test_closed_pipe_is_no_traceback(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "supervisor_rolling.ctl.program", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "rolling: cannot write the output: Broken pipe\n")
