"""A TCP proxy whose connections break."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def breaking_proxy(base_url: str, *, up: Sequence[int] = (), down: Sequence[int] = ()) -> Iterator[str]:
    """Yield another address of the server, whose first connections break after so many bytes sent, or received.

    The next connection that reaches the first number of `up` (or `down`) breaks and uses it up; then all hold.
    """
    host, port = base_url.removeprefix("http://").split(":")
    breaks = {"up": list(up), "down": list(down)}
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, limits: list[int]) -> None:
        moved = 0
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                moved += len(data)
                if limits and moved >= limits[0]:
                    limits.pop(0)
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()  # else the sender would wait for a reader forever

    def serve() -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection((host, int(port)))
                threading.Thread(target=pump, args=(here, there, breaks["up"]), daemon=True).start()
                threading.Thread(target=pump, args=(there, here, breaks["down"]), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        assert not breaks["up"] + breaks["down"], "no connection broke: nothing was tested"
