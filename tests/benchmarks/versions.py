"""On what the benchmark was measured: the machine, and the version of everything that takes part."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from tests.benchmarks.peers.registry import PEERS

PROGRAMS = {"nginx": "-v", "haproxy": "-v"}
VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)+")

DISTRIBUTIONS = ("supervisor", "supervisor-serialrestart", *(peer.distribution for peer in PEERS.values()), "Django")


def machine() -> dict[str, str]:
    """By name, in the order of a sentence."""
    return {
        "processors": f"{os.cpu_count()} ({_processor()})",
        "Linux": VERSION.findall(platform.release())[0],
        "Python": platform.python_version(),
        **{name: _said(name, option) for name, option in PROGRAMS.items()},
        **{name: version for name in DISTRIBUTIONS if (version := _version(name))},
    }


def _version(distribution: str) -> str:
    """Empty where it is not installed: it takes no part then."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _said(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, timeout=10, check=False)
    return VERSION.findall(done.stdout + done.stderr)[0]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
