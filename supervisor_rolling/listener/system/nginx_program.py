"""Where nginx is on this host."""

from __future__ import annotations

import os
import shutil

SBIN = "/usr/sbin:/sbin:/usr/local/sbin:/usr/local/nginx/sbin:/usr/local/openresty/nginx/sbin"
"""Where nginx is, if the PATH of the listener does not say."""


def nginx_program() -> str | None:
    """The path of nginx on this host."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{SBIN}")
