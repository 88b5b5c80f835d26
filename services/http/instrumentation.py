"""Middleware around every request: request id, security headers, telemetry, a trace span and a line in the log."""

from __future__ import annotations

import logging
import re
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitserve import logs, telemetry, tracing
from fitserve.ids import new_id

log = logging.getLogger("fitserve.access")
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_API_PATHS = re.compile(r"/(api|v[0-9]+)(/|$)")  # paths of the API, and of the prediction protocols
PROBES = frozenset({"/metrics", "/livez", "/readyz"})  # not logged

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
}


class RequestInstrumentation:
    """Pure ASGI middleware, so that bodies are neither buffered nor copied."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = valid_request_id(headers.get(b"x-request-id")) or new_id("req")
        scope["request_id"] = request_id
        status, received, sent = 500, 0, 0
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent
            sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if _API_PATHS.match(scope["path"]):  # responses for a key must not be cached
                    headers.setdefault("Cache-Control", "no-store")
                elif headers.get("Content-Type", "").startswith("text/html"):  # the page refers to one release's files
                    headers.setdefault("Cache-Control", "no-cache")
                for name, value in scope.get("rate_limit_headers", {}).items():
                    headers[name] = value
            await send(message)

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        telemetry.HTTP_IN_FLIGHT.inc()
        with logs.bound(request_id=request_id), tracing.span(scope["method"], parent, "server") as span:
            try:
                await self.app(scope, counted_receive, send_with_headers)
            finally:
                telemetry.HTTP_IN_FLIGHT.dec()
                template = route_template(scope)  # known only now, because routing happens in the inner application
                _record(scope, template, status, time.perf_counter() - started, received, sent)
                span.rename(f"{scope['method']} {template}")
                span.set(http_route=template, http_status=status, request_id=request_id)
                if status >= 500:
                    span.fail(str(status))


def route_template(scope: Scope) -> str:
    """Return the path template of the matched route, or `unmatched`: few distinct values, so usable as a label."""
    # For a route of an included router, FastAPI keeps the path with the router's prefix in its own part of the scope.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(path) if path else "unmatched"


def valid_request_id(header: bytes | None) -> str | None:
    """Return the client's request id if it is safe to log and to send back, else None."""
    text = (header or b"").decode("latin-1")
    return text if _VALID_ID.fullmatch(text) else None


def _record(scope: Scope, template: str, status: int, seconds: float, received: int, sent: int) -> None:
    """Count a request and write its line to the access log."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    telemetry.HTTP_REQUESTS.labels(template, method, str(status)).inc()
    telemetry.HTTP_SECONDS.labels(template, method, f"{status // 100}xx").observe(seconds)
    telemetry.HTTP_RECEIVED.labels(template).inc(received)
    telemetry.HTTP_SENT.labels(template).inc(sent)
    if scope["path"] in PROBES:
        return
    caller = scope.get("caller")
    log.info(
        "request",
        extra={
            "request_id": scope["request_id"],
            "method": scope["method"],
            "route": template,
            "path": scope["path"][:500],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "key": caller.key_id if caller else None,
        },
    )
