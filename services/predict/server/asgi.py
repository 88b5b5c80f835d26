"""The prediction protocols over HTTP, as one ASGI layer in front of the operator's routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fitserve import logs, tracing
from fitserve.errors import FitserveError
from fitserve.tracing import Span
from services.predict.protocols.answers import error_answer
from services.predict.server.http import Call, ClientGone, Receive, Send
from services.predict.server.routes import route
from services.predict.serving.prediction_ids import HEADER, keep
from services.predict.serving.prediction_service import Service
from services.predict.serving.timing import TIMING, Timing
from services.shell.instrumentation import valid_request_id

log = logging.getLogger(__name__)
_ID = HEADER.encode()
_CLIENT_GONE = 499  # as nginx counts it
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class DataPlane:
    """`/v1/...` and `/v2...` are answered here; everything else goes on to `app`."""

    def __init__(self, app: AsgiApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _ours(scope["path"]):
            await self.app(scope, receive, send)
            return
        timing = Timing()
        TIMING.set(timing)
        loop = asyncio.get_running_loop()
        headers = dict(scope["headers"])
        most = self.service.settings.limits.predict_bytes
        call = Call(scope["method"], scope["path"], headers, receive, loop.time(), most)
        request_id = valid_request_id(headers.get(b"x-request-id"))
        if request_id is None and not tracing.is_on():
            await self._answer(call, timing, send)
            return
        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        with logs.bound(request_id=request_id), tracing.span(call.method, parent, "server") as span:
            await self._told(call, timing, send, span, request_id)

    async def _told(self, call: Call, timing: Timing, send: Send, span: Span, request_id: str | None) -> None:
        """Answers, and says in a line of the log and a span what was asked of which version, made by which run."""

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start" and request_id is not None:
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        operation, status = await self._answer(call, timing, send_with_id)
        network = timing.network
        run = None if network is None else network.manifest.get("run")
        told = {} if network is None else {"model": network.model, "version": network.version, "run": run}
        now = time.perf_counter()
        span.rename(operation)
        span.tell(http_status=status, run_id=run, **{f"model_{key}": told[key] for key in told if key != "run"})
        span.tell(**{f"seconds_{phase}": seconds for phase, seconds in timing.phases(now)})
        if request_id is not None:
            ms = round((now - timing.begun) * 1000, 2)
            log.info("prediction", extra={"operation": operation, "status": status, "ms": ms, **told})

    async def _answer(self, call: Call, timing: Timing, send: Send) -> tuple[str, int]:
        """Answers one request; its operation and status."""
        counters = self.service.counters
        found, admitted = None, False
        try:
            found = route(call.method, call.path)
            self.service.admit()
            admitted = True
            answer = await found.handle(self.service, call)
            id = keep(self.service, call.header(_ID), call.header(b"authorization"), timing)
            if id is not None:
                answer.headers.append((_ID, id.encode()))
        except ClientGone:
            gone = (found.protocol, found.operation) if found else ("none", "none")
            counters.answered(*gone, _CLIENT_GONE, 0.0, Timing())
            return gone[1], _CLIENT_GONE
        except FitserveError as error:
            answer = error_answer(error)
            counters.refuse(found.operation if found else "", error)
        except Exception as error:
            log.error("unexpected error", exc_info=error)
            answer = error_answer(FitserveError("Something went wrong on our side."))
        finally:
            if admitted:
                counters.in_flight -= 1
        protocol = found.protocol if found else ("tfserving" if call.path.startswith("/v1") else "oip")
        status = answer.status
        try:
            await answer.send(send, call.method == "HEAD")
        except (RuntimeError, OSError):  # uvloop: the client has closed the connection meanwhile
            status = _CLIENT_GONE
        operation = found.operation if found else "unmatched"
        counters.answered(protocol, operation, status, time.perf_counter() - timing.begun, timing)
        return operation, status


def _ours(path: str) -> bool:
    return path.startswith(("/v1/", "/v2/")) or path == "/v2"
