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
from supervisor_rolling.listener.gates.nftables import NftablesGate, TableListing

REFUSE_FILE = "LAB_REFUSE_FILE"

_put, _closing = OwnChain.put, NftablesGate._closing


def put(self: OwnChain, closed: Mapping[int, str], until: int) -> None:
    """``OwnChain.put``, or what it raises where the kernel refuses the rule."""
    if os.path.exists(os.environ[REFUSE_FILE]):
        with translated("table filter, IPv4"):
            raise iptc.IPTCError("can't commit: b'No chain/target/match by that name'")
    _put(self, closed, until)


def closing(self: NftablesGate, found: TableListing, closed: Mapping[int, str]) -> list[str]:
    """``NftablesGate._closing``, with a rule that the kernel refuses where it is to do so."""
    is_refused = os.path.exists(os.environ[REFUSE_FILE])
    table = f"inet {self._table}"
    return [*_closing(self, found, closed), *([f"add rule {table} input jump nowhere"] if is_refused else [])]


if __name__ == "__main__":
    NftablesGate._closing = closing  # type: ignore[method-assign]  # the purpose of this module
    OwnChain.put = put  # type: ignore[method-assign]  # the purpose of this module
    sys.exit(listener.main())
