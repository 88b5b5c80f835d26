"""`fitserve mcp --http` is behind the door that the services have: heads, slow clients, connections of one address."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from fitserve.settings import Settings
from tests.http.test_connections import read_all
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="needs the extra mcp")
ASKED = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def serving(**settings: Any) -> Iterator[int]:
    """Serve the tools in a thread, and yield the port."""
    from services.mcp import make_server

    port = free_port()
    server = make_server(None, "127.0.0.1", port, Settings(**{"head_seconds": PATIENCE, **settings}))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server of tools listens")
        yield port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


@pytest.mark.parametrize("sent", [b"", b"POST /mcp HTTP/1.1\r\nHo", ASKED[:-1]], ids=["silent", "half a head", "half"])
def test_a_silent_or_half_sent_connection_is_closed(sent: bytes) -> None:
    with serving(head_seconds=0.5, body_bytes_per_second=10_000) as port, connect(port) as connection:
        connection.sendall(sent)
        read_all(connection)  # returns when the server closes


def test_a_head_beyond_the_limits_is_431() -> None:
    with serving() as port, connect(port) as connection:
        connection.sendall(b"GET /mcp HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % number for number in range(200)))
        assert read_all(connection).startswith(b"HTTP/1.1 431")


def test_connections_of_one_address_are_limited() -> None:
    answers = []
    with serving(connections_per_address=3) as port, ExitStack() as stack:
        for connection in [stack.enter_context(connect(port)) for _ in range(5)]:
            try:
                connection.sendall(ASKED)
                answers.append(connection.recv(100)[:9])
            except ConnectionError:
                answers.append(b"")
    assert sum(answer == b"HTTP/1.1 " for answer in answers) == 3
