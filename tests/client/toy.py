"""A real HTTP server on loopback that answers from a script, and breaks connections when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[["Handler", Seen], None]


@dataclass
class Toy:
    """The server's address, what it saw, and what it says next: one entry of `script` for each request."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    script: list[Answering] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    toy: Toy

    def handle_one(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self._chunked() if self.headers.get("transfer-encoding") == "chunked" else self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        self.toy.seen.append(seen)
        self.toy.script.pop(0)(self, seen)

    def _chunked(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def log_message(self, *_: Any) -> None:
        pass


def says(status: int, body: Any = None, **headers: str) -> Answering:
    """Answers with JSON."""

    def answer(handler: Handler, _seen: Seen) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/problem+json" if status >= 400 else "application/json")
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def streams(*chunks: bytes, cut: bool = False) -> Answering:
    """An event stream; `cut` breaks the connection in the middle of a chunk."""

    def answer(handler: Handler, _seen: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            handler.wfile.flush()
        if cut:
            handler.wfile.write(b"ff\r\nhalf a chunk")
            handler.wfile.flush()
            hang_up(handler, _seen)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def hang_up(handler: Handler, _seen: Seen) -> None:
    """Says nothing and closes."""
    handler.close_connection = True
    handler.connection.shutdown(2)


@contextmanager
def toy_server() -> Iterator[Toy]:
    """A running toy."""
    toy = Toy()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"toy": toy}))
    server.daemon_threads = True
    toy.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield toy
    finally:
        server.shutdown()
        server.server_close()
