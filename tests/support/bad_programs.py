"""Programs of a group that is set up wrongly: ``python -m tests.support.bad_programs unix /tmp/app.sock``.

``unix PATH`` listens on a unix socket and on no port; ``shared PORT`` on a port that others may share; ``deaf`` on
nothing; ``dead`` ends at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time


def main(kind: str, where: str = "") -> None:
    if kind == "unix":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)
        _serve(socket.AF_UNIX, where)
    elif kind == "shared":
        _serve(socket.AF_INET, ("127.0.0.1", int(where)))
    elif kind == "deaf":
        time.sleep(600)
    elif kind == "dead":
        sys.exit("this deploy does not start")


def _serve(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if family == socket.AF_INET:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen()
        while True:
            listener.accept()[0].close()


if __name__ == "__main__":
    main(*sys.argv[1:])
