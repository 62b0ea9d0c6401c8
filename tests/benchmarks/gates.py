"""What a change of the gate costs, on both backends, alone and beside ten thousand foreign rules.

    python -m tests.benchmarks.gates [--times 20] [--foreign 10000]

As root, in a network namespace of its own. The foreign rules are in the gate's own machinery or in the other's: in the
chain INPUT of iptables (both families), or in a table of nftables. Milliseconds, medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping

from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.contracts import Gate
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.gates.iptables import IptablesGate
from tests.support.netns import enter_private_network

BACKENDS = ("iptables", "nftables")
ONE = {tcp(8000): "app:app-8000 is draining (rollout 1)"}
TWO = {**ONE, tcp(8001): "app:app-8001 is draining (rollout 1)"}
FORTY = {tcp(port): f"app:app-{port} is draining (rollout 1)" for port in range(8000, 8040)}


def main() -> None:
    """Print the table."""
    options = _options()
    enter_private_network()
    print(f"{'gate':9} {'foreign rules':20} {'unchanged':>10} {'renewed':>10} {'one more':>10} {'40 at once':>11}")
    for neighbour in ("", *BACKENDS):
        _fill(neighbour, options.foreign)
        for backend in BACKENDS:
            foreign = f"{options.foreign} of {neighbour}" if neighbour else "0"
            found = [statistics.median(times) * 1000 for times in measured(backend, options.times)]
            print(f"{backend:9} {foreign:20} " + "{:10.2f} {:10.2f} {:10.2f} {:11.2f}".format(*found), flush=True)
        _empty()


def measured(backend: str, times: int) -> list[list[float]]:
    """Seconds of: a hold that finds all as it was; one that renews; one port more; forty from nothing."""
    wall = Wall()
    gate = _gate(backend, wall)
    gate.hold(ONE)
    found = [
        _timed(lambda: gate.hold(ONE), ONE, times, lambda: None),
        _timed(lambda: gate.hold(ONE), ONE, times, lambda: _use_up(backend, gate, wall)),
        _timed(lambda: gate.hold(TWO), TWO, times, lambda: gate.hold(ONE)),
        _timed(lambda: gate.hold(FORTY), FORTY, times, lambda: gate.hold({})),
    ]
    gate.hold({})
    return found


class Wall:
    """The kernel's time of day, as a gate believes it; a minute on, every lease looks used up."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def _gate(backend: str, wall: Wall) -> Gate:
    policy = GatePolicy(backend, lease=3600)
    if backend == "iptables":
        return IptablesGate(policy, "bench", time.monotonic, wall)
    return make_gate(policy, "bench", time.monotonic)


def _use_up(backend: str, gate: Gate, wall: Wall) -> None:
    """Let two thirds of the lease be over."""
    gate.hold(ONE)
    if backend == "iptables":
        wall.ahead += 1300.0
    else:
        table = gate._table  # type: ignore[attr-defined]  # it is an NftablesGate
        where = f"element inet {table} closed {{ 8000 "
        _run("nft", f"delete {where}}}; add {where} timeout 3600s expires 2000s }}")


def _timed(
    act: Callable[[], Mapping[Endpoint, float]],
    closed: Mapping[Endpoint, str],
    times: int,
    before: Callable[[], object],
) -> list[float]:
    """``before`` is called before each time, and not counted."""
    found = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        held = act()
        found.append(time.perf_counter() - began)
        assert held.keys() == closed.keys()
    return found


def _fill(backend: str, count: int) -> None:
    addresses = [f"10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(count)]
    if backend == "nftables":
        rules = "".join(f"add rule inet foreign input ip saddr {address} drop\n" for address in addresses)
        chain = "add chain inet foreign input { type filter hook input priority 0; }\n"
        _run("nft", "-f", "-", text=f"add table inet foreign\n{chain}{rules}")
    if backend == "iptables":
        rules = "".join(f"-A INPUT -p tcp --dport {1 + number % 65535} -j ACCEPT\n" for number in range(count))
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            _run(command, text=f"*filter\n{rules}COMMIT\n")


def _empty() -> None:
    _run("nft", "flush", "ruleset")
    for command in ("iptables-legacy", "ip6tables-legacy"):
        _run(command, "-w", "-F")
        _run(command, "-w", "-X")


def _run(*command: str, text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="how often each is done (default: %(default)s)")
    parser.add_argument("--foreign", type=int, default=10000, help="how many foreign rules (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
