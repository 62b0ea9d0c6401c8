"""What the answer to a warm-up request means: expected, a redirect to follow, or wrong; and the fix for a wrong one.

``WarmupRequest.headers`` are here all headers that are sent: those of ``warmup.headers``, too."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from supervisor_rolling.core.policy import WarmupRequest
from supervisor_rolling.core.protocol_detection import TLS_WORDS
from supervisor_rolling.core.text import printable

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
"""Redirects that are followed for one request. More are taken for a loop."""

REFUSALS = frozenset({400, 401, 403, 404})

_UNQUOTED = re.compile(r"[A-Za-z0-9/][\w./~=&%+-]*", re.ASCII)
"""What is text in YAML without quotes, between braces."""


class Reply(NamedTuple):
    """An answer."""

    status: int
    location: str = ""  # where a redirect leads
    beginning: bytes = b""  # of the body

    @property
    def is_redirect(self) -> bool:
        return self.status in REDIRECTS


def is_expected(request: WarmupRequest, status: int) -> bool:
    """Whether this answer shows that the process is warm for the request: without ``expect``, any 2xx."""
    return status in request.expect if request.expect else 200 <= status < 300


def is_lasting(reply: Reply) -> bool:
    """Whether the answer will not change by itself: the request is wrong, rather than the process not ready yet."""
    return reply.status in REFUSALS or reply.is_redirect


def code_of(reply: Reply) -> str:
    """The entry in supervisor_rolling/help of an answer that was not expected."""
    if reply.is_redirect:
        return "warmup.redirect"
    codes = {400: "warmup.host", 401: "warmup.credentials", 403: "warmup.credentials", 404: "warmup.path"}
    return codes.get(reply.status, "warmup.answer")


def redirected(request: WarmupRequest, reply: Reply, own: str) -> WarmupRequest | None:
    """The request that a redirect asks for. None where the answer is none, where the redirect itself is expected, and
    where it leads away from the process. ``own``: its ``address:port``."""
    if request.expect or not reply.is_redirect or not reply.location:
        return None
    host = _host(request) or own
    try:
        target, port = _target(request, reply, host), _place(urlsplit(f"//{own}"))[1]
        here = {_place(urlsplit(f"//{host}")), _place(urlsplit(f"//{own}"))}
        is_here = target.scheme == "http" and _place(target) in {*here, *((name, port) for name, _ in here)}
    except ValueError:  # no URL
        return None
    if not is_here:
        return None
    path = f"{target.path or '/'}{f'?{target.query}' if target.query else ''}"
    keeps_method = request.method in ("GET", "HEAD") or reply.status in (307, 308)
    return replace(request, path=path) if keeps_method else replace(request, path=path, method="GET", body="")


def unexpected_text(request: WarmupRequest, reply: Reply, group: str) -> str:
    """What is wrong with the answer to a request of the list, and the fix."""
    what = f"{request.method} {request.path}"
    if request.expect:
        return f"{what} answered {reply.status}, expected {' or '.join(map(str, request.expect))}"
    method = "" if request.method == "GET" else f"method: {request.method}, "
    accepted = f"{{{method}path: {_scalar(request.path)}, expect: [{reply.status}]}}"
    fix = _fix(request, reply, group, f"accept it: `{accepted}` in warmup.requests")
    answered = f"answers {_leads(reply)}" if reply.is_redirect else f"answered {reply.status}, expected 2xx"
    return f"{what} {answered}{fix}"


def unready_text(request: WarmupRequest, reply: Reply, group: str) -> str:
    """What a process that is not ready yet answers, and the fix where that will not change by itself."""
    fix = _fix(request, reply, group, "set another path in warmup.ready")
    return f"GET {request.path} (ready) answers {_leads(reply) if reply.is_redirect else reply.status}{fix}"


def statuses_text(statuses: Sequence[int]) -> str:
    """``200 x 8, 404 x 3``; empty where all were 200."""
    counts = Counter(statuses)
    return "" if set(counts) <= {200} else ", ".join(f"{status} x {counts[status]}" for status in sorted(counts))


def _leads(reply: Reply) -> str:
    return f"{reply.status} to {printable(reply.location, 200) or 'nowhere'}"


def _fix(request: WarmupRequest, reply: Reply, group: str, otherwise: str) -> str:
    advice = _advice(request, reply, group)
    return f". Fix: {advice}, or {otherwise}" if advice else ""


def _advice(request: WarmupRequest, reply: Reply, group: str) -> str:
    if reply.is_redirect:
        return _redirect_advice(request, reply, group)
    if reply.status == 400:
        if any(word in reply.beginning for word in TLS_WORDS):
            return "serve plain HTTP on this port: the process wants TLS"
        if _host(request):
            return f"set warmup.headers in groups.{group} of rolling.yaml to what the load balancer sends"
        return f"{_header_advice('Host', 'NAME', group)}, where NAME is a host name that it serves"
    if reply.status in (401, 403):
        return f"{_header_advice('Authorization', 'VALUE', group)}, where VALUE is what it accepts"
    return "correct the path" if reply.status == 404 else ""


def _redirect_advice(request: WarmupRequest, reply: Reply, group: str) -> str:
    try:
        target = _target(request, reply, _host(request) or "localhost")
        name = target.hostname or ""
    except ValueError:
        return "correct the redirect"
    if target.scheme == "https":
        return _header_advice("X-Forwarded-Proto", "https", group)
    if name and name != "localhost" and not reply.location.startswith("/"):
        return _header_advice("Host", _scalar(printable(name, 100)), group)
    return "use the path to which it leads"


def _header_advice(name: str, value: str, group: str) -> str:
    return f"set `warmup: {{headers: {{{name}: {value}}}}}` in groups.{group} of rolling.yaml"


def _scalar(text: str) -> str:
    """A text as YAML has it between braces."""
    return text if _UNQUOTED.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _host(request: WarmupRequest) -> str:
    """The Host header that the operator has set; empty where it is the address."""
    return {name.lower(): value for name, value in request.headers.items()}.get("host", "")


def _target(request: WarmupRequest, reply: Reply, host: str) -> SplitResult:
    return urlsplit(urljoin(f"http://{host}{request.path}", reply.location))


def _place(url: SplitResult) -> tuple[str, int]:
    return (url.hostname or "").lower(), url.port or 80
