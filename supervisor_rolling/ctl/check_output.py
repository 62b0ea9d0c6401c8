"""What ``rolling_check`` prints: a line for each finding, then what was looked at and what could not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_lines(group: str, report: Mapping[str, Any]) -> list[str]:
    """The report of ``rolling.check``, for people. Errors come first."""
    findings = sorted(report["findings"], key=lambda finding: not finding["refuses"])
    return [
        *(_line(finding) for finding in findings),
        *(f"skipped: {text}" for text in report["not_looked_at"]),
        f"{group}: {_count(findings)}. Looked at: {', '.join(report['looked_at']) or 'nothing'}",
    ]


def _line(finding: Mapping[str, Any]) -> str:
    fix = f". Fix: {finding['fix']}" if finding["fix"] else ""
    where = "" if finding["where"] == finding["code"] else f"{finding['where']}: "
    return f"{_severity(finding)}: {finding['code']}: {where}{finding['text']}{fix}"


def _severity(finding: Mapping[str, Any]) -> str:
    """An error refuses a rollout."""
    return "error" if finding["refuses"] else "warning"


def _count(findings: list[Mapping[str, Any]]) -> str:
    severities = [_severity(finding) for finding in findings]
    counts = [(severities.count(word), word) for word in ("error", "warning")]
    told = [f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number]
    return ", ".join(told) or "no finding"
