"""What the fake trainer does instead of TensorFlow's collectives: an exchange of one byte with each helper an epoch."""

from __future__ import annotations

import contextlib
import socket
import time

from workers.trainer.interface import GangBroken, GangPlace, Reporter, TrainingStopped

MEET_SECONDS = 60.0
ANSWER_SECONDS = 4.0  # from the silence of another to its loss
_NEXT, _END, _STAYS, _LEAVES = b"n", b"e", b"s", b"l"


class Leader:
    """The leader's side."""

    def __init__(self, place: GangPlace) -> None:
        self.helpers: list[socket.socket] = []
        port = int(place.addresses[0].rpartition(":")[2])
        with _broken(), socket.create_server(("", port)) as server:
            server.settimeout(MEET_SECONDS)
            for _ in place.addresses[1:]:
                helper, _ = server.accept()
                helper.settimeout(ANSWER_SECONDS)
                self.helpers.append(helper)

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
    host, _, port = place.addresses[0].rpartition(":")
    deadline = time.monotonic() + MEET_SECONDS
    while True:
        try:
            leader = socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise GangBroken("the leader is not there") from error
            time.sleep(0.05)
    with _broken(), leader:
        while _received(leader) != _END:
            report.progress()
            leader.sendall(_LEAVES if report.stop() else _STAYS)
    if reason := report.stop():
        raise TrainingStopped(reason)


def _received(other: socket.socket) -> bytes:
    data = other.recv(1)
    if not data:
        raise ConnectionResetError("it is gone")
    return data


class _broken(contextlib.AbstractContextManager[None]):
    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise GangBroken(f"{type(error).__name__}: {error}") from error
