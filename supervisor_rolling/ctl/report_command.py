"""``rolling_report``: one rollout as a page of HTML, or as the record that the page is made from."""

from __future__ import annotations

import argparse
import json
import os

from supervisor_rolling.ctl.exit_status import DONE, FAILED, CommandError
from supervisor_rolling.ctl.report_page import page
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.usage import UsageError, name_of

MAX_DIGITS = 9
"""Digits of the number of a rollout."""


def report(session: Session, options: argparse.Namespace) -> int:
    """Write the report to a file or to standard output."""
    session.prints_page = not options.output
    if session.prints_page and session.output.is_terminal and not session.as_json:
        raise UsageError("the report is HTML: write it to a file with -o rollout.html")
    record = session.ask_json("getRecord", *_rollout_named(options.group or ""))
    if session.as_json:
        text = json.dumps(record) + "\n"
    else:
        encoding = session.output.encoding if session.prints_page else "utf-8"
        html = session.called(page(record))
        text = html.encode(encoding, "xmlcharrefreplace").decode(encoding)
    if session.prints_page:
        session.output.write(text)
    else:
        _write(options.output, text)
        session.print({"file": options.output}, [f"{options.output}: rollout {record['id']} of {record['group']}"])
    return DONE


def _rollout_named(word: str) -> tuple[str, int]:
    """The group and the number of a rollout: ``12`` is a number, ``12:*`` the group with that name. An empty group
    stands for any; 0 for the last rollout."""
    is_number = word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS and int(word) > 0
    return ("", int(word)) if is_number else (name_of(word) if word else "", 0)


def _write(path: str, text: str) -> None:
    try:
        with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:  # ValueError: the path has a NUL
        raise CommandError(f"cannot write {path}: {getattr(error, 'strerror', '') or error}", FAILED) from None
