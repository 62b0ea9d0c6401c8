"""How an endpoint is written, and what is asked of it."""

from __future__ import annotations

import pytest

from supervisor_rolling.core.endpoint import Endpoint, endpoints_text, tcp, tcp_ports

SOCKET = Endpoint("unix", "/run/app.sock")


def test_endpoint_is_written_as_kind_and_address() -> None:
    assert [str(one) for one in (tcp(8001), SOCKET)] == ["tcp:8001", "unix:/run/app.sock"]


def test_only_tcp_endpoints_have_ports() -> None:
    assert tcp_ports([tcp(8001), SOCKET, tcp(9001)]) == (8001, 9001)
    with pytest.raises(ValueError, match="sock"):
        _ = SOCKET.port


def test_message_names_each_port() -> None:
    assert endpoints_text([tcp(8001), tcp(9001)]) == "port 8001, port 9001"
