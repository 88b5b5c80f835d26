"""HTTP server of the prediction protocols: an ASGI layer in front of the operator's routes, under uvicorn."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI

from fitserve import logs, tracing
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from services.connections import limited
from services.http.app import Server, make_server
from services.http.auth import check_local
from services.http.instrumentation import valid_request_id
from services.predict.protocols import find_protocol
from services.predict.protocols.transport import (
    COMPRESSED_BYTES,
    ClientGone,
    HttpRequest,
    HttpResponse,
    MethodNotAllowed,
    Receive,
    Send,
    WireProtocol,
    prediction_headers,
)
from services.predict.server.fast_lane import protocol_class
from services.predict.serving.prediction_service import PredictionService

log = logging.getLogger(__name__)
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class ProtocolMiddleware:
    """Answers the protocols' paths; everything else goes on to `app`."""

    def __init__(self, app: AsgiApp, service: PredictionService) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        protocol = find_protocol(scope["path"]) if scope["type"] == "http" else None
        if protocol is None:
            await self.app(scope, receive, send)
            return
        request = HttpRequest(self.service, scope, receive)
        request_id = valid_request_id(request.headers.get(b"x-request-id"))
        if request_id is None and not tracing.is_on():
            await self._respond(protocol, request, send)
        else:
            await self._respond_observed(protocol, request, send, request_id)

    async def _respond_observed(
        self, protocol: WireProtocol, request: HttpRequest, send: Send, request_id: str | None
    ) -> None:
        """Respond, with a span, and with a log line if the client gave a request id."""

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start" and request_id is not None:
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        parent = request.header(b"traceparent")
        with logs.bound(request_id=request_id), tracing.span(request.method, parent or None, "server") as span:
            operation, status = await self._respond(protocol, request, send_with_id)
            model, now = request.model, time.perf_counter()
            run = None if model is None else model.manifest.get("run")
            span.rename(operation)
            span.set(http_status=status, run_id=run)
            if model is not None:
                span.set(model_model=model.name, model_version=model.version)
            span.set(**{f"seconds_{phase}": seconds for phase, seconds in request.phases(now)})
            if request_id is not None:
                details = {} if model is None else {"model": model.name, "version": model.version, "run": run}
                ms = round((now - request.started_at) * 1000, 2)
                log.info("prediction", extra={"operation": operation, "status": status, "ms": ms, **details})

    async def _respond(self, protocol: WireProtocol, request: HttpRequest, send: Send) -> tuple[str, int]:
        """Respond to one request, count it, and return its operation and status."""
        operation = "unmatched"
        try:
            route = protocol.find_route(request.path)
            if request.method not in route.methods:
                expected = ", ".join(route.methods)
                detail = f"{request.method} is not for this path."
                raise MethodNotAllowed(detail, expected=expected, fix=route.instead)
            if not self.service.access.required:
                check_local(request.headers)
            operation, request.selector = route.operation, route.selector
            response = await request.run(route.handle)
            response.headers = prediction_headers(request) + response.headers
            if len(response.body) > COMPRESSED_BYTES and (encoding := request.answer_encoding) is not None:
                await self.service.loop.run_in_executor(self.service.executor, response.encode, encoding)
        except FitserveError as error:
            self.service.counters.count_refusal(operation, error)
            response = HttpResponse.error(error)
        status = response.status
        if status != ClientGone.status:
            try:
                await response.send(send, request.method == "HEAD")
            except (RuntimeError, OSError):  # uvloop's: the client has closed the connection meanwhile
                status = ClientGone.status
        request.count(protocol.name, operation, status)
        return operation, status


def make_prediction_server(app: FastAPI, settings: Settings) -> Server:
    """Return the server of one process; without TLS its HTTP protocol is the fast lane."""
    protocol = protocol_class(app.state.service) if settings.tls_certificate is None else limited(settings)
    return make_server(
        app.state.protocol_app,
        settings,
        port=settings.predict_port,
        http=protocol,
        ws="none",
        lifespan="on",
        headers=[
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ],  # for the fast lane's answers as well
        proxy_headers=False,
        backlog=2048,
    )


def listen(settings: Settings) -> socket.socket:
    """Return the HTTP socket; with several processes the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.predict_processes > 1:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((settings.host, settings.predict_port))
    listening.set_inheritable(False)
    return listening
