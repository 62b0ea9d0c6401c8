"""supervisord with the plugin of an earlier version: ``Setup(supervisord="tests.support.older_plugin")``."""

from __future__ import annotations

import supervisor_rolling

VERSION = "0.0.9"


def main() -> None:
    """supervisord."""
    supervisor_rolling.__version__ = VERSION
    from supervisor import supervisord

    supervisord.main()
