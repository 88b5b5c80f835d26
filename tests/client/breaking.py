"""A way to a server on which connections break."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def breaking(base_url: str, *, up: Sequence[int] = (), down: Sequence[int] = ()) -> Iterator[str]:
    """Another address of the server, where the first connections break after so many bytes sent, or received.

    A connection that stays below its number keeps it; later connections hold.
    """
    host, port = base_url.removeprefix("http://").split(":")
    ways = {"up": list(up), "down": list(down)}
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, way: list[int]) -> None:
        moved = 0
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                moved += len(data)
                if way and moved >= way[0]:
                    way.pop(0)
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()  # else what is still sent here would wait for a reader for ever

    def serve() -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection((host, int(port)))
                threading.Thread(target=pump, args=(here, there, ways["up"]), daemon=True).start()
                threading.Thread(target=pump, args=(there, here, ways["down"]), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        assert not ways["up"] + ways["down"], "no connection broke: nothing was tested"
