"""Limits on gRPC connections: their number per address, and the minimum speed of messages.

The gRPC library exposes neither, so they are read from the sockets themselves, through /proc (Linux only).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc.aio

from fitserve.errors import DeadlineExceeded, Malformed, TooMany
from fitserve.settings import Settings
from services.connections import is_within

LOOK_SECONDS = 1.0  # between two checks
_DESCRIPTORS = "/proc/self/fd"
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_TCP_INFO_BYTES, _RECEIVED = 136, struct.Struct("@128xQ")  # `tcpi_bytes_received` of Linux's struct tcp_info

Peer = tuple[str, int]  # address and port


def peer_of(context: Any) -> Peer | None:
    """Return a call's client address; gRPC writes `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    address, _, port = unquote(context.peer().partition(":")[2]).rpartition(":")
    return (address.strip("[]"), int(port)) if port.isdigit() else None


class Connections:
    """The connections to one port that this process has accepted, as of the last check."""

    def __init__(self, settings: Settings) -> None:
        self._port, self._trusted = settings.grpc_port, settings.trusted_proxies
        self._per_address = settings.connections_per_address
        self._known: dict[tuple[int, str], Peer | None] = {}  # by descriptor and inode; None: another socket
        self._descriptors: dict[Peer, int] = {}

    def look(self) -> None:
        """Find the connections, and close the newest ones of addresses that exceed the limit."""
        known: dict[tuple[int, str], Peer | None] = {}
        with contextlib.suppress(OSError):  # no /proc
            for entry in os.scandir(_DESCRIPTORS):
                with contextlib.suppress(OSError):  # closed meanwhile
                    target = os.readlink(entry.path)  # noqa: PTH115 - a path's object costs more than the call
                    if target.startswith("socket:"):
                        key = int(entry.name), target
                        known[key] = self._known[key] if key in self._known else self._peer(key[0])
        # Checked oldest first, so that an address keeps its existing connections.
        known = {**{key: peer for key, peer in self._known.items() if key in known}, **known}
        self._known, self._descriptors = known, {}
        counts: Counter[str] = Counter()
        for (descriptor, _), peer in known.items():
            if peer is None:
                continue
            self._descriptors[peer] = descriptor
            counts[peer[0]] += 1
            if counts[peer[0]] > self._per_address and not is_within(peer[0], self._trusted):
                self._close(peer)

    def received(self, peer: Peer | None) -> int | None:
        """Return how many bytes a connection has received; None if unknown."""
        descriptor = self._descriptors.get(peer) if peer is not None else None
        if descriptor is None:
            return None
        with contextlib.suppress(OSError, struct.error), _own(descriptor) as connection:
            if _peer_of_socket(connection) == peer:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                return int(_RECEIVED.unpack(info)[0])
        return None

    def _close(self, peer: Peer) -> None:
        with contextlib.suppress(OSError), _own(self._descriptors.pop(peer)) as connection:
            if _peer_of_socket(connection) == peer:
                connection.shutdown(socket.SHUT_RDWR)

    def _peer(self, descriptor: int) -> Peer | None:
        """Return the peer's address if the descriptor is a connection to our port; None for every other socket."""
        with contextlib.suppress(OSError), _own(descriptor) as connection:
            if connection.family in _INTERNET and connection.getsockname()[1] == self._port:
                return _peer_of_socket(connection)
        return None


@contextlib.contextmanager
def _own(descriptor: int) -> Iterator[socket.socket]:
    """Duplicate one of gRPC's descriptors: at any time, gRPC may close it and the number be reused."""
    own = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=own)
    except OSError:  # no socket any more
        os.close(own)
        raise
    with connection:
        yield connection


def _peer_of_socket(connection: socket.socket) -> Peer | None:
    """Return the peer's address; an IPv4 address mapped into IPv6 is returned as IPv4.

    None for a socket of another family, whose addresses have no ports.
    """
    if connection.family not in _INTERNET:
        return None
    address, port = connection.getpeername()[:2]
    return address.removeprefix("::ffff:"), port


class Places:
    """Places for streams that need no key: their number in all, and of one address."""

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most, self._most_of_address = most, most_of_address
        self._taken: Counter[str] = Counter()

    def take(self, context: Any) -> str | None:
        """Take a place for a call and return its address, for `give_back`; None if there is no place.

        `give_back` needs no context: the call's end may be noticed after gRPC has freed it, and asking a freed call for
        its peer is a segmentation fault.
        """
        peer = peer_of(context)
        address = peer[0] if peer is not None else ""
        if self._taken.total() >= self._most or self._taken[address] >= self._most_of_address:
            return None
        self._taken[address] += 1
        return address

    def give_back(self, address: str) -> None:
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]


@dataclass(eq=False, slots=True)
class WaitingCall:
    """A call whose message has not arrived yet."""

    task: asyncio.Task[Any]
    context: Any
    began: float
    received: int | None = None  # bytes over its connection at the first check
    refusal: str = ""  # why it was ended


class WaitingCalls:
    """Calls whose message has not arrived yet, with limits on their number per caller, their time and their speed."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._most, self._seconds = settings.grpc_waiting_calls, settings.grpc_message_seconds
        self._head_seconds, self._bytes_per_second = settings.head_seconds, settings.body_bytes_per_second
        self._connections = connections
        self._counts: dict[Hashable, int] = {}
        self._calls: dict[WaitingCall, None] = {}  # the oldest first

    def enter(self, caller: Hashable) -> None:
        """Count a waiting call, until `leave`. Raises TooMany."""
        waiting = self._counts.get(caller, 0)
        if waiting >= self._most:
            raise TooMany("Too many calls of this caller wait for their messages.", retry_after=1)
        self._counts[caller] = waiting + 1

    def leave(self, caller: Hashable) -> None:
        waiting = self._counts.pop(caller) - 1
        if waiting:
            self._counts[caller] = waiting

    async def message(self, caller: Hashable, context: Any) -> bytes:
        """Return a call's message as bytes. Raises TooMany, Malformed, DeadlineExceeded."""
        self.enter(caller)
        task = asyncio.current_task()
        assert task is not None
        call = WaitingCall(task, context, time.monotonic())
        self._calls[call] = None
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if not call.refusal:  # the client has left, or the server stops
                raise
            task.uncancel()
            raise DeadlineExceeded(call.refusal) from None
        finally:
            del self._calls[call]
            self.leave(caller)
        if data is grpc.aio.EOF:
            raise Malformed("The call has no message.")
        return bytes(data)

    async def watch(self) -> None:
        """Check connections and calls about once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._connections.look()
            self._check(time.monotonic())

    def _check(self, now: float) -> None:
        """Abort the calls whose message arrives too late or too slowly."""
        received: dict[Peer | None, int | None] = {}  # calls share connections
        for call in self._calls:
            waited = now - call.began
            if waited < LOOK_SECONDS:
                return
            if call.refusal:
                continue
            peer = peer_of(call.context)
            if peer not in received:
                received[peer] = self._connections.received(peer)
            bytes_now = received[peer]
            if call.received is None or bytes_now is None:
                call.received = bytes_now
            elif waited > self._head_seconds + (bytes_now - call.received) / self._bytes_per_second:
                call.refusal = f"The message came more slowly than {self._bytes_per_second} bytes a second."
            if waited > self._seconds:
                call.refusal = f"The message did not come within {self._seconds:g} s."
            if call.refusal:
                call.task.cancel()
