"""Connection limits enforced by the server itself: header sizes, connections per address, slow clients.

A proxy in front may have such limits too, but a directly reachable server must not depend on one. The cost per request
is a few assignments; one sweep per second checks all connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fitserve.settings import Settings

MAX_HEAD_BYTES = 64 * 1024  # bytes of the request line and all headers
MAX_HEADERS = 100
FRAMING = (b"content-length", b"transfer-encoding")
LINGER_SECONDS = 60.0  # longest time in which the rest of a body is awaited once it has been answered
STALLED_SECONDS = 60.0  # longest time in which a client reads no byte of its response


@dataclass
class ConnectionLimits:
    """The limits of one process, and how many connections each address has."""

    head_seconds: float = 10.0
    body_bytes_per_second: int = 1_000
    per_address: int = 1_000
    trusted: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        return cls(
            settings.head_seconds,
            settings.body_bytes_per_second,
            settings.connections_per_address,
            settings.trusted_proxies,
        )

    def admit(self, address: str) -> bool:
        """Count a connection; return whether its address may open it."""
        self.counts[address] += 1
        return self.counts[address] <= self.per_address or is_within(address, self.trusted)

    def release(self, address: str) -> None:
        self.counts[address] -= 1
        if self.counts[address] <= 0:
            del self.counts[address]


@lru_cache(10_000)
def is_within(address: str, networks: str) -> bool:
    """Return whether an address is in a list of addresses and networks, with commas between; `*` is any."""
    for network in filter(None, map(str.strip, networks.split(","))):
        if network == "*":
            return True
        try:
            if ip_address(address) in ip_network(network, strict=False):
                return True
        except ValueError:
            continue
    return False


class HeadTooLarge(Exception):
    """A head, or the trailers of a body, exceed the limits."""


class TwoHosts(Exception):
    """A head names the server twice."""


class LingeringTransport:
    """A connection's transport whose `close` waits for the rest of the request's body, which is thrown away.

    A client that still sends, as Python's urllib does, would find its connection reset, and not see the answer that
    refuses the body (RFC 9112, section 9.6).
    """

    def __init__(self, connection: LimitedProtocol) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)

    def close(self) -> None:
        self._connection.close_after_body()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, a connection, within `limits`; `limited` makes a subclass that has them."""

    limits = ConnectionLimits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.head_began = 0.0  # event loop time; 0 while no request head is awaited
        self.in_body = self.has_host = False
        self.is_repeated = False  # a new parser reads a head that is known
        self.undigested = 0  # bytes read since the parser last had something for us
        self.header_bytes = 0
        self.body_bytes = 0
        self.body_seconds = 0.0  # seconds in which the client has sent the body so far
        self.linger_until = 0.0  # event loop time; 0 unless only the rest of a body is awaited
        self.unsent = 0
        self.unsent_since = 0.0
        self.address: str | None = None  # address under which this connection is counted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_began = self.loop.time()
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.client is not None:
            self.address = self.client[0]
            if not self.limits.admit(self.address):
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.address is not None:
            self.limits.release(self.address)
            self.address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.undigested += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
        if self.undigested > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.refuse(431)

    def _parse(self, data: bytes) -> None:
        """Parse what has arrived, and decline other protocols that requests ask for, as Java's client does each time.

        After such a head, llhttp reads nothing more. A new parser gets a head of the same body that does not ask.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            framing = [b"%s: %s\r\n" % one for one in self.headers if one[0] in FRAMING]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.is_repeated = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")

    def on_message_begin(self) -> None:
        if self.is_repeated:
            return
        self.header_bytes = 0
        self.in_body = self.has_host = False
        self.head_began = self.head_began or self.loop.time()
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.is_repeated:
            return
        self.header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_repeated:
            return
        super().on_header(name, value)
        self.header_bytes += len(name) + len(value) + 4
        if self.header_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            raise HeadTooLarge
        if len(name) == 4 and name.lower() == b"host":
            if self.has_host:  # a proxy could choose one Host and we the other
                raise TwoHosts
            self.has_host = True

    def on_headers_complete(self) -> None:
        if self.is_repeated:
            self.is_repeated = False
            return
        self.undigested = 0
        self.head_began = 0.0
        self.in_body = True
        self.body_bytes, self.body_seconds = 0, 0.0
        super().on_headers_complete()
        if not self.cycle.keep_alive:
            self.cycle.transport = LingeringTransport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self.undigested = 0
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # its body follows
            return
        self.undigested = 0
        self.in_body = False
        super().on_message_complete()
        if self.linger_until:
            self.transport.close()
        elif self.cycle.response_complete:  # refused early: reading the body has ended the time of the next request
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def close_after_body(self) -> None:
        """Close the connection, once its client has sent the body of its request."""
        if self.in_body:
            self.linger_until = self.loop.time() + LINGER_SECONDS
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self.header_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self.refuse(431)
        elif self.in_body and self._is_answered():
            self.transport.close()
        else:
            super().send_400_response(msg)

    def refuse(self, status: int) -> None:
        """Answer with a status alone where no answer has begun, and close the connection."""
        if not self._is_answered():
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def _is_answered(self) -> bool:
        """Return whether the answer to the request that is awaited, or whose body is, has begun."""
        if self.cycle is None:
            return False
        if self.cycle.response_complete:
            return self.in_body
        # A pipelined request's answer comes after others.
        return bool(self.cycle.response_started or self.pipeline or not self.in_body)

    def check(self, now: float, elapsed: float) -> None:
        """Close the connection if its client has been too slow. Called about every `elapsed` seconds."""
        if self.transport is None or self.transport.is_closing():
            return
        self._check_writing(now)
        if self.linger_until and now > self.linger_until:
            self.transport.close()
            return
        idle = self.cycle is None or self.cycle.response_complete
        if self.in_body:
            if not self.flow.read_paused:
                self.body_seconds += elapsed
            allowed = self.limits.head_seconds + self.body_bytes / self.limits.body_bytes_per_second
            if self.body_seconds > allowed:
                self.refuse(408)
        elif self.head_began:
            if now - self.head_began > self.limits.head_seconds and idle:
                self.refuse(408)
        elif idle and self.timeout_keep_alive_task is None:
            self.head_began = now  # bytes arrived that do not begin a message

    def _check_writing(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self.unsent:
            self.unsent, self.unsent_since = unsent, now
        elif now - self.unsent_since > STALLED_SECONDS:
            self.transport.abort()


def sweep(connections: Iterable[Any], now: float, elapsed: float) -> None:
    """Close the connections whose clients are too slow."""
    for connection in list(connections):
        if isinstance(connection, LimitedProtocol):
            connection.check(now, elapsed)


class SweepingServer(uvicorn.Server):
    """A uvicorn server that sweeps its connections; its configuration has `limited` as `http`."""

    swept_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self.swept_at >= 1.0:
            sweep(self.server_state.connections, now, min(2.0, now - self.swept_at))
            self.swept_at = now
        return await super().on_tick(counter)


def limited(settings: Settings, base: type[LimitedProtocol] = LimitedProtocol) -> type[LimitedProtocol]:
    """Return a protocol class for uvicorn with the limits of the settings."""
    return type(base.__name__, (base,), {"limits": ConnectionLimits.of(settings)})
