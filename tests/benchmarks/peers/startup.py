"""What a peer gets when it starts: port and address on the command line, the rest in the environment."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.site.__main__ import THREADS
from tests.support.stack import MARK

WORKERS = "PEER_WORKERS"
APPLICATION = "tests.benchmarks.peers.application:application"


@dataclass(frozen=True)
class Startup:
    """``directory``: that of the stack. ``threads``: of each worker."""

    address: str
    port: int
    workers: int
    directory: Path
    threads: int = THREADS


def startup() -> Startup:
    """By the command line and the environment of this process."""
    parser = argparse.ArgumentParser(description="Start a peer of the benchmark.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    return Startup(arguments.address, arguments.port, int(os.environ[WORKERS]), Path(os.environ[MARK]))
