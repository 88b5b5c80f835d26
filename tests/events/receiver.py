"""A local receiver of webhooks, which answers as a test configures it and records its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What came, and what to answer: the statuses in turn, the last one from then on."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [204])
    retry_after: str | None = None
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # cleared: requests wait

    def __post_init__(self) -> None:
        self.hold.set()

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.requests]


@contextmanager
def receiving(**options: Any) -> Iterator[Receiver]:
    """Serve a receiver."""
    receiver = Receiver(**options)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.hold.wait()
            status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            if receiver.retry_after is not None:
                self.send_header("Retry-After", receiver.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
