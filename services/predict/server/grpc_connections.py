"""Limits on gRPC connections: their number per address, and the minimum speed of messages.

The gRPC library exposes neither, so they are read from the sockets themselves, through /proc (Linux only).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fitserve.errors import DeadlineExceeded, Malformed, TooMany
from fitserve.settings import Settings
from services.connections import is_within

LOOK_SECONDS = 1.0  # between two checks
MIN_PLACES = 2_048  # for calls that wait for their messages, and for open streams
FEW_CALLS = 16  # a caller always has this many places
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
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def take(self, context: Any) -> str | None:
        """Take a place for a call and return its address, for `give_back`; None if there is no place."""
        peer = peer_of(context)
        address = peer[0] if peer is not None else ""
        with self._lock:
            if self._taken.total() >= self._most or self._taken[address] >= self._most_of_address:
                return None
            self._taken[address] += 1
        return address

    def give_back(self, address: str) -> None:
        with self._lock:
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]


@dataclass(eq=False, slots=True)
class WaitingCall:
    """A call whose message has not arrived yet, or an open stream."""

    caller: Hashable
    context: Any
    seconds: float  # that its client has
    began: float
    received: int | None = None  # bytes over its connection at the first check
    refusal: str = ""  # why it was ended


class WaitingCalls:
    """Calls whose message has not arrived yet, with limits on their number per caller, their time and their speed.

    Open streams count among their caller's calls.
    """

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._most, self._seconds = settings.grpc_waiting_calls, settings.grpc_message_seconds
        self._head_seconds, self._bytes_per_second = settings.head_seconds, settings.body_bytes_per_second
        self._connections = connections
        self.places = max(MIN_PLACES, 2 * self._most)  # of all callers together: each place is a thread
        self._lock = threading.Lock()
        self._few = min(FEW_CALLS, self._most)
        self._calls: dict[Hashable, dict[WaitingCall, None]] = {}  # by caller, each one's oldest first

    def enter(self, call: WaitingCall) -> None:
        """Add a call, until `leave`. Raises TooMany."""
        with self._lock:
            own = self._calls.get(call.caller)
            if own is None:
                own = self._calls[call.caller] = {}
            elif len(own) >= self._few:
                # A caller leaves as many places free as it takes, so that none takes them all.
                free = self.places - sum(map(len, self._calls.values()))
                if len(own) >= min(self._most, free):
                    raise TooMany("Too many calls of this caller wait for their messages.", retry_after=1)
            own[call] = None

    def leave(self, call: WaitingCall) -> None:
        """Remove a call."""
        with self._lock:
            del self._calls[call.caller][call]

    def message(self, caller: Hashable, messages: Iterator[bytes], context: Any) -> bytes:
        """Return a call's message as bytes. Raises TooMany, Malformed, DeadlineExceeded, and RpcError."""
        data: bytes | None = self.next_of(messages, WaitingCall(caller, context, self._seconds, time.monotonic()))
        if data is None:
            raise Malformed("The call has no message.")
        return data

    def next_of(self, messages: Iterator[Any], call: WaitingCall) -> Any:
        """Return a call's next message, None if it has no more. Raises TooMany, DeadlineExceeded.

        Raises RpcError, which is gRPC's own, if the client has left: let it pass.
        """
        self.enter(call)
        try:
            message = next(messages, None)
        finally:
            self.leave(call)
        if call.refusal:
            raise DeadlineExceeded(call.refusal)
        return message

    async def watch(self, look: Callable[[], None]) -> None:
        """Check connections and calls, and call `look`, about once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._connections.look()
            self._check(time.monotonic())
            look()

    def _check(self, now: float) -> None:
        """End the calls whose message arrives too late or too slowly."""
        received: dict[Peer | None, int | None] = {}  # calls share connections
        with self._lock:
            self._calls = {caller: own for caller, own in self._calls.items() if own}
            calls = [call for own in self._calls.values() for call in own]
        for call in calls:
            waited = now - call.began
            if waited >= LOOK_SECONDS and call.seconds < math.inf and not call.refusal:
                self._check_one(call, waited, received)

    def _check_one(self, call: WaitingCall, waited: float, received: dict[Peer | None, int | None]) -> None:
        peer = peer_of(call.context)
        if peer not in received:
            received[peer] = self._connections.received(peer)
        bytes_now = received[peer]
        if call.received is None or bytes_now is None:
            call.received = bytes_now
        elif waited > self._head_seconds + (bytes_now - call.received) / self._bytes_per_second:
            call.refusal = f"The message came more slowly than {self._bytes_per_second} bytes a second."
        if waited > call.seconds:
            call.refusal = f"The message did not come within {call.seconds:g} s."
        if call.refusal:
            _end_wait(call.context)


def _end_wait(context: Any) -> None:
    """Let a thread that waits for a call's message go on without it.

    gRPC has no function for this: the only one that ends a wait from elsewhere cancels the call, and then the client
    is not told why. So this sets what gRPC sets when a message comes, and cancels where a release of gRPC differs.
    """
    try:
        state = context._state
        with state.condition:
            state.request = b""
            state.condition.notify_all()
    except AttributeError:
        context.cancel()
