"""A real HTTP server on loopback that answers from a script, and can break connections."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ReceivedRequest:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[["Handler"], None]


@dataclass
class ScriptedServer:
    """The server's address, the requests that it received, and its next replies, one for each request."""

    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    script: list[Reply] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: ScriptedServer

    def handle_one(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self._chunked() if self.headers.get("transfer-encoding") == "chunked" else self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.scripted.requests.append(ReceivedRequest(self.command, self.path, headers, body))
        self.scripted.script.pop(0)(self)

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def log_message(self, *_: Any) -> None:
        pass


def json_reply(status: int, body: Any = None, **headers: str) -> Reply:
    """Reply with JSON."""

    def reply(handler: Handler) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/problem+json" if status >= 400 else "application/json")
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def event_stream(*chunks: bytes, cut: bool = False) -> Reply:
    """Reply with an event stream; `cut` breaks the connection in the middle of a chunk."""

    def reply(handler: Handler) -> None:
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
            hang_up(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return reply


def hang_up(handler: Handler) -> None:
    """Close the connection without a reply."""
    handler.close_connection = True
    handler.connection.shutdown(2)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Run a scripted server within the block."""
    scripted = ScriptedServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"scripted": scripted}))
    server.daemon_threads = True
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
