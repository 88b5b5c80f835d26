"""What the fake trainer does instead of TensorFlow's collectives: an exchange of one byte with each helper an epoch."""

from __future__ import annotations

import contextlib
import socket
import time

from workers.trainer.interface import GangBroken, GangPlace, Reporter, TrainingStopped

MEET_SECONDS = 60.0
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 4.0  # from the silence of another to its loss
_NEXT, _END, _STAYS, _LEAVES = b"n", b"e", b"s", b"l"


class Leader:
    """The leader's side. `meet`: seconds in which every helper must answer."""

    def __init__(self, place: GangPlace, meet: float = MEET_SECONDS) -> None:
        deadline = time.monotonic() + meet
        self.helpers = [_connected(address, deadline) for address in place.addresses[1:]]

    def epoch(self) -> bool:
        """Exchange with every helper; return whether one wants to go. Raises GangBroken."""
        with _broken():
            for helper in self.helpers:
                helper.sendall(_NEXT)
            return _LEAVES in [_received(helper) for helper in self.helpers]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            for helper in self.helpers:
                helper.sendall(_END)


def follow(place: GangPlace, report: Reporter) -> None:
    """A helper's side, to its end. Raises GangBroken, TrainingStopped."""
    port = int(place.addresses[place.rank].rpartition(":")[2])
    with _broken(), socket.create_server(("", port)) as server:
        server.settimeout(MEET_SECONDS)
        leader, _ = server.accept()
        leader.settimeout(ANSWER_SECONDS)
    with _broken(), leader:
        while _received(leader) != _END:
            report.progress()
            leader.sendall(_LEAVES if report.stop() else _STAYS)
    if reason := report.stop():
        raise TrainingStopped(reason)


def _connected(address: str, deadline: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    while True:
        try:
            helper = socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)
            helper.settimeout(ANSWER_SECONDS)
            return helper
        except OSError as error:
            if time.monotonic() > deadline:
                raise GangBroken(f"nothing answers at {address}", [address]) from error
            time.sleep(0.05)


def _received(other: socket.socket) -> bytes:
    data = other.recv(1)
    if not data:
        raise ConnectionResetError("it is gone")
    return data


class _broken(contextlib.AbstractContextManager[None]):
    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise GangBroken(f"{type(error).__name__}: {error}") from error
