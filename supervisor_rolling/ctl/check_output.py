"""What ``rolling_check`` prints: a line for each finding, then what was checked and what was skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_lines(group: str, report: Mapping[str, Any]) -> list[str]:
    """The report of ``rolling.check``, for people. Errors come first."""
    findings = sorted(report["findings"], key=lambda finding: finding["severity"])
    return [
        *(_line(finding) for finding in findings),
        *(f"skipped: {text}" for text in report["skipped"]),
        f"{group}: {_count(findings)}. Checked: {', '.join(report['checked']) or 'nothing'}",
    ]


def _line(finding: Mapping[str, Any]) -> str:
    fix = f". Fix: {finding['fix']}" if finding["fix"] else ""
    where = "" if finding["where"] == finding["code"] else f"{finding['where']}: "
    return f"{finding['severity']}: {finding['code']}: {where}{finding['text']}{fix}"


def _count(findings: list[Mapping[str, Any]]) -> str:
    severities = [finding["severity"] for finding in findings]
    counts = [(severities.count(word), word) for word in ("error", "warning")]
    return (
        ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number) or "no finding"
    )
