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
    where = "" if finding["where"] == finding["code"] else f"{finding['where']}: "
    return f"{grade}: {finding['code']}: {where}{finding['text']}{mend}"


def _count(findings: list[Mapping[str, Any]]) -> str:
    if not findings:
        return "no finding"
    refusing = sum(finding["refuses"] for finding in findings)
    if len(findings) == 1:
        return f"1 finding, which {'refuses a roll' if refusing else 'refuses no roll'}"
    verb = "refuses" if refusing < 2 else "refuse"
    return f"{len(findings)} findings, {refusing or 'none'} of which {verb} a roll"
