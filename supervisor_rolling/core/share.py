"""How many processes may be unavailable at a time: a number of processes, or a percentage of the group.

supervisorctl imports this for ``--max-unavailable``: nothing here but the standard library and core.
"""

from __future__ import annotations

import re
from fractions import Fraction

from supervisor_rolling.core.policy import MAX_PROCESSES, Share

_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)%|([0-9]{1,9})")


def parse_share(value: object) -> Share:
    """``2`` or ``"2"`` as a number of processes, ``"10%"`` as a percentage.

    Raises ValueError, with a sentence for the operator, for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(value)
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        shown = f"{value!r}"[:40]
        raise ValueError(f"{shown} is neither a number of processes nor a percentage. Fix: write for example 2 or 10%")
    percent, number = match.groups()
    return _percentage(float(percent)) if percent else _number(int(number))


def limit_for(share: Share, total: int) -> int:
    """How many of ``total`` processes the share allows: a percentage is rounded down, and is never less than 1."""
    if share.number:
        return share.number
    # Exact: in floats 0.57 % of 10000 is 56.99… processes.
    return max(1, Fraction(str(share.percent)) * total // 100)


def _number(number: int) -> Share:
    if not 1 <= number <= MAX_PROCESSES:
        raise ValueError(f"a number of processes is from 1 to {MAX_PROCESSES}. Fix: write for example 2 or 10%")
    return Share(number=number)


def _percentage(percent: float) -> Share:
    if not 0 < percent <= 100:
        raise ValueError("a percentage is more than 0% and at most 100%. Fix: write for example 2 or 10%")
    return Share(percent=percent)
