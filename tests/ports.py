"""Ports for the servers that tests start."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator


def _ports_of_this_process() -> Iterator[int]:
    """Yield ports below those that the kernel gives to connections, which are no other test process's."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first = 20_000 + 1_500 * process
    begin = os.getpid() * 97 % 1_500  # far from that of a run that has begun at the same time
    return itertools.cycle([*range(first + begin, first + 1_500), *range(first, first + begin)])


_ports = _ports_of_this_process()


def free_ports(count: int) -> list[int]:
    """Return free ports that are reserved for this test process."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def free_port() -> int:
    """Return one of them."""
    (port,) = free_ports(1)
    return port


def listens(port: int) -> bool:
    """Whether a server accepts connections on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
