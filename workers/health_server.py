"""/metrics, /livez and /readyz of a process that is not a web service, with http.server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import Engine, text

from fitserve import db, telemetry

log = logging.getLogger(__name__)


def serve(host: str, port: int, ready: Mapping[str, Callable[[], bool]]) -> ThreadingHTTPServer:
    """Answer in a thread of its own. `ready` holds the named checks of /readyz; one that raises is not ready."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, telemetry.exposition(), telemetry.CONTENT_TYPE)
            elif path == "/livez":
                self._answer(200, b'{"status": "alive"}')
            elif path == "/readyz":
                checks = {name: _passes(check) for name, check in ready.items()}
                all_pass = all(checks.values())
                body = {"status": "ready" if all_pass else "not ready", "checks": checks}
                self._answer(200 if all_pass else 503, json.dumps(body).encode())
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

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server


def database_check(engine: Engine) -> Callable[[], bool]:
    def answers() -> bool:
        with db.reading(engine) as session:
            return session.scalar(text("SELECT 1")) == 1

    return answers


def _passes(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:
        return False
