"""What ``rolling_check`` prints: a line for each finding, then what was looked at and what could not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_lines(group: str, report: Mapping[str, Any]) -> list[str]:
    """The report of ``rolling.check``, for people. Those that refuse a roll come first."""
    findings = sorted(report["findings"], key=lambda finding: not finding["refuses"])
    return [
        *(_line(finding) for finding in findings),
        *(f"not looked at: {text}" for text in report["not_looked_at"]),
        f"{group}: {_count(findings)}. Looked at: {', '.join(report['looked_at']) or 'nothing'}",
    ]


def _line(finding: Mapping[str, Any]) -> str:
    grade = "refuses a roll" if finding["refuses"] else "advice"
    mend = f". To mend it: {finding['mend']}" if finding["mend"] else ""
    return f"{grade}: {finding['code']}: {finding['where']}: {finding['text']}{mend}"


def _count(findings: list[Mapping[str, Any]]) -> str:
    if not findings:
        return "no finding"
    refusing = sum(finding["refuses"] for finding in findings)
    more = f", {refusing} of which refuse a roll" if refusing else ", none of which refuses a roll"
    return f"{len(findings)} finding{'s' if len(findings) > 1 else ''}{more}"
