"""A listener whose firewall rules the kernel refuses while the file that REFUSE_FILE names exists.

Run as ``plugin.sections`` runs a listener.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import iptc

from supervisor_rolling.listener import main as listener
from supervisor_rolling.listener.gates.iptables_chain import OwnChain, translated
from supervisor_rolling.listener.gates.nftables import Found, OwnTable

REFUSE_FILE = "LAB_REFUSE_FILE"

_put, _put_elements = OwnChain.put, OwnTable.put


def put(self: OwnChain, closed: Mapping[int, str], until: int) -> None:
    """``OwnChain.put``, or what it raises where the kernel refuses the rule."""
    if os.path.exists(os.environ[REFUSE_FILE]):
        with translated("table filter, IPv4"):
            raise iptc.IPTCError("can't commit: b'No chain/target/match by that name'")
    _put(self, closed, until)


def put_elements(self: OwnTable, closed: Mapping[int, str], found: Found, with_rules: bool) -> None:
    """``OwnTable.put``, with a part in the rule that the kernel lacks where it is to refuse it."""
    good = self._rules
    if os.path.exists(os.environ[REFUSE_FILE]):
        self._rules, with_rules = ["jump nowhere"], True
    try:
        _put_elements(self, closed, found, with_rules)
    finally:
        self._rules = good


if __name__ == "__main__":
    OwnTable.put = put_elements  # type: ignore[method-assign]  # the purpose of this module
    OwnChain.put = put  # type: ignore[method-assign]  # the purpose of this module
    sys.exit(listener.main())
