"""``rolling_check``: a line for each finding, then what was checked and what was skipped."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.ctl.exit_status import DONE, FAILED
from supervisor_rolling.ctl.loaded_version import version_findings
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.usage import name_of


def check(session: Session, options: argparse.Namespace) -> int:
    """Check the set-up of a group. Fails on errors, not on warnings."""
    report = session.ask("check", name_of(options.group))
    report["findings"] += version_findings(session.ask("getListener"))
    session.print(report, check_lines(report))
    return DONE if report["ok"] else FAILED


def check_lines(report: Mapping[str, Any]) -> list[str]:
    """The report of ``rolling.check`` as lines, errors first."""
    findings = sorted(report["findings"], key=lambda finding: finding["severity"])
    return [
        *(_line(finding) for finding in findings),
        *(f"skipped: {text}" for text in report["skipped"]),
        f"{report['group']}: {_count(findings)}. Checked: {', '.join(report['checked']) or 'nothing'}",
    ]


def _line(finding: Mapping[str, Any]) -> str:
    fix = f". Fix: {finding['fix']}" if finding["fix"] else ""
    where = "" if finding["where"] == finding["code"] else f"{finding['where']}: "
    text = f"{finding['severity']}: {finding['code']}: {where}{finding['text']}{fix}"
    return with_see(text, finding["code"]).replace("\n", "\n  ")


def _count(findings: list[Mapping[str, Any]]) -> str:
    severities = [finding["severity"] for finding in findings]
    counts = [(severities.count(word), word) for word in ("error", "warning")]
    return ", ".join(f"{number} {word}{'s' * (number > 1)}" for number, word in counts if number) or "no finding"
