"""Sockets of gRPC's connections are read by descriptor, which gRPC may close and others reuse at any time."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.predict.server.grpc_connections import Connections

DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="sockets are read in Linux's /proc")


def test_a_descriptor_that_is_something_else_by_now_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        port, peer = server.getsockname()[1], client.getsockname()
        settings: Any = SimpleNamespace(grpc_port=port, trusted_proxies="", connections_per_address=1)
        one, other = socket.socketpair()
        with accepted, one, other, Path(os.devnull).open() as file:
            client.sendall(b"12345")
            connections = Connections(settings)
            connections.look()
            assert connections.received(peer) == 5
            opened = len([*DESCRIPTORS.iterdir()])
            for replacement in (one.fileno(), file.fileno()):
                os.dup2(replacement, accepted.fileno())
                assert connections.received(peer) is None
                connections._close(peer)
                connections._descriptors[peer] = accepted.fileno()
            assert len([*DESCRIPTORS.iterdir()]) == opened
            other.sendall(b"still there")
            assert one.recv(20) == b"still there", "only gRPC's connections are closed"
            connections.look()
            assert connections.received(peer) is None
