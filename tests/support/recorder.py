"""An event listener that writes down its events: ``python -m tests.support.recorder FILE``."""

from __future__ import annotations

import sys


def main(path: str) -> None:
    """Until the end of standard input."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    with open(path, "ab", buffering=0) as record:
        while True:
            stdout.write(b"READY\n")
            stdout.flush()
            header = stdin.readline()
            if not header:
                return
            fields = dict(token.split(b":", 1) for token in header.split())
            record.write(header + stdin.read(int(fields[b"len"])) + b"\n")
            stdout.write(b"RESULT 2\nOK")


if __name__ == "__main__":
    main(sys.argv[1])
