"""Which protocol a process speaks instead of HTTP/1.1: recognised by the first bytes that it sends."""

from __future__ import annotations

from supervisor_rolling.core.text import printable

HTTP = b"HTTP/"
TLS, HTTP_2 = "TLS", "HTTP/2"

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2 sends first, with an empty SETTINGS frame: a server answers it with its own."""

_BEGINNINGS = (
    (b"\x15\x03", TLS),  # an alert
    (b"\x16\x03", TLS),  # a handshake
    (b"SSH-", "SSH"),
    (b"-ERR", "Redis"),
    (b"-NOAUTH", "Redis"),
    (b"AMQP", "AMQP"),
    (b"RFB ", "VNC"),
    (b"ERROR\r\n", "Memcached"),
    (b"220 ", "SMTP or FTP"),
    (b"220-", "SMTP or FTP"),
    (b"* OK", "IMAP"),
    (b"+OK", "POP3"),
)
_SETTINGS, _GOAWAY = 4, 7  # frames that a server of HTTP/2 sends first

_BY_HOOK = "remove warmup.ready and warmup.requests, and warm it up with hooks.after_warmup"

TLS_WORDS = (b"HTTPS", b"https", b"SSL-enabled", b"requires TLS", b"TLS client")
"""Of the answer 400 by which servers of TLS that know HTTP refuse it: nginx, Go, Apache, Tomcat."""


def may_be_http(first: bytes) -> bool:
    """Whether these bytes can be the beginning of an answer of HTTP/1."""
    return first.startswith(HTTP) or HTTP.startswith(first)


def spoken(first: bytes) -> str:
    """The name of the protocol in which a server begins so; empty where it is not known."""
    known = next((name for beginning, name in _BEGINNINGS if first.startswith(beginning)), "")
    if known or len(first) < 9:
        return known
    if first[3] in (_SETTINGS, _GOAWAY) and not any(first[5:9]) and first[0] == 0:
        return HTTP_2
    return "MySQL" if first[3:5] == b"\x00\x0a" else ""


def not_http_text(where: str, first: bytes) -> str:
    """What is wrong with a process that does not begin with HTTP/1, and the fix. ``where``: such as ``port 8001``."""
    name = spoken(first)
    if name == TLS:
        return f"{where} speaks TLS, but a warm-up sends plain HTTP. Fix: serve plain HTTP there, or {_BY_HOOK}"
    if name == HTTP_2:
        return f"{where} speaks HTTP/2 only. Fix: serve HTTP/1.1 as well, or {_BY_HOOK}"
    what = f"speaks {name}, not HTTP" if name else f"does not speak HTTP: it sends '{printable(_text(first), 60)}'"
    return f"{where} {what}. Fix: correct `ports` in rolling.yaml, or {_BY_HOOK}"


def _text(first: bytes) -> str:
    return first.decode("latin-1")
