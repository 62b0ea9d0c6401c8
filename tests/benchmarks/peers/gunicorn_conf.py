"""gunicorn's configuration, and when a worker stops accepting requests: at SIGTERM, without a message.

The application is not preloaded, or HUP would not bring its new code. ``timeout``: that many workers boot beside each
other after HUP that with the default of 30 s they would be killed for being slow.
"""

from __future__ import annotations

import signal
from types import FrameType

from tests.support.site.life import LEAVING, tell

worker_class = "gthread"
preload_app = False
timeout = 300
graceful_timeout = 30


def post_worker_init(_worker: object) -> None:
    """Tell of SIGTERM, and let gunicorn's own handler do what it does."""
    own = signal.getsignal(signal.SIGTERM)

    def leave(number: int, frame: FrameType | None) -> None:
        tell(LEAVING)
        if callable(own):
            own(number, frame)

    signal.signal(signal.SIGTERM, leave)
