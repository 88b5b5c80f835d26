"""Requests to addresses given by clients reach only the public Internet and what the operator allows."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fitserve import name_resolution, outgoing
from fitserve.datasets.sources.connections import NamedConnection
from fitserve.datasets.sources.fetched import SourceAway, look_up
from fitserve.outgoing import ForbiddenAddress, NoAnswer, Outgoing
from tests.tls.certificate import make_certificate
from tests.waiting import PATIENCE, wait_until

# Each host in a way in which somebody has written an address that a filter let pass.
FORBIDDEN_HOSTS = {
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.8.8",
    "loopback with a dot": "127.0.0.1.",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "hexadecimal parts": "0x7f.0x0.0x0.0x1",
    "octal": "0177.0.0.1",
    "octal parts": "0177.0000.0000.0001",
    "octal of one number": "017700000001",
    "two parts": "127.1",
    "three parts": "127.0.1",
    "too large a part": "127.0.0.256",
    "overflow": "425.510.425.510",
    "zero": "0",
    "unspecified": "0.0.0.0",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 192": "192.168.1.1",
    "link-local, metadata": "169.254.169.254",
    "metadata in decimal": "2852039166",
    "metadata of Azure": "168.63.129.16",
    "metadata of Alibaba": "100.100.100.200",
    "carrier-grade": "100.64.0.1",
    "protocol assignments": "192.0.0.192",
    "documentation": "203.0.113.7",
    "benchmarking": "198.18.0.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "[::1]",
    "IPv6 loopback, long": "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "IPv6 unspecified": "[::]",
    "IPv4-mapped": "[::ffff:127.0.0.1]",
    "IPv4-mapped, hexadecimal": "[::ffff:7f00:1]",
    "IPv4-mapped metadata": "[::ffff:a9fe:a9fe]",
    "IPv4-compatible": "[::127.0.0.1]",
    "IPv4-translated": "[::ffff:0:127.0.0.1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "NAT64 metadata": "[64:ff9b::a9fe:a9fe]",
    "NAT64, local": "[64:ff9b:1::1]",
    "6to4": "[2002:7f00:1::]",
    "Teredo": "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "IPv6 link-local": "[fe80::1]",
    "IPv6 link-local with a zone": "[fe80::1%25eth0]",
    "IPv6 site-local": "[fec0::1]",
    "IPv6 unique local": "[fd00::1]",
    "IPv6 metadata of AWS": "[fd00:ec2::254]",
    "IPv6 multicast": "[ff02::1]",
    "IPv6 documentation": "[2001:db8::1]",
    "IPv6 discard": "[100::1]",
    "enclosed digits": "①②⑦.⓪.⓪.①",
    "full-width dots": "127。0。0。1",
    "percent-encoded": "%6c%6fcalhost",
    "percent-encoded dots": "127%2e0%2e0%2e1",
    "localhost": "localhost",
    "localhost, upper case": "LOCALHOST",
    "localhost with a dot": "localhost.",
    "user name": "example.com@127.0.0.1",
    "user name before a fragment": "127.0.0.1#@example.com",
    "backslash": "example.com\\@127.0.0.1",
    "tab": "127.0.\t0.1",
    "line break": "127.0.0.1\r\nHost: example.com",
    "empty": "",
    "port of another protocol": "8.8.8.8:25",
    "port of http": "8.8.8.8:80",
    "port that is none": "8.8.8.8:99999",
}


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS.values(), ids=FORBIDDEN_HOSTS.keys())
def test_every_form_of_a_forbidden_address_is_refused(host: str) -> None:
    url = f"https://{host}/hook"
    with pytest.raises(ForbiddenAddress) as refused:
        Outgoing().check(url, "/url")
    assert refused.value.pointer == "/url"
    with pytest.raises(ForbiddenAddress), Outgoing().request("POST", url, body=b"{}"):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "ftp://8.8.8.8/",
        "gopher://8.8.8.8/",
        "file:///etc/passwd",
        "//8.8.8.8/",
        "8.8.8.8",
        "http://8.8.8.8/",
        "https:///",
        "https://a" + "b" * 3000,
    ],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        Outgoing().check(url)


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "8.8.8.8:8443",
        "[2606:4700::1111]",
        "[64:ff9b::808:808]",
        "hooks.example.com",
        "xn--bcher-kva.example",
        "a_b.example",
    ],
)
def test_public_addresses_pass(host: str) -> None:
    Outgoing(resolve=lambda *_: ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]).check(f"https://{host}/x")


@pytest.mark.parametrize(
    "private", ["127.0.0.1", "10.1.2.3", "::1", "fe80::1%eth0", "::ffff:192.168.0.1", "2002:a00:1::"]
)
def test_a_name_that_leads_to_one_private_address_is_refused_whatever_else_it_has(private: str) -> None:
    with pytest.raises(ForbiddenAddress):
        Outgoing(resolve=lambda *_: ["93.184.215.14", private]).check("https://hooks.example.com/")


def test_a_name_without_an_address_may_be_registered_but_not_reached() -> None:
    gate = Outgoing(resolve=lambda *_: [])
    gate.check("https://hooks.example.com/")
    with pytest.raises(NoAnswer), gate.request("GET", "https://hooks.example.com/"):
        pass


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver whose servers never answer: each look-up waits until the test ends."""
    ended = threading.Event()

    def wait(host: str, *_: Any, **__: Any) -> Any:
        ended.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, host)

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield
    ended.set()


@pytest.mark.usefixtures("silent_resolver")
def test_a_silent_resolver_costs_no_more_than_the_requests_time() -> None:
    began = time.monotonic()
    with (
        pytest.raises(NoAnswer, match="within"),
        Outgoing().request("GET", "https://silent.example/", seconds=0.2),
    ):
        pass
    assert time.monotonic() - began < PATIENCE / 2  # the resolver's own time is far longer


@pytest.mark.usefixtures("silent_resolver")
def test_checks_of_slow_names_hold_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "CHECK_SECONDS", PATIENCE)
    monkeypatch.setattr(outgoing, "_checks", threading.BoundedSemaphore(2))
    checks = [
        threading.Thread(target=Outgoing().check, args=(f"https://n{number}.example/",), daemon=True)
        for number in range(5)
    ]
    for check in checks:
        check.start()
    wait_until(lambda: sum(check.is_alive() for check in checks) == 2, "three of five do not wait")


@pytest.mark.usefixtures("silent_resolver")
def test_names_that_are_looked_up_in_vain_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_resolution, "_free", threading.BoundedSemaphore(2))
    before = threading.active_count()
    for number in range(5):
        with pytest.raises(TimeoutError):
            name_resolution.addresses(f"n{number}.example", 443, 0.05)
    assert threading.active_count() - before <= 2


@pytest.mark.usefixtures("silent_resolver")
@pytest.mark.parametrize(
    "connection",
    [
        {"url": "postgresql://reader@db.example/sales"},
        {"url": "mysql+pymysql://reader@db.example:3307/sales"},
        {"url": "s3://bucket/folder", "options": {"endpoint_url": "https://store.example"}},
    ],
)
def test_a_connection_waits_no_longer_for_a_silent_resolver(
    connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_resolution, "SECONDS", 0.05)
    with pytest.raises(SourceAway, match="host name was not resolved") as caught:
        look_up(NamedConnection.model_validate(connection))
    assert "example" not in caught.value.detail  # clients see no address


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p%40w@a.example:5432,b.example/x", ["a.example", "b.example"]),
        ("postgresql://u@[fd00::7]:5432/x", ["fd00::7"]),
        ("postgresql://u@%2Fvar%2Frun/x", []),
        ("sqlite:////data/x.db", []),
        ("file:///data", []),
        ("s3://bucket/folder", []),
        ("https://reader.example/tables", ["reader.example"]),
    ],
)
def test_the_hosts_of_a_connection(url: str, hosts: list[str]) -> None:
    assert NamedConnection.model_validate({"url": url}).hosts == hosts


# --- over real sockets ---


class Handler(BaseHTTPRequestHandler):
    """Answers as its server's `reply` says: status, headers, body."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        status, headers, body = self.server.reply(self.path)  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


@contextmanager
def served(reply: Callable[[str], Any], tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[Any]]]:
    """Serve on a loopback port; yield the port and the requests seen."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.reply, server.seen = reply, []  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], server.seen  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LOOPBACK = {"networks": "127.0.0.0/8", "resolve": lambda *_: ["127.0.0.1"]}


def test_the_connection_is_made_to_the_address_that_was_checked() -> None:
    answers = iter(["127.0.0.1", "127.0.0.2"])  # a name that rebinds: nothing listens there, and nothing asks again
    with served(lambda _: (200, {}, b"here")) as (port, seen):
        gate = Outgoing("127.0.0.1/32", lambda *_: [next(answers)])
        with gate.request("POST", f"http://rebinding.example:{port}/a?b=c", body=b"x") as response:
            assert (response.status, response.read(100)) == (200, b"here")
        assert [(path, headers["Host"]) for path, headers in seen] == [("/a?b=c", f"rebinding.example:{port}")]
        with pytest.raises(ForbiddenAddress), gate.request("GET", f"http://rebinding.example:{port}/"):
            pass  # the second answer is an address that is not allowed
        assert len(seen) == 1


def test_a_name_that_rebinds_after_its_check_is_refused_at_the_request() -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    gate = Outgoing(resolve=lambda *_: next(answers))
    gate.check("https://rebinding.example/")
    with pytest.raises(ForbiddenAddress), gate.request("GET", "https://rebinding.example/"):
        pass


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "//2852039166/",
        "http://10.0.0.1:{port}/",
        "file:///etc/passwd",
        "https://[",
        "//a]b/",
    ],
)
def test_a_redirect_is_checked_like_the_first_address(location: str) -> None:
    with served(lambda path: (302, {"Location": location.format(port=port)}, b"")) as (port, seen):
        url = f"http://hooks.example:{port}/"
        with pytest.raises(ForbiddenAddress), Outgoing(**LOOPBACK).request("GET", url, redirects=3):
            pass
        with Outgoing(**LOOPBACK).request("GET", url) as response:  # none is followed unless it is asked for
            assert response.status == 302
        assert len(seen) == 2


def test_redirects_end_and_take_no_credentials_to_another_origin() -> None:
    def reply(path: str) -> Any:
        if path == "/start":
            return 307, {"Location": f"http://other.example:{port}/next"}, b""
        return (302, {"Location": path}, b"") if path == "/loop" else (200, {}, b"done")

    with served(reply) as (port, seen):
        gate = Outgoing(**LOOPBACK)
        headers = {"Authorization": "Bearer x", "If-None-Match": "y", "X-Api-Key": "z", "Private-Token": "z"}
        with gate.request("GET", f"http://hooks.example:{port}/start", headers=headers, redirects=1) as response:
            assert b"".join(response) == b"done"
        assert seen[0][1].items() >= headers.items()
        assert {name: seen[1][1].get(name) for name in headers} == {**dict.fromkeys(headers), "If-None-Match": "y"}
        with gate.request("GET", f"http://hooks.example:{port}/loop", redirects=4) as response:
            assert response.status == 302
        assert len(seen) == 2 + 5


def test_tls_verifies_the_name_although_the_address_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with served(lambda _: (200, {}, b"secret"), tls) as (port, _):
        with (
            pytest.raises(NoAnswer, match="certificate"),
            Outgoing(**LOOPBACK).request("GET", f"https://localhost:{port}/"),
        ):
            pass  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Outgoing(**LOOPBACK).request("GET", f"https://localhost:{port}/") as response:
            assert response.read(10) == b"secret"
        with (
            pytest.raises(NoAnswer, match="certificate"),
            Outgoing(**LOOPBACK).request("GET", f"https://other.example:{port}/"),
        ):
            pass


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_a_receiver_that_sends_a_byte_now_and_then_is_cut_off(begins: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            peer, _ = listener.accept()
            with peer:
                try:
                    peer.sendall(begins)
                    while True:
                        peer.sendall(b"X")
                        if stopped.wait(0.02):
                            return
                except OSError:
                    return

        stopped = threading.Event()
        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            url = f"http://hooks.example:{listener.getsockname()[1]}/"
            with pytest.raises(NoAnswer, match=r"within 0\.3 s"):
                with Outgoing(**LOOPBACK).request("POST", url, body=b"{}", seconds=0.3) as response:
                    b"".join(response)
        finally:
            stopped.set()
            thread.join()


def test_what_is_not_http_and_who_refuses_a_connection_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            pytest.raises(NoAnswer, match="not HTTP"),
            Outgoing(**LOOPBACK).request("GET", f"http://a.example:{port}/"),
        ):
            pass
        thread.join()
    with pytest.raises(NoAnswer, match="refused"), Outgoing(**LOOPBACK).request("GET", f"http://a.example:{port}/"):
        pass
    assert outgoing.parse("https://A.Example/x").host == "a.example"
