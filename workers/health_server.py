"""HTTP server of /metrics, /livez and /readyz for processes that are not web services."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import Engine, text

from fitserve import db, telemetry
from fitserve.readiness import BoundedCheck, ReadinessCheck

log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error, unless the client disconnected before it got its response."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.error("a probe failed", exc_info=True)


def serve(host: str, port: int, readiness: Mapping[str, ReadinessCheck]) -> ThreadingHTTPServer:
    """Serve in a thread. `readiness` holds the named checks of /readyz."""
    bounded = {name: BoundedCheck(name, check) for name, check in readiness.items()}

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, telemetry.exposition(), telemetry.CONTENT_TYPE)
            elif path == "/livez":
                self._answer(200, b'{"status": "alive"}')
            elif path == "/readyz":
                outcomes = {name: check.outcome() for name, check in bounded.items()}
                ready = all(outcome == "ok" for outcome in outcomes.values())
                body = {"status": "ready" if ready else "not ready", "checks": outcomes}
                self._answer(200 if ready else 503, json.dumps(body).encode())
            else:
                self._answer(404, b'{"title": "Not found", "status": 404}', "application/problem+json")

        def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log probes."""

    server = _Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server


def database_check(engine: Engine) -> Callable[[], bool]:
    def answers() -> bool:
        with db.reading(engine) as session:
            return session.scalar(text("SELECT 1")) == 1

    return answers
