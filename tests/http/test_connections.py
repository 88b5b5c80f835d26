"""Slow, silent and oversized clients lose their connection; a key is checked before a body is read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request

from fitserve.settings import Settings
from services.http import Caller, Router, make_app, require
from services.http.app import Server, make_server
from tests.http.test_app import identify
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_until

KEY = b"Authorization: Bearer id.good\r\n"


class Running:
    """A server in a thread."""

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        made = Settings(port=self.port, **{"head_seconds": 0.5, "body_bytes_per_second": 10_000, **settings})
        app: FastAPI = make_app(made, title="tiny", identify=identify, readiness={})
        router = Router()
        self.bodies = 0

        @router.post("/things")
        def create_thing(body: dict[str, Any], caller: Annotated[Caller, Depends(require("read"))]) -> int:
            self.bodies += 1
            return len(body)

        @router.post("/train")
        def train(body: dict[str, Any], caller: Annotated[Caller, Depends(require("train"))]) -> int:
            self.bodies += 1
            return len(body)

        @router.get("/slow")
        async def slow(request: Request) -> str:
            await asyncio.sleep(1.5)
            return "done"

        app.include_router(router)
        self.server: Server = make_server(app, made, port=self.port)
        self.server.config.timeout_keep_alive = 2  # 30 in service
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """Where a test is not about slow clients: on a busy machine it may be one itself."""
    made = Running(head_seconds=PATIENCE, body_bytes_per_second=1)
    yield made
    made.stop()


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def head(path: str, length: int, more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%s\r\n" % (path.encode(), length, more)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost",
        b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\nGET /li",
        b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
        head("/things", 1000, KEY),
        head("/things", 1000, KEY) + b"{",
        b"POST /things HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + KEY + b"\r\n5\r\nab",
    ],
    ids=["silent", "half a head", "blank", "half a second head", "blank after one", "no body", "half a body", "chunk"],
)
def test_a_silent_or_half_sent_connection_is_closed(running: Running, sent: bytes) -> None:
    with running.connect() as connection:
        connection.sendall(sent)
        read_all(connection)  # returns when the server closes


@pytest.mark.parametrize("more", [b"", b"{", b"Expect: 100-continue\r\n"], ids=["none", "half", "invited"])
def test_a_client_is_told_that_its_body_is_too_slow(running: Running, more: bytes) -> None:
    invited = b"Expect" in more
    with running.connect() as connection:
        connection.sendall(head("/things", 1000, KEY + more) if invited else head("/things", 1000, KEY) + more)
        answer = read_all(connection)
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 408 "), answer
    assert answer.count(b"HTTP/1.1") == 1 + invited


def test_a_client_that_closes_sees_why_its_body_is_refused_before_it_has_sent_it(patient: Running) -> None:
    """As Python's urllib, which asks for the connection's end with each request, and reads once all is sent."""
    for more, size, status in ((b"", 9_000_000, b"401"), (KEY, 50_000_000, b"413")):
        with patient.connect() as connection:
            connection.sendall(head("/things", size, more + b"Connection: close\r\n"))
            wait_until(lambda: connection.recv(1, socket.MSG_PEEK), "the answer")
            for _ in range(size // 1_000_000):
                connection.sendall(b" " * 1_000_000)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert answer.count(b"HTTP/1.1") == 1


def test_a_refused_body_that_never_ends_is_cut_off(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head("/things", 1000, b"Connection: close\r\n") + b"{")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert answer.count(b"HTTP/1.1") == 1


def check_refused_once(running: Running, begins: bytes, rest: bytes) -> None:
    """Send the rest of a request once its beginning is refused, and expect no further answer."""
    with running.connect() as connection:
        connection.sendall(begins)
        wait_until(lambda: connection.recv(1, socket.MSG_PEEK), "the answer")
        connection.sendall(rest)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert answer.count(b"HTTP/1.1") == 1


def test_a_connection_whose_body_was_refused_is_idle_once_the_body_is_there(running: Running) -> None:
    """It was closed with a second answer, 408, after the time of a head."""
    check_refused_once(running, head("/things", 1000), b" " * 1000)


def test_a_refused_body_that_is_malformed_too_has_one_answer(patient: Running) -> None:
    check_refused_once(
        patient, b"POST /things HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"no chunk\r\n"
    )


def test_a_head_that_is_refused_does_not_answer_the_request_before_it(patient: Running) -> None:
    with patient.connect() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /livez HTTP/1.1\r\nX: ")
        connection.sendall(b"a" * 70_000 + b"\r\n\r\n")
        assert b"431" not in read_all(connection)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_request_that_asks_for_http_2_keeps_its_body(patient: Running, chunked: bool, at_once: bool) -> None:
    """As each request of Java's HttpClient does. It was answered as if its body were empty."""
    asks = KEY + b"Content-Type: application/json\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    begins, body = head("/things", 8, asks), b'{"a": 1}'
    if chunked:
        begins = begins.replace(b"Content-Length: 8", b"Transfer-Encoding: chunked")
        body = b"8\r\n" + body + b"\r\n0\r\n\r\n"
    with patient.connect() as connection:
        for _ in range(2):
            connection.sendall(begins + body if at_once else begins)
            if not at_once:
                time.sleep(0.05)
                connection.sendall(body)
            answer = part = connection.recv(65536)
            while part and not answer.endswith(b"\r\n\r\n1"):
                part = connection.recv(65536)
                answer += part
            assert answer.startswith(b"HTTP/1.1 200"), answer
        connection.sendall(begins + body + begins.replace(b"Upgrade, ", b"close, Upgrade, ") + body)
        assert read_all(connection).count(b"HTTP/1.1 200") == 2


def test_a_trickled_body_is_cut_off(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head("/things", 1_000_000, KEY))
        with pytest.raises(OSError):
            for _ in range(3_000):
                connection.sendall(b" ")
                time.sleep(0.01)


def test_a_slow_answer_is_not_cut_off(running: Running) -> None:
    def ask() -> bytes:
        with running.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            return read_all(connection)
        return b""

    # Closed without an answer only where this test was too slow to send its head.
    assert wait_until(ask).endswith(b'"done"')


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % number for number in range(200)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 2_000_000,
    ],
    ids=["one header", "address", "many headers", "no end"],
)
def test_a_head_beyond_the_limits_is_431(patient: Running, sent: bytes) -> None:
    with patient.connect() as connection:
        try:
            connection.sendall(sent)
        except OSError:
            return  # closed while it was sent
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: +2\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding\xa0: chunked\r\n",
        b"Content-Length: 2\r\nX: a\r\n b\r\n",
        b"Content-Length: 2\r\nHOST: y\r\n",
    ],
)
def test_what_a_proxy_could_read_otherwise_is_refused(patient: Running, head: bytes) -> None:
    before = patient.bodies
    with patient.connect() as connection:
        connection.sendall(b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + KEY + head)
        connection.sendall(b"\r\n{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert patient.bodies == before


def test_trailers_without_end_are_cut_off(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(b"POST /things HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + KEY)
        connection.sendall(b"\r\n2\r\n{}\r\n0\r\nX: ")
        try:
            connection.sendall(b"a" * 2_000_000)
        except OSError:
            return
        read_all(connection)


@pytest.mark.parametrize(("path", "key", "status"), [("/things", b"", b"401"), ("/train", KEY, b"403")])
def test_a_refused_key_is_answered_before_its_body(patient: Running, path: str, key: bytes, status: bytes) -> None:
    before = patient.bodies
    with patient.connect() as connection:
        connection.sendall(head(path, 10_000_000, key))
        assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)
    assert patient.bodies == before


def test_connections_of_one_address_are_limited() -> None:
    limited, trusting = (
        Running(connections_per_address=5, head_seconds=30),
        Running(connections_per_address=5, head_seconds=30, trusted_proxies="10.0.0.0/8, 127.0.0.1"),
    )
    for running, admitted in ((limited, 5), (trusting, 8)):
        connections = [running.connect() for _ in range(8)]
        answers = 0
        for connection in connections:
            try:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
                answers += connection.recv(100).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                pass
        assert answers == admitted
        for connection in connections:
            connection.close()
        running.stop()
